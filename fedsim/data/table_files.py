"""CSV and Parquet files as pandas frames, refused in one line where they are damaged."""

from __future__ import annotations

import glob
import hashlib
from importlib import import_module
from pathlib import Path

from fedsim.data.table_frame import BadFileError, Done, File, check_names, shorten
from fedsim.data.table_text import TextFormat, read_text
from fedsim.errors import UserError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Endings of the files that are read from a folder."""


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


def read_file(file: Path, path: str, text: TextFormat, words: set[str]) -> File:
    """Read all columns of a file.

    Args:
        file: ``.parquet`` is Parquet, anything else is text, unpacked first if it ends in ``.gz``.
        path: what the user wrote, for messages.
        text: how texts are written.
        words: columns of a text that are words even where they look like numbers.

    Raises:
        UserError: if it is not a table.
    """
    try:
        found = _read_parquet(file) if file.suffix.lower() == ".parquet" else read_text(file, text, words)
        if not len(found.frame):
            raise BadFileError("has no rows")
    except BadFileError as error:
        raise UserError(f"data.path={path}: {file.name}{error}") from None
    except OSError as error:
        raise UserError(f"data.path={path}: {file} cannot be read ({error.strerror or error})") from None
    return found


def _read_parquet(file: Path) -> File:
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")  # both untyped
    except ImportError:
        raise BadFileError("is Parquet, which needs another package: pip install pyarrow") from None
    try:
        # Only what the file itself holds: neither pandas' own metadata nor the names of the folders are looked at.
        with pq.ParquetFile(file) as opened:
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
