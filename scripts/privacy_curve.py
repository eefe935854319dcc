"""Accuracy against epsilon: independent noise, trees and matrix factorisation on one task, as a table and a picture.

    python scripts/privacy_curve.py --data plays.txt --out curve                        # 130 runs of about ten seconds
    python scripts/privacy_curve.py --data plays.txt --out curve --populations 500 --seeds 1 --rounds 20  # a quick look

A GRU predicts the next character of a text, of which each client has a thousand characters. Populations differ in how
many clients there are. The cohort, the rounds, the model and delta are the same everywhere, and so is the unit, a
client with all of its samples: one client is there or not (``central_dp``), or its deltas count or are zero (the
others), and either way moves a round's sum by the clipping norm. ``central_dp`` counts on cohorts that are drawn at
random and in secret (``sampler=poisson``), the others only on clients being as many rounds apart as the population
allows (``sampler=min_separation``).

The server's learning rate is chosen for each mechanism, epsilon and population: of the same few, the one with the best
accuracy on held-back training samples in a run of seed 0. Test samples only report. Runs are kept in ``--out``, where
the same command goes on after a stop; ``curve.csv`` and ``curve.png`` there are written anew after each point.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from bench import report
from fedsim.config.compose import Request, check_request, normalise, record_of, to_yaml
from fedsim.errors import UserError, print_error
from fedsim.runs.record import DIVERGED, DONE, INTERRUPTED, MISSING, run_state
from fedsim.runs.run import run_experiment

POPULATIONS, EPSILONS, RATES = (1000, 4000), (2.0, 4.0, 8.0, 16.0), (0.05, 0.2, 0.8)
CHARACTERS = 1000
"""A client's, the last tenth of which is for testing."""
BASE = (
    *("data=text", "data.clients_by=chunk", f"data.chunk_size={CHARACTERS}", "data.sequence_length=40"),
    *("partition=natural", "model=gru", "model.hidden_size=32", "aggregator=mean"),
    *("aggregator/server_optimizer=momentum", "client.steps=3", "client.batch_size=8", "client.optimizer.lr=2"),
    *("eval.validation_fraction=0.1", "eval.every=100000", "device=cpu", "threads=1", "console=none"),
)
PRIVATE = ("privacy.clip_norm=1", "privacy.delta=1e-5")
NAMES = {
    "none": "without privacy",
    "central_dp": "central_dp, cohorts secret and at random",
    "dp_ftrl": "dp_ftrl",
    "matrix_factorisation": "matrix_factorisation",
}


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        clients: in the population.
        mechanism: the option of ``privacy=``.
        epsilon: after all rounds; None without privacy.
        server_lr: the server's learning rate.
        seed: of the run.
        validation_accuracy: after the last round; 0 if the run diverged.
        test_accuracy: likewise.
    """

    clients: int
    mechanism: str
    epsilon: float | None
    server_lr: float
    seed: int
    validation_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Task:
    """What all runs share.

    Attributes:
        data: the text.
        out: where the runs are.
        rounds: of each run.
        cohort: clients in a round; with ``sampler=poisson``, in the mean.
        overrides: for every run.
    """

    data: Path
    out: Path
    rounds: int
    cohort: int
    overrides: tuple[str, ...]

    def settings(self, clients: int, mechanism: str, epsilon: float | None) -> tuple[str, ...]:
        """Return the overrides of one mechanism; the learning rate and the seed come on top."""
        fixed = ("sampler.fraction=null", f"sampler.cohort_size={self.cohort}")
        apart = clients // self.cohort
        own = {
            "none": ("sampler=uniform", *fixed),
            "central_dp": ("sampler=poisson", f"sampler.probability={self.cohort / clients}"),
            # The least power of two in which a client takes part once, or hardly more often.
            "dp_ftrl": ("sampler=min_separation", *fixed, *restarts(apart, self.rounds)),
            "matrix_factorisation": ("sampler=min_separation", *fixed),
        }[mechanism]
        private = () if epsilon is None else (f"privacy.target_epsilon={epsilon:g}", *PRIVATE)
        sizes = (f"data.path={self.data}", f"num_clients={clients}", f"rounds={self.rounds}")
        return (*BASE, *sizes, f"privacy={mechanism}", *own, *private, *self.overrides)

    def point(self, clients: int, mechanism: str, epsilon: float | None, rate: float, seed: int) -> Point:
        """Return a run's result, from its directory if it is there.

        Raises:
            UserError: if the directory holds another run, or the run fails.
        """
        level = mechanism if epsilon is None else f"{mechanism}-{epsilon:g}"
        place = self.out / f"{clients}" / f"{level}-lr{rate:g}-seed{seed}"
        more = (f"aggregator.server_optimizer.lr={rate:g}", f"seed={seed}")
        texts = (*self.settings(clients, mechanism, epsilon), *more)
        experiment = check_request(normalise(Request(texts)))[0].experiment
        state = run_state(place, experiment)
        if state in (MISSING, INTERRUPTED):
            shutil.rmtree(place, ignore_errors=True)  # a run takes seconds: one that was stopped begins anew
            place.mkdir(parents=True)
            state = run_experiment(experiment, to_yaml(record_of(experiment)), place)
        if state == DIVERGED:
            return Point(clients, mechanism, epsilon, rate, seed, 0.0, 0.0)
        if state != DONE:
            raise UserError(f"{place}: {state}; remove it, or choose another --out")
        with (place / "metrics.csv").open(encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
        spent = float(last["epsilon"]) if epsilon is not None else None
        scores = (float(last[f"{part}_accuracy"]) for part in ("validation", "test"))
        return Point(clients, mechanism, spent, rate, seed, *scores)


def restarts(apart: int, rounds: int) -> tuple[str, ...]:
    """Return the override for trees of the least power of two of rounds that a client is apart; none for one tree."""
    every = 1 << (apart - 1).bit_length()
    return (f"privacy.restart_every={every}",) if every < rounds else ()


def curve(task: Task, populations: Sequence[int], epsilons: Sequence[float], seeds: int) -> Iterator[list[Point]]:
    """Yield the runs of each population, mechanism and epsilon, one per seed, with the learning rate chosen for it."""
    for clients in populations:
        for mechanism in NAMES:
            for epsilon in epsilons if mechanism != "none" else [None]:
                tried = [task.point(clients, mechanism, epsilon, rate, 0) for rate in RATES]
                best = max(tried, key=lambda one: one.validation_accuracy)
                more = [task.point(clients, mechanism, epsilon, best.server_lr, seed) for seed in range(1, seeds)]
                yield [best, *more]


def line(points: Sequence[Point]) -> str:
    """One line of the table: what is the same for all seeds, and mean and range of the test accuracy."""
    first, scores = points[0], [one.test_accuracy for one in points]
    epsilon = "" if first.epsilon is None else f"{first.epsilon:.1f}"
    spread = f"{fmean(scores):.3f} | {min(scores):.3f} to {max(scores):.3f}"
    return f"| {first.clients:,} | `{first.mechanism}` | {epsilon} | {first.server_lr:g} | {spread} |"


def draw(file: Path, found: Sequence[Sequence[Point]]) -> None:
    """Draw a panel for each population: means, with bars from the worst to the best seed."""
    plt = report.pyplot()
    populations = list(dict.fromkeys(points[0].clients for points in found))
    figure, panels = plt.subplots(
        1, len(populations), figsize=(1 + 4.2 * len(populations), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, clients in zip(panels[0], populations, strict=True):
        for name, colour, marker in zip(NAMES, ("#000000", *report.COLOURS), "^os*", strict=False):
            own = [points for points in found if (points[0].clients, points[0].mechanism) == (clients, name)]
            scores = [[one.test_accuracy for one in points] for points in own]
            means = [fmean(values) for values in scores]
            if name == "none":
                for mean in means:
                    panel.axhline(mean, color=colour, linestyle="--", label=NAMES[name])
                continue
            bars = [
                [mean - min(values) for mean, values in zip(means, scores, strict=True)],
                [max(values) - mean for mean, values in zip(means, scores, strict=True)],
            ]
            x = [points[0].epsilon for points in own]
            panel.errorbar(x, means, bars, color=colour, marker=marker, capsize=3, label=NAMES[name])
        panel.set_xscale("log")
        ticks = sorted({points[0].epsilon for points in found if points[0].epsilon is not None})
        panel.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        panel.minorticks_off()
        panel.set(title=f"{clients:,} clients", xlabel="epsilon")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("test accuracy")
    panels[0][-1].legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(file)
    plt.close(figure)


def listed(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, print the table and draw the picture; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"a text of {CHARACTERS:,} characters for each client")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, the table and the picture")
    parser.add_argument(
        "--populations", type=listed, default=[*POPULATIONS], help="numbers of clients, comma-separated"
    )
    parser.add_argument("--epsilons", type=listed, default=[*EPSILONS], help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--cohort", type=int, default=100, help="clients in a round")
    parser.add_argument("overrides", nargs="*", help="overrides for every run, such as model.hidden_size=64")
    options = parser.parse_args(argv)
    report.pyplot()  # fail now if matplotlib is missing
    torch.set_num_threads(1)
    task = Task(options.data.resolve(), options.out, options.rounds, options.cohort, tuple(options.overrides))
    found: list[list[Point]] = []
    print("| clients | `privacy=` | epsilon | server lr | test accuracy | worst to best seed |")
    print("|---:|---|---:|---:|---:|---|")
    try:
        for points in curve(task, [round(n) for n in options.populations], options.epsilons, options.seeds):
            found.append(points)
            print(line(points), flush=True)
            report.write_csv(task.out / "curve.csv", [one for points in found for one in points])
            draw(task.out / "curve.png", found)
    except UserError as error:
        print_error(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
