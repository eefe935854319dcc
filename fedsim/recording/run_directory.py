"""The files of a run: CSV rows flushed as they are made, and small files that appear whole or not at all."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fedsim.errors import RecordingFailed, UserError

FORMAT_VERSION = 1

LARGE = 2**20
"""Bytes of a CSV that take about a millisecond to read again."""

Cell = int | float | str | None


_WRITTEN = ("metrics.csv", "config.yaml", "timing.csv", "summary.json", "clients.csv", "resumed.json", "tracker.json")
_LONGEST = Path("checkpoints", ".round_000000.safetensors.partial")


_OWN = (
    *(".lock", ".fork.json", "config.yaml", "metrics.csv", "timing.csv", "clients.csv", "summary.json", "resumed.json"),
    *("run.log", "tracker.json", "multirun.yaml", "sweep.yaml", "sweep.csv", "checkpoints", ".hydra", "export"),
    *("optimization_results.yaml", ".submitit", "tensorboard", "wandb"),
)
"""What fedsim reads and writes in a directory of a run or a sweep."""


def refuse_links(directory: Path) -> None:
    """Raise `UserError` if a file of a run or a sweep is a link, a pipe or a device.

    A directory may be a stranger's: through a link, a resumed run would write over a file elsewhere, and a pipe would
    never be read to its end. What others keep there, such as trackers, is theirs.
    """
    for name in _OWN:
        path = directory / name
        holds = name in ("checkpoints", ".hydra") and os.path.isdir(path) and not os.path.islink(path)
        below = path.iterdir() if holds else ()
        for found in (path, *below):
            try:
                mode = found.lstat().st_mode
            except OSError:  # not there, or not to be looked at, which is told by who needs it
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "no regular file"
                raise UserError(f"{found}: is {what}; nothing in the directory of a run is followed")


def refuse_linked_jobs(folder: Path, directory: Path) -> None:
    """Raise `UserError` if a folder between that of a sweep and the directory of its job is a link."""
    for place in (directory, *directory.parents):
        if place == folder:  # what the user named may be a link
            return
        if place.is_symlink():
            raise UserError(f"{place}: is a link; nothing in the directory of a sweep is followed")


def refuse_used(directory: Path, key: str) -> None:
    """Raise `UserError` if a run in `directory`, chosen by config key `key`, would write over files, or cannot write.

    Checkpoints count, because a run prunes them.
    """
    try:
        (directory.absolute() / _LONGEST).exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{key}={directory}: is too long for the name of a directory") from None
    refuse_links(directory)
    names = [*_WRITTEN, *(name for name in (".hydra", "checkpoints") if any((directory / name).glob("*")))]
    for name in names:
        if (directory / name).exists():
            way_out = ""
            if name in ("metrics.csv", "config.yaml"):
                way_out = f", or continue that run with fedsim resume {directory}"
            what = f"holds a run ({name})" if way_out else f"holds {name}, which a run would write over"
            raise UserError(f"{key}={directory}: already {what}; choose another directory{way_out}")
    for parent in (directory, *directory.parents):
        if parent.exists() and not parent.is_dir():
            raise UserError(f"{key}={directory}: {parent} is a file")
        if parent.exists() and not os.access(parent, os.W_OK):
            raise UserError(f"{key}={directory}: {parent} cannot be written to")
        if parent.exists():
            return


def refuse_other_sweep(folder: Path, key: str) -> None:
    """Raise `UserError` if `folder`, chosen by config key `key`, holds a sweep, whose table a new one would replace."""
    for name in ("sweep.yaml", "sweep.csv"):
        if (folder / name).exists():
            raise UserError(
                f"{key}={folder}: already holds a sweep ({name}); choose another folder, or finish that sweep by "
                f"repeating its command with --resume {folder}"
            )


def format_cell(value: Cell) -> str:
    """Write integers as integers, floats in full (the shortest text that reads back the same), None as empty."""
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _lines(rows: Iterable[Sequence[Cell]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([format_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def digest_of(content: bytes) -> hashlib.blake2b:
    """Return a digest of `content` that can be updated with more."""
    return hashlib.blake2b(content, digest_size=16)


class CsvWriter:
    """Appends rows to a CSV; each row reaches the operating system, whole, before the next is made.

    Args:
        path: the file.
        columns: its header.
        keep: bytes of an existing file to keep; the rest, such as half a row, is cut off. None: the file must be new.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: int | None = None) -> None:
        self._columns, self._path = tuple(columns), path
        self._digest, self._size = digest_of(b""), 0
        with self._named():
            if keep is None:
                self._file = path.open("x+b", buffering=0)
            else:
                self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
                self._digest.update(self._file.read(keep))
            try:
                self._begin(keep)
            except OSError:
                self._file.close()
                raise

    def _begin(self, keep: int | None) -> None:
        if keep:
            self._file.truncate(keep)
            self._file.seek(keep)
            self._size = keep
            self.sync()
        else:
            self._file.truncate(0)
            self._append(_lines([self._columns]))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let errors say which file they are about: a failed write, sync or truncation does not."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise

    def write(self, row: Mapping[str, Cell]) -> None:
        """Write one row; raises `ValueError` if its keys are not the columns."""
        if set(row) != set(self._columns):
            raise ValueError(f"row {sorted(row)} does not have the columns {sorted(self._columns)}")
        self._append(_lines([[row[name] for name in self._columns]]))

    def _append(self, content: bytes) -> None:
        """Write in one call; if only a part of a row can be written, remove that part and raise `OSError`."""
        with self._named():
            end = self._file.tell()
            try:
                written = self._file.write(content)
                while written < len(content):  # the next call raises the reason
                    written += self._file.write(content[written:])
            except OSError:
                with suppress(OSError):  # a device, for one
                    self._file.truncate(end)
                    self._file.seek(end)
                raise
            self._digest.update(content)
            self._size += len(content)

    def mark(self) -> dict[str, Any]:
        """What the file holds now, or held when it was closed: its size in bytes and a digest of them."""
        return {"size": self._size, "digest": self._digest.hexdigest()}

    def check(self, whole: bool = False) -> None:
        """Raise `RecordingFailed` unless the file under its name is this one and holds what was written to it.

        Args:
            whole: read all of a large file too (`LARGE`), whose beginning is otherwise taken to be what it was.
        """
        with self._named():
            size, own = self._size, os.fstat(self._file.fileno())
            try:
                found = self._path.stat()
            except FileNotFoundError:
                raise RecordingFailed(self._lost("was deleted or moved")) from None
            if not os.path.samestat(own, found):
                raise RecordingFailed(self._lost("was replaced by another file"))
            if found.st_size != size:
                raise RecordingFailed(self._lost(f"has {found.st_size} bytes instead of the {size} that were written"))
            if whole or size <= LARGE:
                content = os.pread(self._file.fileno(), size, 0)
                if digest_of(content).digest() != self._digest.digest():
                    raise RecordingFailed(self._lost("no longer holds what was written"))

    def _lost(self, what: str) -> str:
        return f"{self._path}: {what}, by another program during the run, which ends here"

    def sync(self) -> None:
        """Wait until all rows are on disk, so that nothing that relies on them can outlive them."""
        with self._named():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_new(path: Path) -> BinaryIO:
    """Open a file that was not there, or is a leftover, for writing: never what a link of that name leads to."""
    try:
        return path.open("xb")
    except FileExistsError:
        path.unlink()
        return path.open("xb")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it: a reader sees the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open_new(temporary) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_files(directory: Path, files: Mapping[str, str]) -> None:
    """Write small files atomically: path within the directory to content."""
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        write_atomically(directory / name, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; numbers that are not finite become null, as JSON has none."""
    write_atomically(path, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(child) for key, child in value.items()}
    return [_finite(child) for child in value] if isinstance(value, list | tuple) else value


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a whole CSV atomically; NaN becomes an empty cell."""
    cells = ([None if isinstance(value, float) and value != value else value for value in row] for row in rows)
    write_atomically(path, _lines([columns, *cells]))
