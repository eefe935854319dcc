"""The inner loops of matrix products and transpositions, with a block of the result held in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # it has no types
from numba import types
from numba.core import cgutils

from fedsim.models.numba_kernels.formulas import load, splat, store, vector_name
from fedsim.models.numba_kernels.machine import FEATURES
from fedsim.models.numba_kernels.pointers import INT, LANE, float_of, intrinsic, lanes_of

_MANY_REGISTERS = bool(FEATURES.get("avx512f")) or "sse2" not in FEATURES  # 32 vector registers (ARM too), else 16
TILE_ROWS = {1: 12, 2: 12, 3: 8} if _MANY_REGISTERS else {1: 6, 2: 6, 3: 4}
"""Most rows of a block of the result, by its width in vectors: all of it and one row of factors fit the registers."""


@intrinsic
def transpose_block(
    context: Any, target: types.CPointer, ldt: types.Integer, source: types.CPointer, lds: types.Integer
) -> Any:
    """Transpose a square of as many rows as a vector has lanes; rows lie `ldt` and `lds` apart."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        to, ld_to, start, ld_from = args
        vector = ir.VectorType(float_of(target.dtype), lanes_of(target.dtype))
        size = vector.count
        rows = [load(builder, builder.gep(start, [builder.mul(ld_from, INT(i))]), vector) for i in range(size)]
        distance = 1
        while distance < size:  # swap the off-diagonal quarters of ever larger squares
            keep = [lane if not lane & distance else lane - distance + size for lane in range(size)]
            other = [lane + distance if not lane & distance else lane + size for lane in range(size)]
            kind = ir.VectorType(LANE, size)
            for i in range(size):
                if not i & distance:
                    pair = rows[i], rows[i + distance]
                    rows[i] = builder.shuffle_vector(*pair, ir.Constant(kind, keep))
                    rows[i + distance] = builder.shuffle_vector(*pair, ir.Constant(kind, other))
            distance *= 2
        for i, row in enumerate(rows):
            store(builder, row, builder.gep(to, [builder.mul(ld_to, INT(i))]))
        return ctx.get_dummy_value()

    return types.void(target, types.intp, target, types.intp), generate


def tiles(width: int) -> Any:
    """Make ``f(rows, c, ldc, start, ld_start, a, row_stride, k_stride, b, ldb, k)``: ``c = start + a @ b``.

    The block stays in registers. ``c`` is `rows` (1 to ``TILE_ROWS[width]``) by `width` vectors; ``a[i, k]`` lies at
    ``i * row_stride + k * k_stride``; the rows of `b` are `ldb` apart, those of `start` `ld_start` (0: one for all).
    """

    @intrinsic
    def block(
        context: Any,
        rows: types.Integer,
        c: types.CPointer,
        ldc: types.Integer,
        start: types.CPointer,
        ld_start: types.Integer,
        a: types.CPointer,
        row_stride: types.Integer,
        k_stride: types.Integer,
        b: types.CPointer,
        ldb: types.Integer,
        k: types.Integer,
    ) -> Any:
        def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
            done = builder.append_basic_block("tiles_done")
            switch = builder.switch(args[0], done)
            for height in range(1, TILE_ROWS[width] + 1):
                case = builder.append_basic_block(f"tile_{height}")
                switch.add_case(INT(height), case)
                builder.position_at_end(case)
                _tile(builder, height, width, ir.VectorType(float_of(c.dtype), lanes_of(c.dtype)), args[1:])
                builder.branch(done)
            builder.position_at_end(done)
            return ctx.get_dummy_value()

        whole = types.intp
        return types.void(whole, c, whole, c, whole, c, whole, whole, c, whole, whole), generate

    return block


def _tile(builder: ir.IRBuilder, height: int, width: int, vector: ir.VectorType, args: Sequence[ir.Value]) -> None:
    c, ldc, initial, ld_initial, a, row_stride, k_stride, b, ldb, k = args
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{vector_name(vector)}"
    )

    def block(base: ir.Value, ld: ir.Value) -> list[list[ir.Value]]:
        rows = [builder.gep(base, [builder.mul(ld, INT(i))]) for i in range(height)]
        return [[builder.gep(row, [INT(v * vector.count)]) for v in range(width)] for row in rows]

    start = [[load(builder, place, vector) for place in row] for row in block(initial, ld_initial)]
    offsets = [builder.mul(row_stride, INT(i)) for i in range(height)]
    before, body, after = builder.block, builder.append_basic_block("k_loop"), builder.append_basic_block("k_done")
    builder.branch(body)  # k is at least 1

    builder.position_at_end(body)
    step, at_a, at_b = builder.phi(INT), builder.phi(a.type), builder.phi(b.type)
    sums = [[builder.phi(vector) for _ in row] for row in start]
    factors = [load(builder, builder.gep(at_b, [INT(v * vector.count)]), vector) for v in range(width)]
    results = []
    for i in range(height):
        value = splat(builder, builder.load(builder.gep(at_a, [offsets[i]])), vector)
        results.append([builder.call(multiply_add, [value, factors[v], sums[i][v]]) for v in range(width)])
    following = builder.add(step, INT(1))
    for phi, first, second in (
        (step, INT(0), following),
        (at_a, a, builder.gep(at_a, [k_stride])),
        (at_b, b, builder.gep(at_b, [ldb])),
        *((sums[i][v], start[i][v], results[i][v]) for i in range(height) for v in range(width)),
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(second, body)
    builder.cbranch(builder.icmp_signed("<", following, k), body, after)

    builder.position_at_end(after)
    for values, places in zip(results, block(c, ldc), strict=True):
        for value, place in zip(values, places, strict=True):
            store(builder, value, place)
