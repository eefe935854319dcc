"""RNN, GRU and LSTM with equal numbers of parameters, and how each fares as int8 or pruned: one table per task.

    python scripts/small_models.py                                       # three tasks, three sizes, three seeds
    python scripts/small_models.py --tasks vowels --sizes 1000 --seeds 1 # a quick look
    python scripts/small_models.py --out runs                            # keep the runs, and continue where it stopped

Other arguments are overrides for every run. Every number comes from `fedsim run` (with `model.parameters`) or from
`fedsim export`, which writes the files and scores the models that it reads back from them. The int8 columns need the
extra `onnx`.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

from fedsim.config.compose import Request, check_request, normalise, record_of, to_yaml
from fedsim.errors import UserError, print_error
from fedsim.extras import install_hint
from fedsim.federation.prepare import prepare
from fedsim.models.macs import macs_per_sequence, macs_per_step
from fedsim.runs.export import Line, export_run
from fedsim.runs.record import DONE, run_state
from fedsim.runs.run import run_experiment

CELLS = ("rnn", "gru", "lstm")
BASE = ("device=cpu", "threads=1", "console=none", "client/optimizer=adam", "client.optimizer.lr=0.01")


@dataclass(frozen=True)
class Task:
    """A learning task and the metric that judges it."""

    title: str
    metric: str
    overrides: tuple[str, ...]


TASKS = {
    "vowels": Task("Classification: nine speakers of Japanese vowels", "test_accuracy", ("rounds=30",)),
    "text": Task(
        "A label at every step: the next character",
        "test_accuracy",
        ("data=text", "partition=natural", "data.sequence_length=40", "rounds=15"),
    ),
    "regression": Task("Regression: a random teacher with memory", "test_rmse", ("experiment=gru_regression",)),
}


@dataclass(frozen=True)
class Export:
    """One way to export a model with `fedsim export`."""

    title: str
    format: str
    prune: float | None


EXPORTS = (
    Export("float32", "torch", None),
    Export("int8", "int8", None),
    Export("pruned 50 %", "torch", 0.5),
    Export("pruned 80 %", "torch", 0.8),
    Export("int8, pruned 80 %", "int8", 0.8),
)


def write_play(path: Path, roles: int = 10, sentences: int = 60) -> None:
    """Write a made-up play for ten roles, in whose sentences the verb agrees with a noun some words before it."""
    draw = random.Random(0)  # noqa: S311  # not a secret
    nouns, verbs = ("sailor", "king", "river", "ghost", "horse", "miller"), ("sing", "sleep", "run", "wait", "fall")
    words, places = ("old", "silent", "happy", "northern"), ("by the sea", "in the dark", "under a tree", "at the gate")

    def sentence() -> str:
        several = draw.random() < 0.5
        noun, verb = draw.choice(nouns) + "s" * several, draw.choice(verbs) + "s" * (not several)
        return f"the {draw.choice(words)} {noun} {draw.choice(places)} {verb} {draw.choice(('again', 'alone', 'now'))}."

    speeches = [
        f"ROLE {'ABCDEFGHIJKLMNOP'[k]}:\n" + "\n".join(sentence() for _ in range(sentences)) for k in range(roles)
    ]
    path.write_text("\n\n".join(speeches) + "\n")


@dataclass(frozen=True)
class Trained:
    """A finished run and the exports of its model."""

    hidden_size: int
    parameters: int
    macs: tuple[int, int]
    bytes_down: float
    bytes_up: float
    exports: tuple[Line, ...]


def trained(overrides: Sequence[str], directory: Path, exports: Sequence[Export]) -> Trained:
    """Run, unless the same run is already there and done, and export."""
    experiment = check_request(normalise(Request(tuple(overrides))))[0].experiment
    if run_state(directory, experiment) != DONE:
        directory.mkdir(parents=True)
        if (status := run_experiment(experiment, to_yaml(record_of(experiment)), directory)) not in ("done", "stopped"):
            raise UserError(f"{directory}: the run ended as {status}")
    with (directory / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    sent = sum(int(row["clients"]) for row in rows)
    simulation = prepare(experiment)
    arch = simulation.task.arch
    steps = float(simulation.population.train.lengths.double().mean())
    lines = []
    for export in exports:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(export_run(directory, [export.format], prune=export.prune, out=Path(folder))[-1])
    return Trained(
        arch.hidden_size,
        arch.layout.num_parameters,
        (macs_per_step(arch), round(steps * macs_per_step(arch)) + macs_per_sequence(arch)),
        int(rows[-1]["bytes_down"]) / sent,
        int(rows[-1]["bytes_up"]) / sent,
        tuple(lines),
    )


def table(
    task: Task, sizes: Sequence[int], seeds: int, overrides: Sequence[str], folder: Path, exports: Sequence[Export]
) -> Iterator[str]:
    """Yield the lines of a task's table, each as soon as its runs are done."""
    head = ("cell", "units", "parameters", "MACs per step", "per sequence", "bytes down, up")
    yield "| " + " | ".join((*head, *(export.title for export in exports))) + " |"
    yield "|---|" + "---:|" * (len(head) - 1 + len(exports))
    for size in sizes:
        for cell in CELLS:
            chosen = (*overrides, f"model={cell}", f"model.parameters={size}")
            runs = [
                trained((*chosen, f"seed={seed}"), folder / f"{cell}-{size}-{seed}", exports) for seed in range(seeds)
            ]
            yield "| " + " | ".join(cells(task, cell, runs)) + " |"


def cells(task: Task, cell: str, runs: Sequence[Trained]) -> Iterator[str]:
    """One line: means over the seeds, and the standard deviation of the trained model's score."""
    first = runs[0]
    yield from (cell, f"{first.hidden_size}", f"{first.parameters:,}", *(f"{count:,}" for count in first.macs))
    yield f"{first.bytes_down:,.0f}, {first.bytes_up:,.0f}"
    for place, lines in enumerate(zip(*(run.exports for run in runs), strict=True)):
        size, zipped = mean(line.size for line in lines) / 1000, mean(line.compressed for line in lines) / 1000
        scores = [line.metrics[task.metric] for line in lines]
        spread = f" ± {stdev(scores):.3f}" if place == 0 and len(scores) > 1 else ""
        yield f"{size:.1f} kB ({zipped:.1f}) {mean(scores):.3f}{spread}"


def listed(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=listed, default=list(TASKS), help=f"comma-separated list of {', '.join(TASKS)}")
    parser.add_argument("--sizes", type=listed, default=["1000", "4000", "16000"], help="parameters, comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the runs here, and reuse those that are done")
    parser.add_argument("overrides", nargs="*", help="overrides for every run, such as rounds=5")
    options = parser.parse_args()
    for name in (name for name in options.tasks if name not in TASKS):
        parser.error(f"--tasks {name}: known are {', '.join(TASKS)}")
    if options.seeds < 1 or not all(size.isdecimal() for size in options.sizes):
        parser.error("--sizes and --seeds must be whole numbers, --seeds at least 1")
    exports = EXPORTS
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        exports = tuple(export for export in EXPORTS if export.format != "int8")
        print(f"no int8 columns, which need onnx and onnxruntime; {install_hint('onnx')}", file=sys.stderr)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        play = folder / "play.txt"
        write_play(play)
        for name in options.tasks:
            task = TASKS[name]
            own = (f"data.path={play}",) if name == "text" else ()
            overrides = (*task.overrides, *BASE, *own, *options.overrides)
            print(f"\n{task.title}\n", flush=True)
            try:
                for line in table(
                    task, [int(s) for s in options.sizes], options.seeds, overrides, folder / name, exports
                ):
                    print(line, flush=True)
            except UserError as error:
                print_error(str(error))
                sys.exit(2)


if __name__ == "__main__":
    main()
