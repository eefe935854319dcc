"""Tables from CSV and Parquet files: one time series of rows per client, checked to the last cell.

Every refusal is one line that names the file, the line (CSV, counted from 1 as editors do) or row (Parquet), and the
column. What was read is cached (`fedsim.data.cache`), 8 bytes a number, under a digest of the files' contents and of
the settings that it depends on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.data.cache import Arrays, cached_arrays
from fedsim.data.table_columns import Floats, Layout, as_numbers, as_texts, as_times, refuse
from fedsim.data.table_files import File, digest, find_files, read_file, shorten
from fedsim.errors import FieldError, UserError, did_you_mean

LARGEST = 1e30
"""Largest magnitude of a number: its square still fits 64 bits, and it fits 32."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """The rows of all clients, one client after another, each in the order of time.

    Attributes:
        values: ``[R, M]`` the numeric columns, the features first.
        columns: their M names.
        num_features: how many of them are features.
        labels: ``[R]`` index into `label_names`; empty if the target is a number.
        sizes: ``[N]`` rows of each client, perhaps none.
        clients: N names, in the order of their first appearance.
        label_names: the labels that occur, in order.
        natural: whether the files say which rows are whose.
        notes: what the user should know about what was left out or filled in.
    """

    values: Floats
    columns: tuple[str, ...]
    num_features: int
    labels: Ints
    sizes: Ints
    clients: tuple[str, ...]
    label_names: tuple[str, ...]
    natural: bool
    notes: tuple[str, ...]


@dataclass
class _Rows:
    """What one file gives, row by row in its order."""

    file: File
    names: tuple[str, ...]  # of the features
    values: Floats
    labels: NDArray[np.object_] | None
    clients: NDArray[np.object_] | None
    times: NDArray[np.generic] | None
    notes: list[str] = field(default_factory=list)


def read_table(layout: Layout) -> Table:
    """Read, check and order the rows of all files, or take them from the cache.

    Raises:
        UserError: naming the file, the line and the column.
    """
    files = find_files(layout.path)
    identity = repr((layout, [(str(path), digest(layout.path, path)) for path in files]))
    arrays = cached_arrays("csv", identity, ("values", "labels", "sizes", "words"), lambda: _make(files, layout))
    words = json.loads(arrays["words"].tobytes())
    return Table(
        values=arrays["values"].astype(np.float64, copy=False),
        columns=tuple(words["columns"]),
        num_features=words["num_features"],
        labels=arrays["labels"].astype(np.int64, copy=False),
        sizes=arrays["sizes"].astype(np.int64, copy=False),
        clients=tuple(words["clients"]),
        label_names=tuple(words["labels"]),
        natural=words["natural"],
        notes=tuple(words["notes"]),
    )


def _make(paths: list[Path], layout: Layout) -> Arrays:
    """Read the files into the arrays that are cached."""
    if all(path.suffix.lower() == ".parquet" for path in paths):
        for name in ("separator", "decimal"):
            if (value := getattr(layout, name)) is not None:
                raise FieldError(f"data.{name}", value, "has an effect only on text, and all files are Parquet")
    parts: list[_Rows] = []
    for path in paths:
        parts.append(_extract(read_file(path, layout.path, layout.separator, layout.decimal, _words(layout)), layout))
        if parts[-1].names != parts[0].names:
            raise UserError(
                f"data.path={layout.path}: {parts[0].file.name} has the numeric columns {shorten(parts[0].names)} and "
                f"{path.name} {shorten(parts[-1].names)}; name those to use with data.feature_columns"
            )
    values = np.concatenate([part.values for part in parts])
    codes, clients = _clients(parts, paths, layout)
    order = np.argsort(codes, kind="stable")
    if layout.time is not None:
        _check_times(parts, order, codes, clients, layout)
    labels = None if parts[0].labels is None else np.concatenate([p.labels for p in parts if p.labels is not None])
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    columns = _numeric_columns(parts[0].names, layout)
    _check_values(parts, values, labels, columns, layout)
    values, codes = values[order], codes[order]
    label_codes, label_names = _encode(labels[order]) if labels is not None else (np.zeros((len(values), 0)), [])
    known = np.ascontiguousarray(np.column_stack([values, label_codes]))  # a missing label is NaN here
    known, codes, note = _fill(known, codes, layout)
    kept_labels = known[:, len(columns)].astype(np.int64) if labels is not None else np.zeros(0, np.int64)
    words = {
        "columns": columns,
        "num_features": len(parts[0].names),
        "clients": clients,
        "labels": label_names,
        "natural": layout.client is not None or len(paths) > 1,
        "notes": notes + note,
    }
    return {
        "values": np.ascontiguousarray(known[:, : len(columns)]),
        "labels": kept_labels,
        "sizes": np.bincount(codes, minlength=len(clients)),
        "words": np.frombuffer(json.dumps(words).encode(), np.uint8),
    }


def _words(layout: Layout) -> set[str]:
    """Columns read as words, not as numbers: client 007 is not client 7, and 0105 may be a fifth of January."""
    names = [layout.client, *(layout.targets if layout.labels else ()), layout.time if layout.time_format else None]
    return {name for name in names if name is not None}


def _numeric_columns(features: Sequence[str], layout: Layout) -> list[str]:
    return [*features, *(name for name in layout.targets if not layout.labels and name not in features)]


# ---------------------------------------------------------------------------------------------------------------------
# one file


def _extract(file: File, layout: Layout) -> _Rows:
    """Take the columns that the layout names out of a file."""
    frame = file.frame
    wanted = {"client_column": [layout.client], "time_column": [layout.time], "target_column": layout.targets}
    for key, keyed in (wanted | {"feature_columns": layout.features or ()}).items():
        for name in keyed:
            if name is not None and name not in frame.columns:
                raise UserError(
                    f"data.{key}={name}: {file.name} has no such column{_near(name, frame.columns)}; it has "
                    f"{shorten(frame.columns)}{file.hint}"
                )
    notes = []
    numbers: dict[str, Floats] = {}
    if layout.features is None:
        aside = {layout.client, layout.time, *(() if layout.keep_targets else layout.targets)}
        texts = []
        for name in frame.columns:
            if name not in aside:
                column = as_numbers(file, name, layout, or_text=True)
                texts.extend([name] if column is None else [])
                numbers |= {} if column is None else {name: column}
        if texts:
            notes.append(f"columns without a number are left out: {shorten(texts)}")
        if not numbers:
            raise UserError(f"data.path={layout.path}: {file.name} has no numeric column to take as a feature")
    names = layout.features or tuple(numbers)
    for name in _numeric_columns(names, layout):
        if name not in numbers:
            column = as_numbers(file, name, layout)
            assert column is not None
            numbers[name] = column
    return _Rows(
        file=replace(file, frame=frame.iloc[:0]),  # all that is needed of it is copied
        names=names,
        values=np.column_stack([numbers[name] for name in _numeric_columns(names, layout)]),
        labels=as_texts(frame[layout.targets[0]]) if layout.labels else None,
        clients=None if layout.client is None else as_texts(frame[layout.client]),
        times=None if layout.time is None else as_times(file, layout.time, layout),
        notes=notes,
    )


def _near(name: str, columns: Iterable[str]) -> str:
    """A hint at the column that was probably meant."""
    same = [column for column in columns if column.casefold() == name.casefold()]
    return did_you_mean(same[0], same) if same else did_you_mean(name, columns)


# ---------------------------------------------------------------------------------------------------------------------
# all files


def _place(parts: list[_Rows], row: int) -> str:
    """Where a row of all files together is, for messages."""
    for part in parts:
        if row < len(part.values):
            return part.file.place(row)
        row -= len(part.values)
    raise AssertionError


def _clients(parts: list[_Rows], paths: list[Path], layout: Layout) -> tuple[Ints, list[str]]:
    """Return ``[R]`` client number of each row, and the clients' names."""
    import pandas as pd

    if layout.client is None:
        return np.repeat(np.arange(len(parts)), [len(part.values) for part in parts]), _file_names(paths)
    names = np.concatenate([part.clients for part in parts if part.clients is not None])
    codes, found = pd.factorize(names)
    if (codes < 0).any():
        where = _place(parts, int((codes < 0).argmax()))
        refuse(layout, f"{where}, column {layout.client!r}: the client is missing")
    return codes.astype(np.int64), [str(name) for name in found]


def _file_names(paths: list[Path]) -> list[str]:
    """A name for each file: its stem, or its place below their common folder where stems are not unique."""
    stems = [_stem(path.name) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return [path.absolute().relative_to(common).as_posix() for path in paths]


def _stem(name: str) -> str:
    name = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    return name.rpartition(".")[0] or name


def _check_times(parts: list[_Rows], order: Ints, codes: Ints, clients: list[str], layout: Layout) -> None:
    """Require that time rises within each client."""
    import pandas as pd

    times = [part.times for part in parts if part.times is not None]
    if len({t.dtype.kind == "M" for t in times}) > 1:
        refuse(layout, f"column {layout.time!r} holds numbers in some files and dates in others")
    time, owner = np.concatenate(times)[order], codes[order]
    same = owner[1:] == owner[:-1]
    wrong = same & (time[1:] <= time[:-1])
    if not wrong.any():
        return
    at = int(wrong.argmax())
    here, before = _place(parts, int(order[at + 1])), _place(parts, int(order[at]))
    now = pd.Timestamp(time[at + 1]) if time.dtype.kind == "M" else time[at + 1]
    if time[at + 1] == time[at]:
        said, hint = f"has the same {layout.time!r} as {before}", "each may occur once per client"
    else:
        said, hint = f"has an earlier {layout.time!r} than {before}", "sort the rows of each client by it"
    hint += "" if layout.client is not None else "; if a file holds several clients, set data.client_column"
    more = "" if wrong.sum() == 1 else f", and {int(wrong.sum()) - 1} more rows are out of order"
    refuse(layout, f"client {clients[owner[at]]!r}: {here} ({now}) {said}{more}; {hint}")


def _check_values(
    parts: list[_Rows], values: Floats, labels: NDArray[np.object_] | None, columns: list[str], layout: Layout
) -> None:
    """Refuse numbers too large to scale and, unless the layout says what to do about them, missing ones."""
    large = np.isfinite(values) & (np.abs(values) > LARGEST)
    wrong = large if layout.missing != "error" else large | ~np.isfinite(values)
    if labels is not None and layout.missing == "error":
        wrong = np.column_stack([wrong, [label is None for label in labels]])
    if not wrong.any():
        return
    row = int(wrong.any(1).argmax())
    column = int(wrong[row].argmax())
    name = [*columns, *layout.targets][column]
    value = values[row, column] if column < len(columns) else np.nan
    where = f"{_place(parts, row)}, column {name!r}"
    if np.isfinite(value):
        refuse(layout, f"{where}: {value:g} is larger than {LARGEST:g}")
    said = "the value is missing" if np.isnan(value) else f"{value} is not a finite number"
    count = int(wrong.any(1).sum())
    more = "" if count == 1 else f" (and in {count - 1} more rows)"
    refuse(layout, f"{where}: {said}{more}; set data.missing=drop or ffill to handle it")


def _encode(labels: NDArray[np.object_]) -> tuple[Floats, list[str]]:
    """Return ``[R, 1]`` code of each label, NaN where missing, and the labels in order: numbers by value, else text."""
    import pandas as pd

    codes, found = pd.factorize(labels)
    names = [str(name) for name in found]
    try:
        order = sorted(range(len(names)), key=lambda i: (int(names[i]), names[i]))
    except ValueError:
        order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names) + 1)
    rank[order] = np.arange(len(names))
    rank[-1] = np.nan  # the code of a missing label is -1
    return rank[codes][:, None], [names[i] for i in order]


def _fill(values: Floats, codes: Ints, layout: Layout) -> tuple[Floats, Ints, list[str]]:
    """Drop the rows with missing values, for ``ffill`` only those before which the client has no value to carry on."""
    values[~np.isfinite(values)] = np.nan
    gaps = np.isnan(values)
    if not gaps.any():
        return values, codes, []
    notes = []
    rows = len(values)
    if layout.missing == "ffill":
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        start = np.repeat(first, np.diff(np.append(first, rows)))[:, None]
        last = np.maximum.accumulate(np.where(gaps, -1, np.arange(rows)[:, None]), axis=0)
        known = last >= start
        values = np.where(known, np.take_along_axis(values, np.maximum(last, 0), axis=0), np.nan)
        if (filled := int((gaps & known).sum())) > 0:
            notes.append(f"{filled:,} missing values filled with the client's last one")
    keep = ~np.isnan(values).any(1)
    if not keep.all():
        notes.append(f"{int((~keep).sum()):,} of {rows:,} rows dropped, because they have missing values")
    return np.ascontiguousarray(values[keep]), codes[keep], notes
