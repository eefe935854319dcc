"""Files of tables as pandas frames, refused in one line where they are damaged."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from fedsim.data.table_frame import BadFileError, Done, File, check_names, shorten
from fedsim.data.table_kinds import read_json_lines, read_tsf
from fedsim.data.table_text import TextFormat, read_text
from fedsim.errors import FieldError, UserError
from fedsim.extras import install_hint

JSON, TSF = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"), (".tsf",)
KINDS = ((".csv", ".csv.gz", ".parquet"), (".tsv", ".tsv.gz"), (".psv", ".psv.gz"), JSON, TSF)
"""Endings of the files that are read from a folder, if all that are tables are of one kind."""
PLAIN = (".txt", ".txt.gz")
"""Endings of files that may be tables: read from a folder that has no others."""
SUFFIXES = (*(suffix for kind in KINDS for suffix in kind), *PLAIN)


def find_files(path: str, but: str | None = None) -> list[Path]:
    """Return the files that a file, a folder or a glob names, in the order of their names.

    Args:
        path: the file, folder or glob.
        but: a file that is none of them, even where it lies among them.

    Raises:
        UserError: if there are none, or a folder holds tables of several kinds.
    """
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            files = [f for f in place.iterdir() if f.is_file() and not f.name.startswith(".")]
            files = _tables(path, [f for f in files if not _same(f, but)])
            what = f"the folder has no {', '.join(SUFFIXES)} files directly in it"
        elif place.exists() or not glob.has_magic(path):
            files = [place]
            what = "there is no such file, folder or glob"
        else:
            files = [Path(name) for name in glob.glob(str(place), recursive=True)]
            files = [f for f in files if f.is_file() and not _same(f, but)]
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


def _same(file: Path, other: str | None) -> bool:
    return other is not None and file.resolve() == Path(other).expanduser().resolve()


def _tables(path: str, files: list[Path]) -> list[Path]:
    """Those of a folder's files that are tables, of one kind."""
    kinds = [found for kind in KINDS if (found := [f for f in files if f.name.lower().endswith(kind)])]
    if len(kinds) > 1:
        names = " and ".join(repr(min(kind).name) for kind in kinds)
        ending = min(kinds[0]).suffix
        raise UserError(
            f"data.path={path}: the folder holds tables of several kinds, such as {names}; a glob names those to read, "
            f"such as data.path='{path.rstrip('/')}/*{ending}'"
        )
    return kinds[0] if kinds else [f for f in files if f.name.lower().endswith(PLAIN)]


def check_text_settings(paths: Sequence[Path], text: TextFormat) -> None:
    """Raise `FieldError` if a setting of delimited text has no effect on any of the files."""
    others = (".parquet", *JSON, *TSF)
    if not all(path.name.lower().endswith(others) for path in paths):
        return
    json = any(path.name.lower().endswith(JSON) for path in paths)
    kind = "Parquet" if all(path.suffix.lower() == ".parquet" for path in paths) else "of other kinds"
    for option in fields(TextFormat):
        value = getattr(text, option.name)
        if (
            value != option.default
            and option.name not in ("na_values", "gzip_ratio")
            and not (json and option.name == "encoding")
        ):
            value = [*value] if isinstance(value, tuple) else value
            raise FieldError(f"data.{option.name}", value, f"has an effect only on text, and all files are {kind}")


def digest(path: str, file: Path, key: str = "path") -> str:
    """A digest of a file's content, or `UserError`."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()
    except OSError as error:
        raise UserError(f"data.{key}={path}: {file} cannot be read ({error.strerror})") from None


def read_file(file: Path, path: str, text: TextFormat, words: set[str] | None, key: str = "path") -> File:
    """Read all columns of a file.

    Args:
        file: ``.parquet`` is Parquet, ``.jsonl`` and ``.ndjson`` JSON lines, ``.tsf`` the form of Monash's archive, and
            anything else text, unpacked first if it ends in ``.gz``.
        path: what the user wrote, for messages.
        text: how texts are written.
        words: columns of a text that are words even where they look like numbers; None for all.
        key: the key that the user wrote it for.

    Raises:
        UserError: if it is not a table.
    """
    try:
        found = _read(file, text, words)
        if not len(found.frame):
            raise BadFileError("has no rows")
    except BadFileError as error:
        raise UserError(f"data.{key}={path}: {file.name}{error}") from None
    except OSError as error:
        raise UserError(f"data.{key}={path}: {file} cannot be read ({error.strerror or error})") from None
    return found


def _read(file: Path, text: TextFormat, words: set[str] | None) -> File:
    name = file.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(file)
    if name.endswith(JSON):
        return read_json_lines(file, text)
    if name.endswith(TSF):
        return read_tsf(file)
    return read_text(file, text, words)


def _check_size(rows: int, columns: int) -> None:
    """Refuse a file of a few bytes that says it holds more numbers than the machine has room for."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
    if 8 * rows * columns > there:
        raise BadFileError(
            f"has {rows:,} rows of {columns:,} columns, {8 * rows * columns / 2**30:,.1f} GiB; this machine has "
            f"{there / 2**30:,.1f} GiB"
        )


def _read_parquet(file: Path) -> File:
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")  # both untyped
    except ImportError:
        raise BadFileError(f"is Parquet, which needs pyarrow; {install_hint('parquet')}") from None
    try:
        # Only what the file itself holds: neither pandas' own metadata nor the names of the folders are looked at.
        with pq.ParquetFile(file) as opened:
            _check_size(opened.metadata.num_rows, opened.metadata.num_columns)
            table = opened.read()
        names = [name.strip() for name in table.column_names]
        check_names(names)
        frame = table.to_pandas(ignore_metadata=True, date_as_object=False, strings_to_categorical=False)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise BadFileError(f"cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from None
    for name in frame.columns[[str(kind) == "category" for kind in frame.dtypes]]:
        frame[name] = frame[name].astype(object)
    loose = [name for name in frame.columns if name != name.strip()]
    text = f"blanks at the ends of names of columns are left out: {shorten(loose)}"
    notes = (Done(text, file.name),) if loose else ()
    return File(file.name, frame.set_axis(names, axis=1), first=1, unit="row", notes=notes)
