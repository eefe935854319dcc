"""What one file of a table holds, and what may be wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing pandas takes half a second, which a cached table need not spend
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

NO_VALUE = ["", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
"""What a missing number looks like. In a column of words, such as names of clients, only an empty cell is missing."""


@dataclass(frozen=True)
class Done:
    """What was done to one file: said once for all files of which it is true.

    Attributes:
        text: in which COUNT and FILES stand for how often, and for the files.
        file: its name.
        count: how often it was done.
    """

    text: str
    file: str
    count: int = 1


def told(done: Iterable[Done]) -> list[str]:
    """One line for each text, in the order of their first appearance."""
    together: dict[str, list[Done]] = {}
    for one in done:
        together.setdefault(one.text, []).append(one)
    lines = []
    for text, found in together.items():
        files = found[0].file if len(found) == 1 else f"{len(found):,} files"
        count = sum(one.count for one in found)
        lines.append(text.replace("COUNT", f"{count:,}", 1).replace("FILES", files, 1))
    return lines


@dataclass(frozen=True)
class File:
    """What one file holds.

    Attributes:
        name: for messages.
        frame: its columns.
        first: number of the first row, in `unit`.
        unit: ``line`` of a text, ``row`` of a Parquet file.
        lines: ``[rows]`` line of each row, where it is not the row's number plus `first`, else None.
        hint: the probable reason if a column is missing.
        notes: what was done to its rows and names.
        heads: how many of the first rows look like more lines of names.
        sequence: whether the file is one sequence, named like it.
    """

    name: str
    frame: pd.DataFrame
    first: int
    unit: str
    lines: NDArray[np.int64] | None = None
    hint: str = ""
    notes: tuple[Done, ...] = ()
    heads: int = 0
    sequence: bool = False

    def line(self, row: int) -> int:
        """The line (or row, of Parquet) that a row is in."""
        return row + self.first if self.lines is None else int(self.lines[row])

    def only(self, rows: NDArray[np.int64], frame: pd.DataFrame | None = None, notes: tuple[Done, ...] = ()) -> File:
        """The file with some of its rows, or with another frame of one row for each of them, and more notes."""
        lines = rows + self.first if self.lines is None else self.lines[rows]
        frame = self.frame.iloc[rows].reset_index(drop=True) if frame is None else frame
        return replace(self, frame=frame, lines=lines, notes=(*self.notes, *notes), heads=0)

    def place(self, row: int) -> str:
        """Where a row is, such as ``a.csv, line 7``."""
        return f"{self.name}, {self.unit} {self.line(row)}"

    def head_hint(self, row: int) -> str:
        """The way out if a row that cannot be read is one more line of names."""
        if row >= self.heads:
            return ""
        extra = ",".join(str(self.line(k)) for k in range(self.heads))
        return f"; the names seem to take {self.heads + 1} lines: data.skip_rows=[{extra}] skips all but the first"


class BadFileError(Exception):
    """What is wrong with a file, to be put behind its name."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(f" {text}" if line is None else f", line {line} {text}")


def check_names(names: Iterable[str]) -> None:
    """Raise `BadFileError` if two columns have the same name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadFileError(f"names the column {twice[0]!r} more than once")


def shorten(names: Iterable[str], most: int = 10) -> str:
    """Up to `most` names, and how many more there are."""
    names = list(names)
    rest = len(names) - most
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown if rest <= 0 else f"{shown} and {rest} more"
