"""The machine's own peak: float32 multiply-adds in registers alone, one compiled loop per core.

No training can be faster, because this loop reads and writes no memory and no sum waits for another. LLVM's vectors
and its fused multiply-add are written out instead of left to a vectoriser. Run by `benchmark.py` as
``python -m bench.peak SPEC``.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils

from bench.workloads import Spec, Turns
from fedsim.models.numba_kernels.machine import FEATURES, VECTOR_BYTES
from fedsim.models.numba_kernels.pointers import intrinsic

LANES = VECTOR_BYTES // 4
MANY_REGISTERS = FEATURES.get("avx512f") or platform.machine().lower() in ("arm64", "aarch64")
SUMS = 24 if MANY_REGISTERS else 12
"""Independent sums: a multiply-add takes 4 or 5 cycles and 2 to 4 start per cycle; of 32 or 16 registers, some are left
for the operands."""

STEPS = 5_000_000
FLOPS_PER_CORE = 2 * STEPS * SUMS * LANES
"""What a core does in a round, in some 20 to 60 ms."""


@intrinsic
def multiply_add(context: Any, steps: types.Integer, factor: types.Float, term: types.Float) -> Any:
    """Repeat ``sum = sum * factor + term`` for `SUMS` float32 vectors; return the total, so that none is left out."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        vector = ir.VectorType(ir.FloatType(), LANES)
        kind = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")

        def spread(value: ir.Value) -> ir.Value:
            whole = ir.Constant(vector, ir.Undefined)
            for lane in range(LANES):
                whole = builder.insert_element(whole, value, ir.IntType(32)(lane))
            return whole

        factors, terms = spread(args[1]), spread(args[2])
        # LLVM keeps these in registers. Each starts elsewhere, or it would see that they are all the same.
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [float(k)] * LANES)) for k in range(SUMS)]
        with cgutils.for_range(builder, args[0]):
            for place in sums:
                builder.store(builder.call(fma, [builder.load(place), factors, terms]), place)
        total = ir.Constant(ir.FloatType(), 0.0)
        for place in sums:
            value = builder.load(place)
            for lane in range(LANES):
                total = builder.fadd(total, builder.extract_element(value, ir.IntType(32)(lane)))
        return total

    return types.float32(types.intp, types.float32, types.float32), generate


@numba.njit("float32(intp, float32, float32)", nogil=True)
def loop(steps: int, factor: float, term: float) -> float:
    """Run `multiply_add`, without Python's lock."""
    return multiply_add(steps, factor, term)


def main(spec: Spec) -> None:
    """Run the loop once on each of ``spec.threads`` cores per turn."""
    turns = Turns()
    threads = spec.threads or 1
    with ThreadPoolExecutor(threads) as pool:
        for _ in turns.rounds(spec.rounds):
            list(pool.map(lambda steps: loop(steps, 0.5, 1.0), [STEPS] * threads))
        turns.finish(lambda: 0.0)


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
