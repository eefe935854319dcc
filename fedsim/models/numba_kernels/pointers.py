"""Pointers, counters, copies and calls for Numba: what the kernels need and the language does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]  # it has no types
from numba import types
from numba.core import cgutils, errors

from fedsim.models.numba_kernels.machine import VECTOR_BYTES

INT = ir.IntType(64)
LANE = ir.IntType(32)


def njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into the kernel that calls it (`numba.njit` is untyped)."""
    compiled: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


def intrinsic(generator: Callable[..., Any]) -> Any:
    """Make a function of one that returns a signature and writes its code (`numba.extending.intrinsic` is untyped)."""
    return numba.extending.intrinsic(generator)


def lanes_of(dtype: types.Type) -> int:
    """Numbers of a type in a vector."""
    return VECTOR_BYTES // int(dtype.bitwidth // 8)


def float_of(dtype: types.Type) -> ir.Type:
    """LLVM's type for a Numba float."""
    return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()


@intrinsic
def lanes(context: Any, pointer: types.CPointer) -> Any:
    """Numbers per vector of the pointer's type."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return INT(lanes_of(pointer.dtype))

    return types.intp(pointer), generate


@intrinsic
def advance(context: Any, pointer: types.CPointer, count: types.Integer) -> Any:
    """``pointer + count``."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def as_table(context: Any, pointer: types.CPointer) -> Any:
    """The same address, read as int64."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.bitcast(args[0], INT.as_pointer())

    return types.CPointer(types.int64)(pointer), generate


@intrinsic
def at_address(context: Any, like: types.CPointer, address: types.Integer) -> Any:
    """A pointer of the type of `like` to an address."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(args[1], args[0].type)

    return like(like, types.intp), generate


def c_type(kinds: str, pointer: types.CPointer) -> Any:
    """The C signature ``void(...)`` of arguments spelled as ``p`` (pointer to numbers) and ``i`` (int64)."""
    return types.void(*(pointer if kind == "p" else types.int64 for kind in kinds))


def caller(kinds: str) -> Any:
    """Make ``f(address, arguments)``, which calls the C function ``void(...)`` of these `kinds` at an address.

    Kernels call each other by address so that each is compiled once, instead of into every kernel that uses it.
    """

    @intrinsic
    def call(context: Any, address: types.Integer, arguments: types.BaseTuple) -> Any:
        found = "".join("i" if isinstance(value, types.Integer) else "p" for value in arguments)
        if found != kinds:
            raise errors.TypingError(f"arguments {found} where {kinds} are expected")

        def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
            values = cgutils.unpack_tuple(builder, args[1])
            function = ir.FunctionType(ir.VoidType(), [value.type for value in values])
            builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
            return ctx.get_dummy_value()

        return types.void(types.intp, arguments), generate

    return call


@intrinsic
def take_ticket(context: Any, counter: types.CPointer) -> Any:
    """Add one to a counter that all threads share; return what it was."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.atomic_rmw("add", args[0], INT(1), "monotonic")

    return types.int64(types.CPointer(types.int64)), generate


@intrinsic
def copy(context: Any, target: types.CPointer, source: types.CPointer, count: types.Integer) -> Any:
    """Copy `count` numbers."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        size = builder.mul(args[2], INT(target.dtype.bitwidth // 8))
        cgutils.raw_memcpy(builder, args[0], args[1], size, 1)
        return ctx.get_dummy_value()

    return types.void(target, target, types.intp), generate


@intrinsic
def clear(context: Any, target: types.CPointer, count: types.Integer) -> Any:
    """Write `count` zeros."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        size = builder.mul(args[1], INT(target.dtype.bitwidth // 8))
        cgutils.memset(builder, args[0], size, 0)
        return ctx.get_dummy_value()

    return types.void(target, types.intp), generate


@njit
def fill(target: Any, count: int, value: float) -> None:
    """Write a number `count` times."""
    for j in range(count):
        target[j] = value


@intrinsic
def prefetch(context: Any, start: types.CPointer, count: types.Integer) -> Any:
    """Ask for `count` numbers to be brought into the cache."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, LANE, LANE, LANE])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        line = INT(64 // (start.dtype.bitwidth // 8))
        with cgutils.for_range_slice(builder, INT(0), args[1], line, inc=True) as (j, _):
            place = builder.bitcast(builder.gep(args[0], [j]), byte)
            builder.call(function, [place, LANE(0), LANE(2), LANE(1)])  # to read, second-level cache, data
        return ctx.get_dummy_value()

    return types.void(start, types.intp), generate
