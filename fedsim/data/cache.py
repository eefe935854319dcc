"""Converted arrays kept on disk, so that a second run need not import and convert the source again.

A cache may help but never hurt: any problem with it is logged, and the arrays are made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.caches import can_write, temporary_folder, usual

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 3
"""Part of every key: raise it when a converter changes what it stores."""

LARGE = 64 * 2**20
"""Arrays of at least this many bytes are memory-mapped instead of read."""

Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"

# What NumPy and zipfile are known to raise on truncated or damaged files.
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)

_log = logging.getLogger(__name__)


def cache_directories() -> list[Path]:
    """Return where to look for cached files; new ones are written to the last of these, and to none if there is none.

    That is ``$FEDSIM_CACHE_DIR``, else ``$XDG_CACHE_HOME/fedsim``, else ``~/.cache/fedsim``. Where that cannot be
    written to, or there is no home directory, as in a container, `fedsim.caches.temporary_folder` comes after it.
    """
    if own := os.environ.get("FEDSIM_CACHE_DIR"):
        return [Path(own)]
    home = usual("XDG_CACHE_HOME", ".cache")
    places = [] if home is None else [home / "fedsim"]
    if not places or not can_write(places[0]):
        if (folder := temporary_folder()) is None:
            return []
        places.append(folder / "data")
    return places


def cached_arrays(source: str, identity: str, names: Collection[str], make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of a data source from the cache, or make and keep them.

    Args:
        source: short name of the data source, the start of the file's name.
        identity: whatever the arrays depend on, such as the version of the library they come from.
        names: names of the arrays that `make` returns.
        make: computes the arrays.

    Returns:
        One array per name. No Python objects are read: the file is loaded with ``allow_pickle=False``.
    """
    key = hashlib.blake2b(f"{FORMAT_VERSION}/{source}/{identity}".encode(), digest_size=8).hexdigest()
    paths = [directory / f"{source}-{key}.npz" for directory in cache_directories()]
    for path in paths:
        if (arrays := _read(path, names)) is not None:
            return arrays
    arrays = make()
    if paths:
        _write(paths[-1], arrays)
    return arrays


def _read(path: Path, names: Collection[str]) -> Arrays | None:
    try:
        # Opened here, because NumPy leaves a damaged file open that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            large = [name for name in names if stored.zip.getinfo(f"{name}.npy").file_size >= LARGE]
            return {name: _map(path, stored.zip, name) if name in large else stored[name] for name in names}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _UNREADABLE as error:
        _log.warning("cannot use %s (%s: %s); making it again", path, type(error).__name__, error)
        return None


def _map(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    """Map an array of an archive, whose members `numpy.savez` stores as they are, one after another.

    Pages are read on access, so the data may be larger than memory; changes in memory do not reach the file. Unlike
    arrays that are read whole, mapped ones are not checked against their checksum.
    """
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)  # type: ignore[no-untyped-call]
        header = stream.tell()
    if dtype.hasobject or member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is not stored as plain numbers")
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        lengths = struct.unpack("<HH", file.read(4))  # of the member's name and extra field, which precede its content
    start = member.header_offset + 30 + sum(lengths) + header
    return np.memmap(path, dtype, "c", start, shape, "F" if fortran else "C")


def _write(path: Path, arrays: Arrays) -> None:
    """Write to a temporary file in the same folder and rename it, so that a reader sees the whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".tmp", dir=path.parent)
    except OSError as error:
        _log.warning("cannot cache in %s (%s); set FEDSIM_CACHE_DIR to use another place", path.parent, error)
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy types the option allow_pickle among the arrays
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _log.warning("cannot write %s (%s); set FEDSIM_CACHE_DIR to use another place", path, error)
    finally:
        Path(temporary).unlink(missing_ok=True)  # already gone if it was renamed
