"""Ten methods for clients that differ, on two federations with natural clients: one table each.

    python scripts/personal_methods.py --roles shakespeare.txt --engines cmapss    # an hour on one core
    python scripts/personal_methods.py --roles shakespeare.txt --methods fedavg,ditto --seeds 0 --rounds 10
    python scripts/personal_methods.py --roles shakespeare.txt --times             # seconds, with nothing else running

Stopped, it goes on where it was. Roles are those of a text of plays (`data=shakespeare data.path=...`) with 300 samples
or more; engines are those of C-MAPSS FD001 (`data=cmapss`), each of which saw one failure. Every method gets the same
rounds, the same local work and the same grid of local learning rates. A rate is chosen by what a client would use, its
own model if the method has one, on a fifth of its training samples that are held back (seed 0); test samples have no
part in that. All clients take part in every round. Bytes are those of all rounds in both directions.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import NamedTuple

import pandas as pd

import fedsim
from fedsim.errors import UserError, print_error


class Task(NamedTuple):
    """A federation: what it is called, the score that judges, which way is better, its settings, its learning rates."""

    title: str
    score: str
    lower: bool
    settings: tuple[str, ...]
    rates: tuple[float, ...]


COMMON = (
    *("partition=natural", "sampler.fraction=1", "client.epochs=null", "client.steps=10", "client/optimizer=sgd"),
    *("client.clip_norm=null", "eval.validation_fraction=0.2", "threads=1", "device=cpu", "console=none"),
)
TASKS = {
    "roles": Task(
        "Roles of plays: the next character, accuracy in percent",
        "accuracy",
        False,
        (
            *("data=shakespeare", "data.sequence_length=40", "partition.min_samples=300", "model=lstm"),
            *("model.hidden_size=64", "client.batch_size=16"),
        ),
        (1.0, 2.0, 4.0),
    ),
    "engines": Task(
        "Turbofan engines: flights left, RMSE",
        "rmse",
        True,
        ("data=cmapss", "model=lstm", "model.hidden_size=32", "client.batch_size=32"),
        (0.03, 0.1, 0.3),
    ),
}
METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fedavg": ("FedAvg, one model for all", ()),
    "local": ("local training, no exchange", ("baseline=local",)),
    "finetune": ("FedAvg, then fine-tuned", ("personalize=finetune",)),
    "ditto": ("Ditto", ("personalize=ditto",)),
    "apfl": ("APFL", ("personalize=apfl",)),
    "fedrep": ("FedRep", ("aggregator=fedrep",)),
    "fedbabu": ("FedBABU", ("aggregator=fedbabu",)),
    "per_fedavg": ("Per-FedAvg", ("aggregator=per_fedavg",)),
    "pfedme": ("pFedMe", ("aggregator=pfedme",)),
    "ifca": ("IFCA, two models", ("schedule=ifca",)),
    "knn_per": ("kNN-Per", ("personalize=knn_per", "personalize.capacity=2000")),  # which takes seconds, not minutes
}
TURNS = 3
NO_COMMON_MODEL = ("local", "fedrep")
"""Methods without one: in FedRep every client has a head of its own."""


class Result(NamedTuple):
    """Of a finished run: what a client would use, by held-back and by test samples; the common model; and bytes."""

    validation: float
    own: float
    common: float
    bytes: float


def result(place: Path, task: Task) -> Result | None:
    """Read a run; None if it is not finished. One that diverged is the worst there is."""
    summary = place / "summary.json"
    status = json.loads(summary.read_text(encoding="utf-8")).get("status") if summary.exists() else None
    if status == "diverged":
        worst = math.inf if task.lower else -math.inf
        return Result(worst, worst, worst, math.nan)
    if status not in ("done", "stopped"):
        return None
    last = pd.read_csv(place / "metrics.csv").iloc[-1]

    def score(prefix: str, otherwise: str = "") -> float:
        name = f"{prefix}_{task.score}"
        return float(last[name if name in last else f"{otherwise}_{task.score}"])

    return Result(
        score("validation_personal", "validation"),
        score("personal", "test"),
        score("test"),
        float(last.get("bytes_down", 0) + last.get("bytes_up", 0)),
    )


def settle(task: Task, overrides: Sequence[str], seed: int, place: Path) -> Result:
    """Make a run unless it is there."""
    found = result(place, task)
    if found is None:
        shutil.rmtree(place, ignore_errors=True)  # stopped on its way
        fedsim.run(*COMMON, *task.settings, *overrides, f"seed={seed}", directory=place)
        found = result(place, task)
        assert found is not None, f"{place} did not finish"
    return found


def measured(name: str, task: Task, path: str, args: argparse.Namespace) -> Iterator[tuple[str, float, list[Result]]]:
    """Each method with the learning rate that validation chooses, and the results of all seeds with it."""
    for method in args.methods:
        overrides = (f"data.path={path}", *METHODS[method][1], *rounds(args))
        places = {rate: args.out / name / method / f"lr_{rate:g}" for rate in task.rates}
        by_rate = {
            rate: settle(
                task, (*overrides, f"client.optimizer.lr={rate:g}"), args.seeds[0], place / f"seed_{args.seeds[0]}"
            )
            for rate, place in places.items()
        }
        rate = (min if task.lower else max)(by_rate, key=lambda rate: by_rate[rate].validation)
        every = [
            settle(task, (*overrides, f"client.optimizer.lr={rate:g}"), seed, places[rate] / f"seed_{seed}")
            for seed in args.seeds
        ]
        print(f"{name} {method}: learning rate {rate:g}", file=sys.stderr)
        yield method, rate, every


def times(task: Task, path: str, args: argparse.Namespace) -> Iterator[str]:
    """The lines of a table of seconds; methods take turns, so that all meet the same moods of the machine."""
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in args.methods}
    for _ in range(TURNS):
        for method in args.methods:
            with tempfile.TemporaryDirectory() as folder:
                overrides = (*METHODS[method][1], f"data.path={path}", f"client.optimizer.lr={task.rates[0]:g}")
                fedsim.run(
                    *COMMON, *task.settings, *overrides, "rounds=4", "eval.every=4", directory=Path(folder) / "run"
                )
                timing = pd.read_csv(Path(folder) / "run" / "timing.csv")
            found[method].append((median(timing["train"][2:]), timing["evaluate"].iloc[-1]))  # without the first round
    yield f"| {task.title.partition(':')[0]} | seconds a round | seconds an evaluation |"
    yield "|---|---:|---:|"
    for method, turns in found.items():
        train, evaluate = (median(column) for column in zip(*turns, strict=True))
        yield f"| {METHODS[method][0]} | {train:.2f} | {evaluate:.2f} |"


def rounds(args: argparse.Namespace) -> tuple[str, ...]:
    """The overrides of `--rounds`; models are judged at the end."""
    number = args.rounds or 60
    return f"rounds={number}", f"eval.every={number}"


def table(task: Task, found: Sequence[tuple[str, float, list[Result]]]) -> Iterator[str]:
    """The lines of a table, the best method first."""
    factor, digits = (1, 1) if task.lower else (100, 1)
    yield f"| {task.title} | what a client uses | the common model | learning rate | MB in all |"
    yield "|---|---:|---:|---:|---:|"
    ordered = sorted(found, key=lambda one: fmean(r.own for r in one[2]), reverse=not task.lower)
    for method, rate, every in ordered:
        own, common = ([factor * getattr(r, part) for r in every] for part in ("own", "common"))
        spread = f" ± {stdev(own):.{digits}f}" if len(own) > 1 else ""
        shared = "-" if method in NO_COMMON_MODEL else f"{fmean(common):.{digits}f}"
        yield (
            f"| {METHODS[method][0]} | {fmean(own):.{digits}f}{spread} | {shared} | {rate:g} | "
            f"{fmean(r.bytes for r in every) / 1e6:,.0f} |"
        )


def main() -> None:
    """Parse arguments, run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--roles", help="a text of plays")
    parser.add_argument("--engines", help="the folder with NASA's files")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of them")
    parser.add_argument("--seeds", default="0,1,2", help="the first one chooses learning rates")
    parser.add_argument("--times", action="store_true", help="measure how long rounds and evaluations take, no more")
    parser.add_argument("--rounds", type=int, help="instead of 60")
    parser.add_argument("--out", type=Path, default=Path("outputs/personal_methods"), help="where runs and tables go")
    args = parser.parse_args()
    args.methods, args.seeds = args.methods.split(","), [int(seed) for seed in args.seeds.split(",")]
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"--methods: no such method: {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    if not args.roles and not args.engines:
        parser.error("give --roles or --engines")
    args.out = args.out.absolute()
    for name, task in TASKS.items():
        if not (path := getattr(args, name)):
            continue
        if args.times:
            print("\n".join(times(task, str(Path(path).absolute()), args)), end="\n\n")
            continue
        found = list(measured(name, task, str(Path(path).absolute()), args))
        text = "\n".join(table(task, found))
        print(f"\n{text}\n")
        (args.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        with (args.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("method", "lr", "seed", *Result._fields))
            rows.writerows((m, lr, s, *r) for m, lr, every in found for s, r in zip(args.seeds, every, strict=True))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print_error(str(error))
        raise SystemExit(2) from None
