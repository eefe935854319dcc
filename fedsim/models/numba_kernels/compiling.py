"""Compile a kernel to a C function once per machine, and keep it on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from fedsim.caches import find_place_for_numba

_log = logging.getLogger(__name__)


class _Kept(FunctionCache):  # type: ignore[misc]  # Numba is not typed
    """Numba's cache of a function on disk, of which no trouble with the disk ends a run: it compiles anew."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever a damaged file makes of itself
            _log.warning("cannot use the compiled kernels in %s (%s); compiling them again", self.cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:  # a full disk, or an index that is damaged
            _log.warning("cannot keep compiled kernels in %s (%s)", self.cache_path, error)


def disk_cache(function: Callable[..., None]) -> Any:
    """Numba's cache of a function, made to notice changes in all files of this package, not only in the function's.

    None if there is no folder that can be written to.
    """
    here = Path(__file__).parent
    if not find_place_for_numba(here):
        return None
    disk = _Kept(function)
    disk._cache_file._source_stamp = _stamp(here)
    return disk


@cache
def _stamp(package: Path) -> list[tuple[float, int]]:
    """Times and sizes of the files of a package, as this process has imported them."""
    files = (path.stat() for path in sorted(package.glob("*.py")))
    return [(file.st_mtime, file.st_size) for file in files]


@cache
def compiled_function(function: Callable[..., None], signature: Any) -> Any:
    """Compile, or load from disk."""
    options = {"nopython": True, "error_model": "numpy"}
    result = CFunc(function, (signature.args, signature.return_type), locals={}, options=options)
    if (disk := disk_cache(function)) is not None:
        result._cache = disk
    result.compile()
    return result
