"""How long a local step of a whole cohort takes on a GPU: launched kernel by kernel, as a CUDA graph, compiled.

    python scripts/gpu.py                              # the workloads of benchmark.py
    python scripts/gpu.py W1 W4 --compile              # torch.compile too, which takes minutes before the first step
    python scripts/gpu.py W2:cohort=1000

A step is the loss and the gradient of one minibatch of every client of the cohort, as in training. Times are medians of
device time between two events; the first line of each workload says how far the ways are apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from bench.ours import start
from bench.workloads import WORKLOADS, Spec, parse
from fedsim.data.batches import batch_indices, gather
from fedsim.models import stacked, torch_kernels
from fedsim.models.cuda_graphs import Graphs


def milliseconds(step: Callable[[], object], repeats: int) -> float:
    """The median time of a call on the device, after three calls that do not count."""
    for _ in range(3):
        step()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)))
    return median(times)


def measure(name: str, repeats: int, compiled: bool) -> None:
    """Print the times of one workload."""
    w = parse(name)
    simulation, state = start(Spec(w, 1, device="cuda"))
    task, clients = simulation.task, torch.arange(w.cohort)
    samples = task.population.train
    plan = batch_indices(samples, clients, task.steps(clients), w.batch_size, task.batch_key(1))
    batch = gather(samples, *next(iter(plan)))
    arch, layout = task.arch, task.arch.layout
    rows = state.row.expand(w.cohort, -1).contiguous()
    gradients = {}

    def into(way: str) -> Tensor:
        gradients[way] = torch.empty_like(rows)
        return gradients[way]

    graphs, recorded = Graphs(arch, torch_kernels), into("graph")
    views, slopes = layout.views(rows), layout.views(into("launched"))
    ways: dict[str, Callable[[], object]] = {
        "launched": lambda: stacked.loss_and_gradient(arch, views, batch, torch_kernels, None, slopes),
        "graph": lambda: graphs.loss_and_gradient(rows, batch, recorded),
    }
    if compiled:
        for mode in ("default", "reduce-overhead"):
            step = torch.compile(stacked.loss_and_gradient, mode=mode, dynamic=False)
            own = layout.views(into(mode))
            ways[mode] = lambda step=step, own=own: step(arch, views, batch, torch_kernels, None, own)  # type: ignore[misc]  # its defaults
    flops = 3 * w.flops_per_sample * w.cohort * batch.inputs.shape[1]
    for way, run in ways.items():
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        first = time.perf_counter() - began
        taken = milliseconds(run, repeats)
        apart = float((gradients[way] - gradients["launched"]).norm() / gradients["launched"].norm())
        print(
            f"{name}: {way:15} {taken:8.3f} ms a step, {flops / taken / 1e6:7.0f} GFLOP/s, first call {first:6.1f} s, "
            f"gradient apart by {apart:.0e}",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the workloads that are named."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), metavar="NAME[:KEY=VALUE,...]")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("gpu.py: needs a CUDA device", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    for name in options.workloads:
        measure(name, options.repeats, options.compile)
    return 0


if __name__ == "__main__":
    sys.exit(main())
