"""Memory that all kernels share, one call after another."""

from __future__ import annotations

import numpy as np

_memory = np.zeros(0, np.uint8)
_address = 0


def memory(size: int) -> int:
    """The address of at least `size` bytes that are kept from call to call; they are grown when needed."""
    global _memory, _address
    if len(_memory) < size + 64:
        _memory = np.zeros(size + 64, np.uint8)
        _address = -(-_memory.ctypes.data // 64) * 64
    return _address
