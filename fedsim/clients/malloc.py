"""How the process handles memory that tensors give back."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGE, _AT_A_TIME = 2**30, 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor instead of giving it back to the system at once.

    Local steps make and drop the same tensors again and again. Fresh memory comes from the system as pages that are
    cleared at their first touch, which takes longer than the arithmetic of a small layer. The process then stays at
    the largest size that it had, which `engine.memory_budget` bounds.

    Returns:
        whether the C library could be told (only GNU's is; elsewhere nothing changes).
    """
    if sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE), (_M_TOP_PAD, _AT_A_TIME))
    return all(set_option(name, value) == 1 for name, value in settings)
