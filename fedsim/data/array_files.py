"""Samples written to the cache as they are made, and mapped from there: neither needs them in memory.

What `fedsim.data.cache` keeps is made in memory first; this is for data that are larger.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fedsim.data.cache import cache_directories
from fedsim.errors import UserError
from fedsim.json_bounds import read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 1
"""Part of every key: raise it when a converter changes what it stores."""

_ABOUT = "about.json"
_log = logging.getLogger(__name__)


class Writer:
    """Arrays that grow by rows.

    Attributes:
        about: what else is kept: plain data.
    """

    def __init__(self, folder: Path, arrays: Mapping[str, tuple[str, int]], files: Mapping[str, IO[bytes]]) -> None:
        self.about: dict[str, Any] = {}
        self._folder, self._arrays, self._files = folder, arrays, files

    def append(self, name: str, rows: NDArray[np.generic]) -> None:
        """Add rows ``[n, width]`` (``[n]`` for a width of 1) to an array."""
        self._files[name].write(np.ascontiguousarray(rows, self._arrays[name][0]).data)


def mapped_arrays(
    source: str, identity: str, arrays: Mapping[str, tuple[str, int]], make: Callable[[Writer], None]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays of the cache, made there first if they are not, and what else was kept with them.

    Args:
        source: short name of the data source, the start of the folder's name.
        identity: whatever the arrays depend on.
        arrays: the type, such as ``int16``, and the width of a row of each array.
        make: writes all rows.

    Returns:
        Arrays ``[n, width]``, or ``[n]`` for a width of 1, in pages that are read on access, and `Writer.about`.

    Raises:
        UserError: if they cannot be written.
    """
    key = hashlib.blake2b(f"{FORMAT_VERSION}/{source}/{identity}/{arrays}".encode(), digest_size=8).hexdigest()
    folders = [directory / f"{source}-{key}" for directory in cache_directories()]
    for folder in folders:
        if (found := _read(folder, arrays)) is not None:
            return found
    if not folders:
        raise UserError(f"data={source}: there is no folder for the converted data; set FEDSIM_CACHE_DIR")
    with _writing(folders[-1], arrays) as writer:
        make(writer)
    found = _read(folders[-1], arrays)
    if found is None:
        raise UserError(f"{folders[-1]}: what was written cannot be read again; set FEDSIM_CACHE_DIR to another disk")
    return found


@contextmanager
def _writing(folder: Path, arrays: Mapping[str, tuple[str, int]]) -> Iterator[Writer]:
    """Write to a temporary folder beside the final one and rename it, so that a reader sees all of it or nothing."""
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", suffix=".tmp", dir=folder.parent))
        with ExitStack() as stack:
            files = {name: stack.enter_context((temporary / f"{name}.bin").open("wb")) for name in arrays}
            writer = Writer(temporary, arrays, files)
            yield writer
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        sizes = {name: (temporary / f"{name}.bin").stat().st_size for name in arrays}
        (temporary / _ABOUT).write_text(json.dumps({"sizes": sizes, "about": writer.about}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # one that cannot be read
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: the converted data cannot be written ({error.strerror}); set FEDSIM_CACHE_DIR to a place with "
            "more room"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # already gone if it was renamed


def _read(folder: Path, arrays: Mapping[str, tuple[str, int]]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    if not (folder / _ABOUT).is_file():
        return None
    try:
        kept = read_json(folder / _ABOUT)
        found = {name: _map(folder / f"{name}.bin", *arrays[name], kept["sizes"][name]) for name in arrays}
        return found, dict(kept["about"])
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("cannot use %s (%s: %s); making it again", folder, type(error).__name__, error)
        return None


def _map(file: Path, dtype: str, width: int, size: int) -> NDArray[Any]:
    """Map a file; changes in memory do not reach it."""
    if file.stat().st_size != size or size % (np.dtype(dtype).itemsize * width):
        raise ValueError(f"{file.name} has another size than was written")
    shape = (-1, width) if width > 1 else (-1,)
    if size == 0:
        return np.zeros(0, dtype).reshape((0, width) if width > 1 else (0,))
    return np.memmap(file, dtype, "c").reshape(shape)
