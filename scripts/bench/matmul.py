"""The machine's own speed: one float32 matrix product of 2048 x 2048 per turn, on all threads.

Run by `benchmark.py` as ``python -m bench.matmul SPEC``.
"""

from __future__ import annotations

import sys

import torch

from bench.workloads import Spec, Turns

SIZE = 2048
FLOPS = 2 * SIZE**3


def main(spec: Spec) -> None:
    """Run one product per turn."""
    turns = Turns()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    a, b = (torch.rand(SIZE, SIZE, device=spec.device) for _ in range(2))
    out = torch.mm(a, b)
    for _ in turns.rounds(spec.rounds):
        torch.mm(a, b, out=out)
        if spec.device == "cuda":
            torch.cuda.synchronize()
    turns.finish(lambda: 0.0)


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
