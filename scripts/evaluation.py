"""What evaluation costs: a large test set, and each client's own model on its own samples.

    python scripts/evaluation.py                   # the workloads of benchmark.py
    python scripts/evaluation.py W3 --threads 2

A round's cohort is evaluated on its training samples in four ways that take turns: `kernels`, one forward pass of the
recurrent kernels alone, as training makes it, over blocks of samples (the yardstick); `one model`, all of evaluation
with the global model; `own models`, with a model of each client's own; `loop`, PyTorch's modules on batches of 512
samples without gradients. Medians; GFLOP/s are those of the model's matrix products.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from bench import plain, report
from bench.ours import start, weights
from bench.workloads import WORKLOADS, Spec, parse
from fedsim.clients.scores import EVALUATION_BATCH
from fedsim.clients.stacked import StackedTrainer
from fedsim.data.batches import gather
from fedsim.models.torch_kernels import Weights

LOOP_BATCH = 512


def ways(spec: Spec) -> dict[str, Callable[[], object]]:
    """The four ways by their names, each a call that evaluates everything once."""
    w = spec.workload
    simulation, state = start(spec)
    trainer, samples = simulation.trainer, simulation.population.train
    assert isinstance(trainer, StackedTrainer)
    clients = torch.arange(w.cohort)
    mine = samples.part(0, w.cohort * w.samples)
    arch, kernels = simulation.task.arch, trainer.kernels
    rows = state.row.expand(w.cohort, -1).contiguous()

    def kernels_alone() -> None:
        for first in range(0, len(mine), trainer.evaluation_blocks * EVALUATION_BATCH):
            x, own = blocks[first]
            for layer in own:
                x = kernels.forward(arch.model.cell, x, layer)[0][:, 1:]

    blocks = {}
    for first in range(0, len(mine), trainer.evaluation_blocks * EVALUATION_BATCH):
        count = min(trainer.evaluation_blocks * EVALUATION_BATCH, len(mine) - first)
        shape = (count // EVALUATION_BATCH, EVALUATION_BATCH) if count % EVALUATION_BATCH == 0 else (1, count)
        batch = gather(mine, torch.arange(first, first + count).view(shape), None)
        views = arch.layout.views(state.row.expand(shape[0], -1))
        x = batch.inputs.transpose(1, 2)
        if arch.vocabulary_size is not None:
            x = views["embedding.weight"][0][x]
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layers = [Weights(*(views[f"recurrent.{part}_l{layer}"] for part in parts)) for layer in range(w.layers)]
        blocks[first] = x.contiguous(), layers

    model = plain.Model(w)
    model.load_state_dict(weights(simulation, state))
    inputs, targets = plain.tensors(w)
    inputs, targets = inputs[: w.cohort].flatten(0, 1), targets[: w.cohort].flatten(0, 1)

    def loop() -> None:
        with torch.no_grad():
            for x, y in zip(inputs.split(LOOP_BATCH), targets.split(LOOP_BATCH), strict=True):
                plain.loss_of(w, model(x), y)

    return {
        "kernels": kernels_alone,
        "one model": lambda: trainer.score_samples(state.row, mine),
        "own models": lambda: trainer.score_clients(rows, clients, samples),
        "loop": loop,
    }


def measure(name: str, threads: int | None, repeats: int) -> None:
    """Print a line for each way of one workload."""
    w = parse(name)
    each = ways(Spec(w, 1, threads))
    seconds: dict[str, list[float]] = {way: [] for way in each}
    for turn in range(repeats + 2):
        for way, run in each.items():
            began = time.perf_counter()
            run()
            if turn > 1:  # the first turns compile and fill caches
                seconds[way].append(time.perf_counter() - began)
    flops = w.flops_per_sample * w.cohort * w.samples
    unit = median(seconds["kernels"])
    for way, own in seconds.items():
        taken = median(own)
        print(
            f"{name}: {way:10} {1000 * taken:9.2f} ms, {flops / taken / 1e9:6.1f} GFLOP/s, "
            f"{taken / unit:5.2f} times the kernels' forward pass",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the workloads that are named."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), metavar="NAME[:KEY=VALUE,...]")
    parser.add_argument("--threads", type=int, help="threads of all four (default: all)")
    parser.add_argument("--repeats", type=int, default=9, help="timed turns (default 9)")
    options = parser.parse_args(argv)
    print(report.machine(), flush=True)
    for name in options.workloads:
        measure(name, options.threads, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
