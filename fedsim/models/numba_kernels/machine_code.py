"""Machine code of kernels on disk: LLVM's object files, each behind a digest of what it should be.

A file is found by its name, which holds a digest of all that its code depends on: this package's source, the versions
of Numba, LLVM and Python, the processor, and Numba's settings in the environment. It is read from folders that Numba
itself would load code from, and no Python object is in it. What is damaged is compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import sys
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm  # type: ignore[import-untyped]  # it has no types

from fedsim.caches import place_for_kernels

_log = logging.getLogger(__name__)
_DIGEST = 32
_stub = ctypes.CFUNCTYPE(None)(os.abort)


class Code(NamedTuple):
    """A compiled function.

    Attributes:
        symbol: its name in the object file.
        helpers: the functions of Numba that it would call to raise an exception, which no kernel does.
        content: the object file.
    """

    symbol: str
    helpers: tuple[str, ...]
    content: bytes


def read(name: str) -> Code | None:
    """Return the function's code, or None if there is none, or a damaged one."""
    file = file_of(name)
    try:
        stored = b"" if file is None or not file.is_file() else file.read_bytes()  # a pipe would be waited for
    except OSError:
        return None
    digest, body = stored[:_DIGEST], stored[_DIGEST:]
    if not body:
        return None
    if hashlib.sha256(body).digest() != digest:
        _log.warning("%s is damaged; compiling it again", file)
        return None
    head, _, content = body.partition(b"\n")
    symbol, helpers = json.loads(head)
    return Code(symbol, tuple(helpers), content)


def write(name: str, code: Code) -> None:
    """Keep the function's code: a reader sees all of the file or none of it."""
    file = file_of(name)
    if file is None:
        return
    body = json.dumps([code.symbol, code.helpers]).encode() + b"\n" + code.content
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f"{name}-", suffix=".tmp", dir=file.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(hashlib.sha256(body).digest() + body)
        os.replace(temporary, file)
    except OSError as error:  # a full disk, say
        _log.warning("cannot keep compiled kernels in %s (%s)", file.parent, error)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def file_of(name: str) -> Path | None:
    """The file that the function's code is or would be in, or None if there is no folder to write to."""
    place = place_for_kernels(Path(__file__).parent)
    return None if place is None else place / f"{name}-{_key()}.o"


def load(code: Code) -> tuple[int, Any] | None:
    """Return the address of the function and what its code lives as long as; None where LLVM finds no such function."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for helper in code.helpers:
        # Numba's own, where Numba is at work: then the name is known, and other code's exceptions need it.
        if llvm.address_of_symbol(helper) is None:
            llvm.add_symbol(helper, ctypes.cast(_stub, ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.content))
    engine.finalize_object()
    address: int = engine.get_function_address(code.symbol)
    return (address, engine) if address else None


@cache
def _key() -> str:
    """A digest of all that machine code depends on, besides the function's name and the dtype."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))
    versions = metadata.version("numba"), metadata.version("llvmlite"), sys.version, sys.platform
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    digest.update(repr((settings, versions, processor)).encode())
    return digest.hexdigest()[:16]
