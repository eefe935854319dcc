"""CSV files with two columns of names: who belongs to whom, or is whose neighbour."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from fedsim.data.contents import read_whole
from fedsim.errors import UserError, did_you_mean


class Pair(NamedTuple):
    """One line of the file.

    Attributes:
        line: the line number.
        first: the cell of the first column of the two that are asked for.
        second: the cell of the other one.
    """

    line: int
    first: str
    second: str


def read_pairs(key: str, path: str, columns: tuple[str, str], words: tuple[str, ...]) -> list[Pair]:
    """Read a CSV whose first line names two columns, in either order.

    Args:
        key: the key that names the file, for messages.
        path: the file, in UTF-8.
        columns: the names of the columns.
        words: what else the key may say, which a name without a file may be a slip of.

    Raises:
        UserError: if the file cannot be read or a line is wrong; it names the file and the line.
    """
    where = f"{key}={path}"
    try:
        text = read_whole(Path(path).expanduser()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{where}: is none of {', '.join(words)}{did_you_mean(path, words)}, and no CSV that can be read ({reason})"
        ) from None
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if sorted(header) != sorted(columns):
            raise UserError(f"{where}, line 1: must name the columns {columns[0]} and {columns[1]}, and no others")
        pairs = []
        for row in reader:
            if not any(map(str.strip, row)):
                continue
            cells = dict(zip(header, map(str.strip, row), strict=False))
            if len(row) != len(header) or not all(cells.values()):
                raise UserError(f"{where}, line {reader.line_num}: must be two names, with a comma between them")
            pairs.append(Pair(reader.line_num, cells[columns[0]], cells[columns[1]]))
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from None
    return pairs
