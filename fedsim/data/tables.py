"""Tables from files: one time series of rows per client, checked to the last cell.

Every refusal is one line that names the file, the line (of a text, counted from 1 as editors do) or row (Parquet), and
the column. What was read is cached (`fedsim.data.cache`), 8 bytes a number, under a digest of the files' contents and
of the settings that it depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.cache import Arrays, cached_arrays
from fedsim.data.table_categories import category_names, category_notes, find_words, with_categories
from fedsim.data.table_clients import find_series
from fedsim.data.table_columns import Floats, Layout, refuse
from fedsim.data.table_facts import table_facts
from fedsim.data.table_files import check_text_settings, digest, find_files, read_file
from fedsim.data.table_frame import Done, File, shorten, told
from fedsim.data.table_labels import labelled, read_labels
from fedsim.data.table_looks import codes_for_missing, counters, times_aside
from fedsim.data.table_mask import masked
from fedsim.data.table_order import in_order
from fedsim.data.table_pivot import aligned, pivoted
from fedsim.data.table_rows import (
    Rows,
    extract,
    names_but_targets,
    numeric_columns,
    places_but_targets,
    targets_of,
    words_of,
)
from fedsim.data.table_shapes import chosen, series_of_columns, series_of_rows
from fedsim.data.table_time import Flags, Times, find_gaps, hours
from fedsim.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1e30
"""Largest magnitude of a number: its square still fits 64 bits, and it fits 32."""

Ints: TypeAlias = "NDArray[np.int64]"


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
        notes: what was done to the rows, and what looks wrong in them.
        breaks: rows, not the first of a client, before which rows are missing: no window may cross them.
        absent: ``[R]``, rows without a target, which cannot be predicted; ``[0]`` if all have one.
        flags: columns of zeros and ones, which are not scaled.
        owners: where sequences are samples, the client of each; `clients` and `sizes` are then those of sequences.
        facts: about its rows and times, as labels with texts.
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
    breaks: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    absent: Flags = field(default_factory=lambda: np.zeros(0, bool))
    flags: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def stretches(self) -> Ints:
        """The first row of each stretch of rows of one client without a break."""
        first = (np.cumsum(self.sizes) - self.sizes)[self.sizes > 0]
        return np.union1d(first, self.breaks).astype(np.int64)


def read_table(layout: Layout) -> Table:
    """Read, check and order the rows of all files, or take them from the cache.

    Raises:
        UserError: naming the file, the line and the column.
    """
    files = find_files(layout.path, layout.label_table)
    contents = [(str(path), digest(layout.path, path)) for path in files]
    if (table := layout.label_table) is not None:
        contents.append((table, digest(table, Path(table).expanduser(), "labels")))
    names = ("values", "labels", "sizes", "breaks", "absent", "words")
    arrays = cached_arrays("csv", repr((layout, contents)), names, lambda: _make(files, layout))
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
        breaks=arrays["breaks"].astype(np.int64, copy=False),
        absent=arrays["absent"].astype(bool, copy=False),
        flags=tuple(words["flags"]),
        owners=tuple(words["owners"]),
        facts=tuple((label, text) for label, text in words["facts"]),
    )


def _make(paths: list[Path], layout: Layout) -> Arrays:
    """Read the files into the arrays that are cached."""
    check_text_settings(paths, layout.text)

    def read(path: Path) -> File:
        return read_file(path, layout.path, layout.text, words_of(layout))

    paths, parts, left_out = _parts(paths, layout, read)
    categories = find_words(parts, layout)
    names = (*parts[0].names, *category_names(categories))
    columns = numeric_columns(names, layout)
    values = with_categories(parts, categories)
    labels = None if parts[0].labels is None else np.concatenate([p.labels for p in parts if p.labels is not None])
    series = find_series(parts, paths, layout, lambda row: _place(parts, row))
    codes, clients = series.codes, series.names
    notes = [*told([*left_out, *(note for part in parts for note in part.notes)]), *category_notes(categories, parts)]
    if layout.time:
        times = _times(parts, layout)
    else:
        shared = [name for name in parts[0].aside if all(name in part.aside for part in parts)]
        together = {name: [part.aside[name] for part in parts] for name in shared}
        columns_aside = {
            name: (np.concatenate([times for times, _ in found]), all(iso for _, iso in found))
            for name, found in together.items()
        }
        notes += times_aside(columns_aside, codes)
    _check_values(parts, values, labels, columns, layout)
    values[~np.isfinite(values)] = np.nan
    notes += codes_for_missing(values, columns)
    if layout.time:
        rows, values, said = in_order(
            times,
            codes,
            values,
            layout,
            clients,
            lambda row: _place(parts, row),
            lambda: [read(path) for path in paths],
        )
        notes += said
    else:
        rows = np.argsort(codes, kind="stable")
    values, codes = values[rows], codes[rows]
    gap = np.zeros(len(rows), bool)
    if not parts[0].sequences:  # a sequence is not cut, and is as long in training as in testing
        notes += counters(values[:, places_but_targets(columns, layout)], names_but_targets(columns, layout), codes)
        if layout.time:
            gap, said = find_gaps(times[rows], codes, layout, clients, lambda row: _place(parts, int(rows[row])))
            notes += said
    facts = table_facts(
        np.bincount(codes, minlength=len(clients)), clients, layout.series, times[rows] if layout.time else None
    )
    label_codes, label_names = _encode(labels[rows]) if labels is not None else (np.zeros((len(values), 0)), [])
    flags = [name for name in names if name not in parts[0].names]
    num_features, absent = len(names), np.zeros(0, bool)
    if layout.missing == "mask":
        needed = [values[:, columns.index(name)] for name in targets_of(layout)]
        if (holes := np.asarray(np.isnan(np.column_stack([*needed, label_codes])).any(1))).any():
            absent = holes
        clock = hours(times[rows]) if layout.time else np.arange(len(rows), dtype=np.float64)
        found = masked(values, columns, num_features, codes, clock, layout)
        values, columns, num_features = found.values, found.columns, found.num_features
        flags, notes, label_codes = [*flags, *found.flags], notes + found.notes, np.nan_to_num(label_codes)
    known = np.ascontiguousarray(np.column_stack([values, label_codes]))  # a missing label is NaN here
    known, codes, breaks, said = _fill(known, codes, gap, layout)
    kept_labels = known[:, len(columns)].astype(np.int64) if labels is not None else np.zeros(0, np.int64)
    words = {
        "columns": columns,
        "num_features": num_features,
        "clients": clients,
        "owners": series.owners if parts[0].sequences else [],
        "flags": flags,
        "labels": label_names,
        "natural": series.natural,
        "facts": facts,
        "notes": [*dict.fromkeys(notes + said)],
    }
    return {
        "values": np.ascontiguousarray(known[:, : len(columns)]),
        "labels": kept_labels,
        "sizes": np.bincount(codes, minlength=len(clients)),
        "breaks": breaks,
        "absent": absent,
        "words": np.frombuffer(json.dumps(words).encode(), np.uint8),
    }


def _parts(
    paths: list[Path], layout: Layout, read: Callable[[Path], File]
) -> tuple[list[Path], list[Rows], list[Done]]:
    """The files that have rows, what each gives as rows of time steps, and what was done to the others."""
    parts: list[Rows] = []
    kept: list[Path] = []
    clients: set[tuple[object, ...]] = set()
    left_out: list[Done] = []
    labels = None
    for path in paths:
        file = read(path)
        if layout.label_table is not None:
            labels = labels or read_labels(layout, paths, file)
            file = labelled(file, path, labels, layout)
        file = chosen(file, layout)
        if layout.measurements and len(file.frame):
            file = pivoted(file, layout)
        if not len(file.frame):
            left_out += file.notes
            continue
        kept.append(path)
        if layout.series_in == "columns":
            parts.append(series_of_columns(file, layout))
        elif layout.series_in == "rows":
            parts.append(series_of_rows(file, layout, clients))
        else:
            parts.append(extract(file, layout))
        if parts[-1].names != parts[0].names and not layout.measurements:
            raise UserError(
                f"data.path={layout.path}: {parts[0].file.name} has the numeric columns {shorten(parts[0].names)} and "
                f"{path.name} {shorten(parts[-1].names)}; name those to use with data.feature_columns"
            )
    if not parts:
        refuse(layout, f"no row is left ({'; '.join(told(left_out))})")
    return kept, aligned(parts, layout) if layout.measurements else parts, left_out


def _place(parts: list[Rows], row: int) -> str:
    """Where a row of all files together is, for messages."""
    for part in parts:
        if row < len(part.values):
            return part.file.place(row)
        row -= len(part.values)
    raise AssertionError


def _times(parts: list[Rows], layout: Layout) -> Times:
    """The times of all rows, in the order of the files."""
    times = [part.times for part in parts if part.times is not None]
    if len({t.dtype.kind == "M" for t in times}) > 1:
        refuse(layout, f"column {layout.time[0]!r} holds numbers in some files and dates in others")
    return np.concatenate(times)


def _check_values(
    parts: list[Rows], values: Floats, labels: NDArray[np.object_] | None, columns: list[str], layout: Layout
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
    value = float(values[row, column]) if column < len(columns) else np.nan
    where = f"{_place(parts, row)}, column {name!r}"
    if np.isfinite(value):
        refuse(
            layout,
            f"{where}: {value:g} is larger than {LARGEST:g}; if it means a missing value, data.na_values=[{value!r}]",
        )
    said = "the value is missing" if np.isnan(value) else f"{value} is not a finite number"
    count = int(wrong.any(1).sum())
    more = "" if count == 1 else f" (and in {count - 1} more rows)"
    refuse(layout, f"{where}: {said}{more}; set data.missing=drop, ffill or mask to handle it")


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


def _fill(values: Floats, codes: Ints, gap: Flags, layout: Layout) -> tuple[Floats, Ints, Ints, list[str]]:
    """Fill missing values if the layout says so, and drop the rows that still have some.

    Args:
        values: ``[R, M]``.
        codes: ``[R]`` ascending, the clients.
        gap: ``[R]``, whether there is a gap in time before the row.
        layout: of the table.

    Returns:
        values and clients of the rows that stay, the rows before which others are missing, and what was done.
    """
    import pandas as pd

    if layout.missing == "mask":  # no row is dropped
        breaks = np.flatnonzero(gap) if layout.gaps == "split" else np.zeros(0, np.int64)
        return values, codes, breaks, []
    missing = np.isnan(values)
    notes = []
    if missing.any() and layout.missing == "ffill":
        stretch = np.cumsum(gap | (np.diff(codes, prepend=-1) != 0))  # no value is carried over a gap
        values = pd.DataFrame(values).groupby(stretch).ffill(limit=layout.fill_limit).to_numpy(np.float64)
        if filled := int((missing & ~np.isnan(values)).sum()):
            notes.append(
                f"{filled:,} missing values filled with the client's last one (data.missing=ffill, at most "
                f"{layout.fill_limit:,} in a row: data.fill_limit)"
            )
    keep = np.flatnonzero(~np.isnan(values).any(1))
    same = np.diff(codes[keep], prepend=-1) == 0
    lost = same & (np.diff(keep, prepend=-1) > 1)
    if len(keep) < len(values):
        text = f"{len(values) - len(keep):,} of {len(values):,} rows dropped, because they have missing values "
        text += f"(data.missing={layout.missing})"
        if (count := int(lost.sum())) > 0 and not layout.sequences:
            if layout.gaps == "error":
                refuse(
                    layout,
                    f"{text}, which leaves {count:,} gap{'s' * (count > 1)}; data.gaps=split lets no window cross",
                )
            said = "cross" if layout.gaps == "ignore" else "do not cross"
            way = "" if layout.gaps == "ignore" else "; data.gaps=ignore lets them"
            text += f": windows {said} the {count:,} place{'s' * (count > 1)} where they lay{way}"
        notes.append(text)
    before = np.diff(np.cumsum(gap)[keep], prepend=0) > 0
    breaks = np.flatnonzero(same & (before | lost)) if layout.gaps == "split" else np.zeros(0, np.int64)
    return np.ascontiguousarray(values[keep]), codes[keep], breaks, notes
