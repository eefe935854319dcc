"""Baruch et al. 2019, "A Little Is Enough": an attack within the spread of many honest workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproductions.frame import NOT_JUDGED, Case, Cell, Reproduction, Results, Version, difference

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsim.api.run import Run

INF = float("inf")
WORKERS, MALICIOUS = 51, 12
RULES = {
    "mean": ("aggregator/combine=mean",),
    "trimmed_mean": ("aggregator/combine=trimmed_mean", f"aggregator.combine.beta={MALICIOUS / WORKERS:.4f}"),
    "krum": ("aggregator/combine=krum", f"aggregator.combine.f={MALICIOUS}"),
    "bulyan": ("aggregator/combine=bulyan", f"aggregator.combine.f={MALICIOUS}"),
}
NAMES = {"mean": "no defence", "trimmed_mean": "trimmed mean", "krum": "Krum", "bulyan": "Bulyan"}
ATTACK = ("attack=alie", f"attack.clients=[{','.join(map(str, range(MALICIOUS)))}]", "attack.z=1.5")
CASES = (
    Case("honest", RULES["mean"]),
    *(Case(f"alie_{rule}", (*how, *ATTACK)) for rule, how in RULES.items()),
)


def best(run: Run) -> float:
    """The highest test accuracy of a run, in percent, as in the paper's tables; a run that diverges has one, too."""
    return 100 * float(run.metrics["test_accuracy"].max())


def shown(case: str) -> Callable[[Results], list[float]]:
    """The highest accuracy, seed by seed."""
    return lambda results: [best(run) for run in results[case]]


CELLS = (
    Cell("no attack", "highest accuracy, %", "figure", *NOT_JUDGED, shown("honest"), 1),
    *(
        Cell(f"ALIE, {NAMES[rule]}", "highest accuracy, %", "figure", *NOT_JUDGED, shown(f"alie_{rule}"), 1)
        for rule in RULES
    ),
    *(
        Cell(
            f"ALIE, {NAMES[rule]}",
            "points lost to no attack",
            "> 0",
            1,
            INF,
            difference("honest", f"alie_{rule}", best),
            1,
        )
        for rule in ("trimmed_mean", "krum", "bulyan")
    ),
    *(
        Cell(
            f"ALIE, {NAMES[rule]}",
            "points below no defence",
            "> 0",
            0,
            INF,
            difference("alie_mean", f"alie_{rule}", best),
            1,
        )
        for rule in ("trimmed_mean", "krum", "bulyan")
    ),
)
COMMON = (
    *("data=synthetic", f"data.clients={WORKERS}", "data.samples_per_client=500", "data.test_samples_per_client=40"),
    *("partition=natural", "client.epochs=null", "client.steps=1", "client.batch_size=83", "client.optimizer.lr=0.1"),
    *("aggregator=fedavgm", "model.hidden_size=32", "checkpoint.every=50"),
)
TOLERANCE = (
    "Other data (the paper has images), so only the order that the paper reports for z = 1.5 is judged: each defence "
    "loses accuracy (a point at least, more than seeds differ by), and no defence at all is the best one, because the "
    "mean moves by the attackers' share only, while the defences select the forged rows."
)
ALIE = Reproduction(
    name="alie",
    title="A Little Is Enough: 51 workers, 12 of them malicious, single steps",
    source='Baruch, Baruch, Goldberg 2019, "A Little Is Enough: Circumventing Defenses For Distributed Learning", '
    "section 5 "
    "(MNIST: 51 workers, 24% corrupted, z = 1.5, batches of 83, learning rate 0.1, momentum 0.9)",
    differences="A GRU on sequences labelled by a teacher, equally distributed over the workers, in place of a "
    "perceptron on MNIST. The attackers know the honest workers' updates; in the paper they estimate their spread "
    "from their own.",
    short=Version(
        cells=CELLS, tolerance=TOLERANCE, cases=CASES, common=(*COMMON, "rounds=150", "eval.every=10"), seeds=(0, 1)
    ),
    full=Version(
        cells=CELLS,
        tolerance=TOLERANCE,
        cases=CASES,
        common=(*COMMON, "rounds=1000", "eval.every=10"),
        seeds=(0, 1, 2, 3, 4),
    ),
)
