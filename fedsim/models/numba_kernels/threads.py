"""Run a compiled kernel on several threads, on those of torch where possible.

torch's OpenMP threads keep spinning for milliseconds after each parallel operation. A second pool (Numba's or Python's)
would share the cores with them just then, so the kernels run on torch's own: through the same library and the same call
that a compiler makes for ``#pragma omp parallel``. Where torch brings no GNU OpenMP (macOS, Windows), Python threads do
it, because the kernels run without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fedsim.models.numba_kernels.kernels import Kernel


@cache
def _openmp() -> Any | None:
    """``GOMP_parallel(function, data, threads, flags)`` of the library that torch itself has loaded."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="fedsim-kernel")


def run(kernel: Kernel, data: int, threads: int) -> None:
    """Call a kernel on `threads` threads at once and wait for all of them.

    Args:
        kernel: a compiled function of one pointer.
        data: the address that every thread gets.
        threads: 1 or more.
    """
    parallel = _openmp()
    if parallel is not None and threads > 1:
        parallel(kernel.address, data, threads, 0)
        return
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address)
    if threads == 1:
        call(data)
    else:
        others = [_pool(threads - 1).submit(call, data) for _ in range(threads - 1)]
        call(data)
        for other in others:
            other.result()
