"""The compiled kernels: machine code from disk, or compiled by Numba and then kept there.

To import Numba and to load one function from its own cache takes half a second. To hand machine code to LLVM takes
milliseconds, so that is what later starts do (`machine_code`), and only a machine's first one needs Numba.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from fedsim.models.numba_kernels import machine_code


class Kernel(NamedTuple):
    """A compiled function.

    Attributes:
        address: where it begins.
        holder: what its machine code lives as long as.
        kept: whether it was on disk.
    """

    address: int
    holder: Any
    kept: bool


@cache
def kernel(module: str, function: str, kinds: str, dtype: torch.dtype) -> Kernel:
    """Return a function of a module of this package.

    Args:
        module: the module's name in this package.
        function: the function's name in it.
        kinds: its arguments: ``p`` for pointers to numbers, ``i`` for int64.
        dtype: of the numbers, float32 or float64.
    """
    name = name_of(module, function, dtype)
    code = machine_code.read(name)
    if code is not None and (found := machine_code.load(code)) is not None:
        return Kernel(*found, True)
    compiling = importlib.import_module("fedsim.models.numba_kernels.compiling")
    address, holder, code = compiling.compiled(_function(module, function), kinds, dtype)
    if code is not None:
        machine_code.write(name, code)
    return Kernel(address, holder, False)


def name_of(module: str, function: str, dtype: torch.dtype) -> str:
    """What a function's file begins with.

    Raises:
        TypeError: if there are no kernels for a dtype.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"fused kernels are for float32 and float64, not {dtype}")
    return f"{module}.{function}-{str(dtype).removeprefix('torch.')}"


def _function(module: str, function: str) -> Callable[..., None]:
    found: Callable[..., None] = getattr(importlib.import_module(f"fedsim.models.numba_kernels.{module}"), function)
    return found
