"""Karimireddy et al. 2020, "SCAFFOLD", figure 3: two clients with one parameter, exact gradients.

``f_1(x) = x^2 + G x`` and ``f_2(x) = -G x``, full participation: their mean ``x^2 / 2`` has its minimum 0 at 0,
whatever the gradient dissimilarity G. FedAvg's clients drift apart, so that it stalls further from the minimum the
larger G and the number K of local steps are; SCAFFOLD converges for every G, and faster with more local steps. FedAvg
and SCAFFOLD run with the same step sizes, the global one 1; SGD is K = 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.clients.report import Memory
from fedsim.clients.step import Step
from fedsim.corrections.none import NoCorrection
from fedsim.corrections.remembering import Remembering
from fedsim.corrections.scaffold import Scaffold
from fedsim.models.blocks import Blocks
from fedsim.models.parameters import ParameterLayout
from reproductions.frame import Cell, Reproduction, Results, Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fedsim.core.part import Correction

CURVATURE = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
"""Second derivatives ``[C, P]`` of the two clients' functions."""
LAYOUT = ParameterLayout.of([("head.weight", (1,))])
LR, ROUNDS = 0.1, 50
DISSIMILARITIES = (1, 10, 100)
INF = float("inf")


def quadratic(correction: Correction, dissimilarity: float, steps: int, lr: float, rounds: int) -> list[float]:
    """Run a correction on the two quadratics; return the distance to the minimum, ``|x|``, after each round."""
    slope = dissimilarity * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    x, distances, total = torch.ones(1, dtype=torch.float64), [], torch.tensor([steps, steps])
    own, mean = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def at(rows: Tensor) -> Tensor:
        return CURVATURE * rows + slope

    for _ in range(rounds):
        rows, memory = x.repeat(2, 1), Memory({"own": own}, {"mean": mean})
        for number in range(steps):
            gradient = at(rows)
            correction.correct(gradient, Step(rows, x, memory, number, total, LAYOUT, Blocks(1), at))
            rows -= lr * gradient
        deltas = rows - x
        if isinstance(correction, Remembering):
            own = correction.remember(own, mean, deltas, total, lr)
            mean = own.mean(0)
        x = x + deltas.mean(0)
        distances.append(float(x.abs()))
    return distances


def end(correction: Correction, dissimilarity: float, steps: int) -> float:
    """The distance to the minimum after the last round."""
    return quadratic(correction, dissimilarity, steps, LR, ROUNDS)[-1]


def ratio(above: tuple[Correction, int, int], below: tuple[Correction, int, int]) -> Callable[[Results], list[float]]:
    """How many times as far from the minimum one ends as the other."""
    return lambda _: [end(*above) / end(*below)]


def cells() -> tuple[Cell, ...]:
    """The figure's statements, one by one."""
    fedavg, scaffold = NoCorrection(), Scaffold()
    found = []
    for g in DISSIMILARITIES:
        found += [
            Cell(
                f"G = {g}",
                "distance, FedAvg K = 10 over K = 2",
                "> 1",
                1,
                INF,
                ratio((fedavg, g, 10), (fedavg, g, 2)),
                1,
            ),
            Cell(
                f"G = {g}", "distance, SCAFFOLD K = 2 over SGD", "< 1", 0, 1, ratio((scaffold, g, 2), (fedavg, g, 1)), 4
            ),
            Cell(
                f"G = {g}",
                "distance, SCAFFOLD K = 10 over K = 2",
                "< 1",
                0,
                1,
                ratio((scaffold, g, 10), (scaffold, g, 2)),
                4,
            ),
        ]
    grows = ratio((fedavg, 100, 10), (fedavg, 10, 10))
    steady = ratio((scaffold, 100, 10), (scaffold, 1, 10))
    return (
        *found,
        Cell("FedAvg, K = 10", "distance, G = 100 over G = 10", "> 1", 1, INF, grows, 1),
        Cell("SCAFFOLD, K = 10", "distance, G = 100 over G = 1", "same rate", 0, 1000, steady, 0),
    )


def ends() -> str:
    """The ends themselves, in Markdown."""
    cases = [(NoCorrection(), 1), (NoCorrection(), 2), (NoCorrection(), 10), (Scaffold(), 2), (Scaffold(), 10)]
    lines = [
        "| G | SGD | FedAvg, K=2 | FedAvg, K=10 | SCAFFOLD, K=2 | SCAFFOLD, K=10 |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for g in DISSIMILARITIES:
        row = " | ".join(f"{end(correction, g, steps):.1e}" for correction, steps in cases)
        lines.append(f"| {g} | {row} |")
    return "\n".join(lines)


_VERSION = Version(
    cells=cells(),
    tolerance="Figure 3 has curves of 50 rounds, without numbers: signs of the differences are judged. SCAFFOLD's "
    "rate does not depend on G, but where it starts from does (proportionally, so 1000 is room enough for G a hundred "
    "times as large).",
)
QUADRATICS = Reproduction(
    name="quadratics",
    title="SCAFFOLD and FedAvg on two quadratics with drifting clients",
    source='Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "SCAFFOLD", figure 3',
    differences="The step size of 0.1 is ours: the figure's is not given.",
    short=_VERSION,
    full=_VERSION,
    extra=ends,
)
