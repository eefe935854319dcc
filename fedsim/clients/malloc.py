"""How the process handles memory that tensors free."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGE, _AT_A_TIME = 2**30, 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor instead of returning it to the system at once.

    Local steps allocate and free the same tensors again and again. Fresh memory comes from the system as pages that
    are cleared when first touched, which takes longer than the arithmetic of a small layer. With this setting the
    process stays at its peak size, which `engine.memory_budget` bounds.

    Returns:
        whether the setting took effect (only the GNU C library has it; elsewhere nothing changes).
    """
    set_option = _function("mallopt")
    if set_option is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE), (_M_TOP_PAD, _AT_A_TIME))
    return all(set_option(name, value) == 1 for name, value in settings)


def return_freed_memory() -> None:
    """Return all freed memory to the system once, where the C library can; what is freed later is kept as before."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any | None:
    """A function of the C library; None if this is another than GNU's."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
