"""The kinds of files that the UCR and UEA archives were published in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.aeon_files import import_aeon
from fedsim.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("TRAIN", "TEST")
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?(e[+-]?\d+)?", re.ASCII)
_DAMAGED = (OSError, ValueError, TypeError, IndexError, KeyError, NotImplementedError)
"""What the libraries raise on damaged files; scipy's errors of ARFF are OSErrors and ValueErrors."""

Floats: TypeAlias = "NDArray[np.float64]"
Cases = tuple[list[Floats], list[str]]
"""Series ``[channels, steps]``, NaN where a value is missing, and the label of each."""


def find_files(places: Iterable[Path], name: str) -> tuple[Path, ...] | None:
    """Return the training and the test file of a data set, both of the first kind in `KINDS` that is in a folder.

    None if no folder has both files of one kind.
    """
    for place in places:
        for kind in KINDS:
            files = tuple(place / f"{name}_{split}{kind}" for split in SPLITS)
            if all(file.is_file() for file in files):
                return files
    return None


def read_cases(file: Path, where: str) -> tuple[Cases, int]:
    """Read one file.

    A file but for ``.ts`` has series of one length only: what is shorter is filled up with NaN or ``?``. So missing
    values at the end of all channels are taken for the series' end.

    Args:
        file: of one of the `KINDS`.
        where: what to call it in an error.

    Returns:
        The series with their labels, in lower case and as a whole number where they are one (``1.0000000e+00`` is
        ``1``), and how many series were cut at missing values at their end.

    Raises:
        UserError: if the file cannot be read, or does not hold a classification.
    """
    try:
        series, texts = KINDS[file.suffix](file)
    except UserError as error:
        raise UserError(f"{where} {error}") from error
    except _DAMAGED as error:
        kind = f"a {file.suffix} file" if file.suffix else "a table of numbers"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{where} cannot be read as {kind} ({reason})") from error
    if not series:
        raise UserError(f"{where} has no series")
    for number, text in enumerate(texts, 1):
        if text.lower() in ("", "?", "nan"):
            raise UserError(f"{where}: series {number} has no label")
    lower = {text.lower() for text in texts}
    if len(lower) < len({*texts}):
        raise UserError(f"{where} has labels that differ only in upper and lower case: {sorted({*texts})}")
    labels = [_label(text) for text in texts]
    if file.suffix == ".ts":
        return (series, labels), 0
    ends = [_end(case) for case in series]
    if 0 in ends:
        raise UserError(f"{where}: series {ends.index(0) + 1} has no value")
    cut = sum(end < case.shape[1] for end, case in zip(ends, series, strict=True))
    return ([case[:, :end] for case, end in zip(series, ends, strict=True)], labels), cut


def _end(series: Floats) -> int:
    """How many steps there are up to the last one with a value."""
    known = np.flatnonzero(~np.isnan(series).all(0))
    return int(known[-1]) + 1 if len(known) else 0


def _label(text: str) -> str:
    text = text.lower()
    if _WHOLE.fullmatch(text) and ("." in text or "e" in text) and (value := float(text)).is_integer():
        return str(int(value))
    return text


def _read_ts(file: Path) -> Cases:
    load_from_ts_file = import_aeon("aeon.datasets", "data=ucr with .ts files").load_from_ts_file

    cases, labels, about = load_from_ts_file(str(file), return_meta_data=True)
    if not about["classlabel"]:
        raise UserError("has no class labels; data=ucr is for classification")
    if about["timestamps"]:
        raise UserError("has time stamps (@timeStamps true), with which aeon does not read all numbers")
    return [np.asarray(case, np.float64) for case in cases], [str(label) for label in labels]


def _read_table(file: Path) -> Cases:
    """Lines of a label and values, between tabs (``.tsv``), else commas or white space.

    aeon's reader is not used: it is for ``.tsv`` alone, makes numbers of labels, and does not say which line is bad.
    """
    text = file.read_text(encoding="utf-8-sig")
    separator = "\t" if file.suffix == ".tsv" else "," if "," in text else None
    series, labels = [], []
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().split(separator)]
        if cells == [""] or not cells:
            continue
        if len(cells) < 2:
            raise UserError(f"has no values in line {number}, only {line[:40]!r}")
        try:
            values = [float("nan") if cell == "?" else float(cell) for cell in cells[1:]]
        except ValueError as error:
            raise UserError(f"has a value in line {number} that is not a number ({error})") from error
        series.append(np.array([values], np.float64))
        labels.append(cells[0])
    width = max((case.shape[1] for case in series), default=0)  # what is shorter is as if filled up
    filled = [np.pad(case, ((0, 0), (0, width - case.shape[1])), constant_values=np.nan) for case in series]
    return filled, labels


def _read_arff(file: Path) -> Cases:
    """Weka's files, one channel as columns or several as a relation.

    scipy reads them, because aeon's reader repeats a channel of one value over all steps, knows no comments between
    the data and no quoted labels, and does not look at what the columns are.
    """
    from scipy.io import arff  # type: ignore[import-untyped]

    try:
        with file.open(encoding="utf-8-sig") as opened:
            data, about = arff.loadarff(opened)
    except (StopIteration, RuntimeError) as error:  # what scipy raises on a file that ends too early
        raise ValueError("the file ends too early") from error
    *inputs, target = about.names()
    *kinds, last = about.types()
    if last != "nominal":
        raise UserError(
            f"has no class labels: its last attribute, {target!r}, is {last}; data=ucr is for classification"
        )
    labels = [label.decode() for label in data[target].tolist()]
    if kinds == ["relational"]:
        return [_channels(case) for case in data[inputs[0]]], labels
    if not kinds or {*kinds} != {"numeric"}:
        raise UserError("has attributes that are neither numbers nor one relation of numbers before its label")
    values = np.column_stack([data[name] for name in inputs])
    return [*values.astype(np.float64)[:, None]], labels


def _channels(case: NDArray[np.void]) -> Floats:
    """A relation's rows are the channels, and its attributes the steps."""
    return np.stack([np.asarray(case[name], np.float64) for name in case.dtype.names or ()], 1)


KINDS: dict[str, Callable[[Path], Cases]] = {
    ".ts": _read_ts,
    ".tsv": _read_table,
    ".txt": _read_table,
    "": _read_table,
    ".arff": _read_arff,
}
"""Readers by the suffixes of files, the best first: ``.ts`` says how long a series is and what is missing."""
