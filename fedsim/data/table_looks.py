"""What looks wrong in a table that can be read: values that stand for missing ones, counters, times left out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.table_columns import Floats, strings
from fedsim.data.table_frame import shorten
from fedsim.data.table_time import Ints, Times

if TYPE_CHECKING:
    import pandas as pd

FEW = 3
"""How often an extreme value must occur at least to look like a code."""
WIDE, NEARER = 1.0, 0.25
"""How far beyond the others, in their range, a code lies; and one that is written as codes usually are (-200, 9999)."""
DISTINCT = 5
"""Other values that a column must have for their range to mean anything."""
STEADY = 0.95
"""Share of a client's steps that must be equal for a column to count up."""
READ = 0.95
"""Share of a column's cells that must read as times."""

_DATE = re.compile(
    r"(?:\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}[- ][A-Za-z]{3,9}[- ]\d{2,4}|[A-Za-z]{3,9} \d{1,2},? \d{4})"
    r"(?:[ T]\d.*)?"
)


def codes_for_missing(values: Floats, columns: Sequence[str]) -> list[str]:
    """Name isolated extreme values of columns ``[R, M]`` that repeat, such as -200 in 4% of the rows."""
    notes = []
    for name, column in zip(columns, values.T, strict=True):
        found, counts = np.unique(column[np.isfinite(column)], return_counts=True)
        codes: list[tuple[float, int]] = []
        while len(found) > DISTINCT and (end := _isolated(found, counts)) is not None:
            codes.append((float(found[end]), int(counts[end])))
            found, counts = np.delete(found, end), np.delete(counts, end)
        if codes:
            rows = sum(count for _, count in codes)
            shown = " and ".join(f"{code:g}" for code, _ in codes)
            notes.append(
                f"column {name!r} holds {shown} in {rows:,} of {len(values):,} rows, far from all other values "
                f"({found[0]:g} to {found[-1]:g}): if that means a missing value, set "
                f"data.na_values=[{','.join(f'{code:g}' for code, _ in codes)}]"
            )
    return notes


def _isolated(found: Floats, counts: Ints) -> int | None:
    """The end, 0 or -1, of sorted distinct values that is far from the others and repeats."""
    for end, next_, rest in ((0, 1, found[1:]), (-1, -2, found[:-1])):
        usual = _usual_code(float(found[end]))
        wide = (NEARER if usual else WIDE) * (rest[-1] - rest[0])
        if counts[end] >= FEW and abs(found[end] - found[next_]) > wide:
            return end
    return None


def _usual_code(value: float) -> bool:
    """Whether a number is written as codes usually are: nines only, or whole hundreds below zero."""
    text = f"{abs(value):.10g}"
    return (len(text) > 1 and {*text} == {"9"}) or (value < 0 and value % 100 == 0)


def counters(values: Floats, columns: Sequence[str], owner: Ints) -> list[str]:
    """Name columns ``[R, M]`` with a constant step within clients, as row numbers and epoch seconds have.

    Args:
        values: rows in the order of time, those of a client together.
        columns: their names.
        owner: ``[R]`` the row's client.
    """
    import pandas as pd

    at = np.flatnonzero(owner[1:] == owner[:-1]) + 1
    if len(at) < DISTINCT:
        return []
    found = []
    for name, column in zip(columns, values.T, strict=True):
        step = column[at] - column[at - 1]
        if not ((step > 0).all() or (step < 0).all()):
            continue
        middle = pd.Series(step).groupby(owner[at]).transform("median").to_numpy(np.float64)
        if np.isclose(step, middle, rtol=1e-6, atol=0).mean() >= STEADY:
            found.append(name)
    if not found:
        return []
    does, it = ("changes", "it") if len(found) == 1 else ("change", "them")
    return [
        f"{shorten(found)} {does} by the same step from row to row, as row numbers and times do, and {does} on beyond "
        f"the training rows: data.feature_columns leaves {it} out, data.time_column takes one as the time"
    ]


def moments(column: pd.Series[str]) -> tuple[Times, bool] | None:
    """A column of texts as times, and whether they are ISO 8601; None if they are no times."""
    import pandas as pd

    texts = strings(column).str.strip()
    head = texts[texts != ""].head(20)
    if not len(head) or not head.map(lambda text: _DATE.fullmatch(text) is not None).all():
        return None
    iso = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    readings = [iso]
    if iso.notna().mean() < READ:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that pandas found no format, or another than asked for
            readings = [pd.to_datetime(texts, errors="coerce", dayfirst=first, utc=True) for first in (False, True)]
    read = max(readings, key=lambda times: (times.notna().sum(), -int((times.diff() < pd.Timedelta(0)).sum())))
    if read.notna().mean() < READ:
        return None
    try:
        return read.dt.tz_localize(None).dt.as_unit("ns").to_numpy(), len(readings) == 1
    except (ValueError, OverflowError):
        return None


def times_aside(columns: dict[str, tuple[Times, bool]], codes: Ints) -> list[str]:
    """Say of columns that are left out but read as times whether they rise within clients, in the files' order."""
    notes = []
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    for name, (times, iso) in columns.items():
        step = np.diff(times[order])[same].astype(np.int64)  # without a time, the smallest number there is
        known = ~np.isnat(np.diff(times[order])[same])
        falls, repeats = int((known & (step < 0)).sum()), int((known & (step == 0)).sum())
        key = f"data.time_column={name}" + ("" if iso else " with data.time_format")
        if falls:
            notes.append(
                f"column {name!r}, left out, reads as times that fall at {falls:,} of {int(known.sum()):,} rows within "
                f"clients, so windows run against time or over several series: set {key}, and data.sort=true or "
                "data.client_column"
            )
        elif repeats:
            notes.append(
                f"column {name!r}, left out, reads as times, {repeats:,} of which repeat within clients: if it is the "
                f"time with another column, set data.time_column=[{name},...]; if it tells of several series, "
                "data.client_column"
            )
        else:
            notes.append(f"column {name!r}, left out, reads as times: {key} would find gaps between them")
    return notes
