"""CSV and Parquet files as pandas frames, refused in one line where they are damaged."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError

if TYPE_CHECKING:  # importing pandas takes half a second, which a cached table need not spend
    import pandas as pd

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
DECIMALS = {"point": ".", "comma": ","}
SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Endings of the files that are read from a folder."""

NO_VALUE = ["", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
"""What a missing number looks like. In a column of words, such as names of clients, only an empty cell is missing."""


@dataclass(frozen=True)
class File:
    """What one file holds.

    Attributes:
        name: for messages.
        frame: its columns.
        first: number of the first row, in `unit`.
        unit: ``line`` of a text, ``row`` of a Parquet file.
        lines: ``[rows]`` line of each row, where quoted line breaks make it differ from the row's number, else None.
        hint: the probable reason if a column is missing.
    """

    name: str
    frame: pd.DataFrame
    first: int
    unit: str
    lines: NDArray[np.int64] | None = None
    hint: str = ""

    def place(self, row: int) -> str:
        """Where a row is, such as ``a.csv, line 7``."""
        return f"{self.name}, {self.unit} {row + self.first if self.lines is None else self.lines[row]}"


def find_files(path: str) -> list[Path]:
    """Return the files that a file, a folder or a glob names, in the order of their names.

    Raises:
        UserError: if there are none.
    """
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            files = [f for f in place.iterdir() if f.is_file() and not f.name.startswith(".")]
            files = [f for f in files if f.name.lower().endswith(SUFFIXES)]
            what = f"the folder has no {', '.join(SUFFIXES)} files directly in it"
        elif place.exists() or not glob.has_magic(path):
            files = [place]
            what = "there is no such file, folder or glob"
        else:
            files = [Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file()]
            what = "no file matches"
        files = sorted(f for f in files if f.exists())
        special = next((f for f in files if not f.is_file()), None)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"data.path={path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not files:
        raise UserError(f"data.path={path}: {what}")
    if special is not None:
        raise UserError(f"data.path={path}: {special} is not a file")
    return files


def digest(path: str, file: Path) -> str:
    """A digest of a file's content, or `UserError`."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()
    except OSError as error:
        raise UserError(f"data.path={path}: {file} cannot be read ({error.strerror})") from None


def read_file(file: Path, path: str, separator: str | None, decimal: str | None, words: set[str]) -> File:
    """Read all columns of a file.

    Args:
        file: ``.parquet`` is Parquet, anything else is text, unpacked first if it ends in ``.gz``.
        path: what the user wrote, for messages.
        separator: name of the character between the fields of a line, None for a comma.
        decimal: name of the decimal mark, None for a point.
        words: columns of a text that are words even where they look like numbers.

    Raises:
        UserError: if it is not a table.
    """
    try:
        if file.suffix.lower() == ".parquet":
            found = _read_parquet(file)
        else:
            found = _read_text(file, SEPARATORS[separator or "comma"], DECIMALS[decimal or "point"], words)
        if not len(found.frame):
            raise _BadFileError("has no rows")
    except _BadFileError as error:
        raise UserError(f"data.path={path}: {file.name}{error}") from None
    except OSError as error:
        raise UserError(f"data.path={path}: {file} cannot be read ({error.strerror or error})") from None
    return found


class _BadFileError(Exception):
    """What is wrong with a file, to be put behind its name."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(f" {text}" if line is None else f", line {line} {text}")


def _read_parquet(file: Path) -> File:
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")  # both untyped
    except ImportError:
        raise _BadFileError("is Parquet, which needs another package: pip install pyarrow") from None
    try:
        # Only what the file itself holds: neither pandas' own metadata nor the names of the folders are looked at.
        with pq.ParquetFile(file) as opened:
            table = opened.read()
        _check_names(table.column_names)
        frame = table.to_pandas(ignore_metadata=True, date_as_object=False, strings_to_categorical=False)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise _BadFileError(f"cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from None
    for name in frame.columns[[str(kind) == "category" for kind in frame.dtypes]]:
        frame[name] = frame[name].astype(object)
    return File(file.name, frame, first=1, unit="row")


def _read_text(file: Path, separator: str, decimal: str, words: set[str]) -> File:
    import pandas as pd

    data = _bytes(file)
    names, lines = _check_shape(data, separator)
    named = [name or f"\0{k}" for k, name in enumerate(names)]  # a column without a name is left out below
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            decimal=decimal,
            names=named,
            header=0,
            index_col=False,
            dtype=dict.fromkeys(words & {*names}, str),
            na_values={name: [""] if name in words else NO_VALUE for name in named},
            keep_default_na=False,
            skipinitialspace=True,
            skip_blank_lines=False,
            low_memory=False,  # in pieces, a column could be numbers at first and words later
            encoding="utf-8",
        )
    except (ValueError, OverflowError) as error:  # pandas' ParserError is a ValueError
        raise _BadFileError(f"cannot be read as CSV ({' '.join(str(error).split())[:200]})") from None
    if len(frame) != len(lines):
        raise _BadFileError(f"cannot be read as CSV ({len(lines)} rows by its line ends, {len(frame)} by its quotes)")
    plain = len(lines) == 0 or int(lines[-1]) == len(lines) + 1
    return File(
        file.name, frame[[name for name in names if name]], 2, "line", None if plain else lines, _separator_hint(names)
    )


def _bytes(file: Path) -> bytes:
    """A text's content, known to be UTF-8, without a byte order mark and the line ends at its end."""
    try:
        data = file.read_bytes()
        if file.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _BadFileError(f"cannot be unpacked ({error})") from None
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    if not data.strip():
        raise _BadFileError("is empty")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise _BadFileError(f"is not UTF-8 text (byte {error.start})") from None
    if b"\0" in data:
        raise _BadFileError(f"is not text (NUL at byte {data.index(0)})")
    return data


def _check_shape(data: bytes, separator: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the columns and the line of each row, having counted the fields of each."""
    if b'"' in data:
        records = [(line, record) for line, record in _records(data.decode(), separator)]
        first = records[0][1]
        lines, fields = [line for line, _ in records], [len(record) for _, record in records]
    else:
        rows = data.splitlines()  # at \n, \r and \r\n, as pandas
        first = next((record for _, record in _records(rows[0].decode(), separator)), [])
        mark = separator.encode()
        lines, fields = list(range(1, len(rows) + 1)), [row.count(mark) + 1 if row else 0 for row in rows]
    names = [name.strip() for name in first]
    if not any(names):
        raise _BadFileError("has an empty first line, which must name the columns")
    _check_names([name for name in names if name])
    if len(names) == 1:
        fields = [count or 1 for count in fields]  # an empty line is a missing value
    wrong = next((k for k, count in enumerate(fields) if count != len(names)), None)
    if wrong is not None:
        what = f"has {fields[wrong]} field(s)" if fields[wrong] else "is empty"
        what += f", but the first line names {len(names)} column(s){_separator_hint(names)}"
        raise _BadFileError(what, line=lines[wrong])
    return names, np.array(lines[1:], np.int64)


def _separator_hint(names: list[str]) -> str:
    other = [word for word, mark in SEPARATORS.items() if len(names) == 1 and mark in names[0]]
    return f" (perhaps data.separator={other[0]})" if other else ""


def _records(text: str, separator: str) -> Iterable[tuple[int, list[str]]]:
    """Yield each record with the number of its (last) line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise _BadFileError(f"cannot be read ({error})", line=reader.line_num) from None


def _check_names(names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise _BadFileError(f"names the column {twice[0]!r} more than once")


def shorten(names: Iterable[str], most: int = 10) -> str:
    """Up to `most` names, and how many more there are."""
    names = list(names)
    rest = len(names) - most
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown if rest <= 0 else f"{shown} and {rest} more"
