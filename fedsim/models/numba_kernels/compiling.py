"""Compile a function to machine code with Numba."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from numba import types
from numba.core import config
from numba.core.ccallback import CFunc

from fedsim.errors import UserError
from fedsim.models.numba_kernels.machine_code import Code
from fedsim.models.numba_kernels.pointers import c_type

_HELPERS = ("numba_", "NRT_")


def compiled(function: Callable[..., None], kinds: str, dtype: torch.dtype) -> tuple[int, Any, Code | None]:
    """Compile a function of `kinds` of arguments.

    Returns:
        its address, what its code lives as long as, and the code to keep; None if another process could not load it,
        because it calls what only Numba knows.

    Raises:
        UserError: if Numba is told not to compile.
    """
    if config.DISABLE_JIT:
        raise UserError(
            "NUMBA_DISABLE_JIT is set, so that no kernels can be compiled: unset it, or engine.kernels=torch"
        )
    pointer = types.CPointer(types.float32 if dtype == torch.float32 else types.float64)
    signature = c_type(kinds, pointer)
    options = {"nopython": True, "error_model": "numpy"}
    result = CFunc(function, (signature.args, signature.return_type), locals={}, options=options)
    result.compile()
    return result.address, result, _code(result)


def _code(result: Any) -> Code | None:
    library = result._library
    called = [
        value.name
        for value in (*library._final_module.functions, *library._final_module.global_variables)
        if value.is_declaration and not value.name.startswith("llvm.")
    ]
    helpers = tuple(name for name in called if name.startswith(_HELPERS))
    process = ctypes.CDLL(None)
    if not all(hasattr(process, name) for name in called if name not in helpers):
        return None
    content, _ = library.serialize_using_object_code()[2]
    return Code(result.native_name, helpers, content)
