"""What the processor has, as LLVM says it."""

from __future__ import annotations

import llvmlite.binding as llvm  # type: ignore[import-untyped]  # it has no types

FEATURES = llvm.get_host_cpu_features()
VECTOR_BYTES = 64 if FEATURES.get("avx512f") else 32 if FEATURES.get("avx") else 16
