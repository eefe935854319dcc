"""CSV as people have it: encodings, comments, lines without names or with too many, and blank rows at the end."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.contents import RATIO, Bomb, read_whole, unpacked
from fedsim.data.table_frame import NO_VALUE, BadFileError, Done, File, check_names, shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
DECIMALS = {"point": ".", "comma": ","}
ENDINGS = {".tsv": "tab", ".psv": "pipe"}
THOUSANDS = {"comma": ",", "point": ".", "space": " ", "apostrophe": "'"}

_COMMENTS = ("#", "%", "//")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d.*)?")


@dataclass(frozen=True)
class TextFormat:
    """How a text is written; see `fedsim.data.csv.Csv` for the fields."""

    separator: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    encoding: str = "utf-8"
    header: bool | None = None
    comment: str | None = None
    skip_rows: int | tuple[int, ...] | None = None
    na_values: tuple[str, ...] = ()
    gzip_ratio: int = RATIO


def separator_of(file: str, text: TextFormat) -> str:
    """The word for what separates a file's fields: a setting, else what its ending says, else a comma."""
    name = file.lower().removesuffix(".gz")
    return text.separator or next((word for ending, word in ENDINGS.items() if name.endswith(ending)), "comma")


def read_text(file: Path, text: TextFormat, words: set[str] | None) -> File:
    """Read all columns of a text.

    Args:
        file: unpacked first if it ends in ``.gz``.
        text: how it is written.
        words: columns that are words even where they look like numbers; None for all.

    Raises:
        BadFileError: if it is not a table.
    """
    import pandas as pd

    separator = SEPARATORS[separator_of(file.name, text)]
    if text.decimal == "comma" and separator == ",":
        raise BadFileError("has decimal commas (data.decimal) and needs another data.separator, such as semicolon")
    data = read_bytes(file, text.encoding, text.gzip_ratio)
    notes: list[Done] = []
    kept = None
    if text.comment is not None or text.skip_rows is not None:
        data, kept, skipped = _without_lines(data, text)
        if skipped:
            notes.append(Done(f"COUNT line(s) of FILES are skipped (data.comment={text.comment})", file.name, skipped))
    data, blank = _without_blank_end(data, separator)
    if blank:
        notes.append(Done("COUNT blank row(s) at the end of FILES are left out", file.name, blank))
    if not data.strip():
        raise BadFileError("is empty" if kept is None else "is empty but for the lines that are skipped")
    raw, lines, row_names = _check_shape(data, separator, text, kept)
    words = {*map(str.strip, raw)} if words is None else words
    names = [name.strip() for name in raw]
    loose = [name for name in raw if name.strip() and name != name.strip()]
    if loose:
        notes.append(Done(f"blanks at the end of names of columns are left out: {shorten(loose)}", file.name))
    if row_names:
        notes.append(Done("the first column of FILES, which has no name, is left out as names of rows", file.name))
    named = [name or f"\0{k}" for k, name in enumerate(names)]  # a column without a name is left out below
    missing = [*NO_VALUE, *text.na_values]
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            decimal=DECIMALS[text.decimal or "point"],
            thousands=None if text.thousands is None else THOUSANDS[text.thousands],
            names=named,
            header=None if text.header is False else 0,
            index_col=False,
            dtype=dict.fromkeys(words & {*names}, str),
            na_values={name: [""] if name in words else missing for name in named},
            keep_default_na=False,
            skipinitialspace=True,
            skip_blank_lines=False,
            low_memory=False,  # in pieces, a column could be numbers at first and words later
            encoding="utf-8",
        )
    except (ValueError, OverflowError) as error:  # pandas' ParserError is a ValueError
        raise BadFileError(f"cannot be read as CSV ({' '.join(str(error).split())[:200]})") from None
    if len(frame) != len(lines):
        raise BadFileError(f"cannot be read as CSV ({len(lines)} rows by its line ends, {len(frame)} by its quotes)")
    first = 1 if text.header is False else 2
    plain = len(lines) == 0 or (int(lines[0]) == first and int(lines[-1]) == len(lines) + first - 1)
    hint = _separator_hint(names) or _comment_hint(raw[0], text)
    nameless = [name for name in named[1:] if name.startswith("\0")]  # the first is pandas' index, or noted above
    empty = sum(bool(frame[name].isna().all()) for name in nameless)
    for count, what in ((empty, "a name or a value"), (len(nameless) - empty, "a name")):
        if count:
            notes.append(Done(f"{count} column(s) of FILES without {what} are left out", file.name))
    frame = frame[[name for name in names if name]]
    return File(
        file.name, frame, first, "line", None if plain else lines, hint, tuple(notes), _more_heads(frame, text.header)
    )


# ---------------------------------------------------------------------------------------------------------------------
# lines


def read_bytes(file: Path, encoding: str, gzip_ratio: int) -> bytes:
    """A text's content as UTF-8, without a byte order mark and the line ends at its end."""
    try:
        data = read_whole(file)
        if file.suffix.lower() == ".gz":
            data = unpacked(data, gzip_ratio)
    except Bomb as error:
        raise BadFileError(f"{error}; if that is right, raise data.gzip_ratio") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadFileError(f"cannot be unpacked ({error})") from None
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        if encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
            data = data.decode(encoding).encode()
        data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
        data.decode()
    except UnicodeError as error:
        if encoding != "utf-8":
            raise BadFileError(f"is not text of data.encoding={encoding} ({error})") from None
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        way = "utf-16" if wide else "latin-1"
        raise BadFileError(f"is not UTF-8 text (byte {start}); perhaps data.encoding={way}") from None
    if not data.strip():
        raise BadFileError("is empty")
    if b"\0" in data:
        raise BadFileError(f"is not text (NUL at byte {data.index(0)})")
    return data


def _without_lines(data: bytes, text: TextFormat) -> tuple[bytes, NDArray[np.int64], int]:
    """Leave out what `skip_rows` and `comment` name; return the rest, its lines' numbers, and how many are comments."""
    rows = data.splitlines()
    skip = range(1, text.skip_rows + 1) if isinstance(text.skip_rows, int) else (text.skip_rows or ())
    if beyond := next((number for number in skip if number > len(rows)), 0):
        raise BadFileError(f"has {len(rows)} lines, so data.skip_rows cannot skip line {beyond}")
    named = np.zeros(len(rows), bool)
    named[[number - 1 for number in skip]] = True
    mark = None if text.comment is None else text.comment.encode()
    comments = np.array([mark is not None and row.lstrip().startswith(mark) for row in rows], bool) & ~named
    kept = np.flatnonzero(~named & ~comments)
    return b"\n".join(rows[k] for k in kept), kept + 1, int(comments.sum())


def _without_blank_end(data: bytes, separator: str) -> tuple[bytes, int]:
    """Leave out the lines at the end that hold nothing but separators and blanks; return how many had any."""
    core = data.rstrip(b"\r\n\t " + separator.encode())
    ends = [place for mark in (b"\n", b"\r") if (place := data.find(mark, len(core))) >= 0]
    if not ends:
        return data, 0
    blank = [line for line in data[min(ends) :].splitlines() if line]
    return data[: min(ends)], len(blank)


def _check_shape(
    data: bytes, separator: str, text: TextFormat, kept: NDArray[np.int64] | None
) -> tuple[list[str], NDArray[np.int64], bool]:
    """Count the fields of each row.

    Returns:
        the columns' names, the line of each row, and whether the first column holds the rows' names.
    """
    if b'"' in data:
        records = [(line, record) for line, record in _records(data.decode(), separator)]
        top = [record for _, record in records[:2]]
        lines, fields = np.array([line for line, _ in records]), [len(record) for _, record in records]
        leads, lasts = ([record[k].strip() if record else "" for _, record in records[1:]] for k in (0, -1))
    else:
        rows = data.splitlines()  # at \n, \r and \r\n, as pandas
        top = [next((record for _, record in _records(row.decode(), separator)), []) for row in rows[:2]]
        mark = separator.encode()
        lines, fields = np.arange(1, len(rows) + 1), [row.count(mark) + 1 if row else 0 for row in rows]
        leads, lasts = [], []
        if len(rows) > 1 and len(top[0]) + 1 == len(top[1]):
            leads = [row.split(mark, 1)[0].decode() for row in rows[1:]]
            lasts = [row.rpartition(mark)[2].decode().strip() for row in rows[1:]]
    if kept is not None:
        lines = kept[lines - 1]
    raw = top[0]
    if text.header is False:
        raw = [str(k) for k in range(len(top[0]))]
    names = [name.strip() for name in raw]
    if not any(names):
        raise BadFileError("has an empty first line, which must name the columns")
    if text.header is None and len(top) > 1 and _is_data(names, top[1], separator):
        raise BadFileError(
            f"looks like data, not like names of columns ({shorten(names, 4)}): set data.header=false if the file "
            "names no columns (they are then called 0, 1, ...), or data.header=true if these are their names",
            line=int(lines[0]),
        )
    longer = {*fields[1:]} == {len(names) + 1} and not _separator_hint(names)
    trailing = text.header is not False and longer and not any(lasts)
    if trailing:  # each row ends with a separator, unlike the names
        raw, names, fields[0] = [*raw, ""], [*names, ""], len(names) + 1
    row_names = text.header is not False and longer and not trailing and _are_row_names(leads)
    if row_names:
        raw, names, fields[0] = ["", *raw], ["", *names], len(names) + 1
    if len(names) == 1:
        fields = [count or 1 for count in fields]  # an empty line is a missing value
    wrong = next((k for k, count in enumerate(fields) if count != len(names)), None)
    if wrong is not None:
        what = f"has {fields[wrong]} field(s)" if fields[wrong] else "is empty"
        what += f", but the first line {'names' if text.header is not False else 'has'} {len(names)} column(s)"
        if text.header is False:
            what = what.replace("first line", f"first line read, {lines[0]},") if lines[0] > 1 else what
        hint = _separator_hint(names) or _comment_hint(top[0][0], text)
        raise BadFileError(what + hint, line=int(lines[wrong]))
    check_names([name for name in names if name])
    return raw, np.asarray(lines[0 if text.header is False else 1 :], np.int64), row_names


def _records(text: str, separator: str) -> Iterable[tuple[int, list[str]]]:
    """Yield each record with the number of its (last) line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise BadFileError(f"cannot be read ({error})", line=reader.line_num) from None


# ---------------------------------------------------------------------------------------------------------------------
# what lines look like


def _kind(cell: str) -> str:
    cell = cell.strip()
    if _DATE.fullmatch(cell):
        return "date"
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return "word" if cell else ""
    return "number"


def _is_data(names: Sequence[str], row: Sequence[str], separator: str) -> bool:
    """Whether the first line looks like the rows: all numbers, or of the same kinds as the row below."""
    kinds, below = [_kind(name) for name in names], [_kind(cell) for cell in row]
    present = {kind for kind in kinds if kind}
    if present <= {"number", "date"}:
        return True
    if kinds != below or not present & {"number", "date"}:
        return False
    numbers = [name for name, kind in zip(names, kinds, strict=True) if kind == "number"]
    if "date" in present or not all(name.isdecimal() for name in numbers):
        return True
    steps = {int(b) - int(a) for a, b in pairwise(numbers)}
    return not (len(numbers) > 1 and len(steps) == 1 and steps != {0})  # 2019, 2020, 2021 are names


def _are_row_names(cells: Sequence[str]) -> bool:
    """Whether a column without a name is R's: 1, 2, 3, ..., or a different word in each row."""
    if len(cells) < 2:
        return False
    if cells == [str(k + 1) for k in range(len(cells))]:
        return True
    return len({*cells}) == len(cells) and all(_kind(cell) in ("word", "date") for cell in cells)


def _more_heads(frame: object, header: bool | None) -> int:
    """How many of the first rows have no number while the row after them has one."""
    import pandas as pd

    assert isinstance(frame, pd.DataFrame)
    if header is False:
        return 0
    numbers = [
        any(_kind(cell) == "number" for cell in row if isinstance(cell, str | int | float) for cell in [str(cell)])
        for row in frame.head(4).astype(object).where(frame.head(4).notna(), "").itertuples(index=False)
    ]
    return numbers.index(True) if True in numbers else 0


def _separator_hint(names: Sequence[str]) -> str:
    other = [word for word, mark in SEPARATORS.items() if len(names) == 1 and mark in names[0]]
    return f" (perhaps data.separator={other[0]})" if other else ""


def _comment_hint(first: str, text: TextFormat) -> str:
    mark = next((mark for mark in _COMMENTS if first.lstrip().startswith(mark)), None)
    if text.comment is not None or mark is None:
        return ""
    return f"; the first line begins with {mark}: \"data.comment='{mark}'\" skips such lines"
