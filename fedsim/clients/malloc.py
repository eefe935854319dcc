"""How the process handles memory that tensors free."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

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
    if sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE), (_M_TOP_PAD, _AT_A_TIME))
    return all(set_option(name, value) == 1 for name, value in settings)
