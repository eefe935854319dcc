"""Centered clipping of deltas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.clients.report import Report
from fedsim.core.cohort import BLOCK
from fedsim.core.facts import Fact, Facts
from fedsim.errors import check_above, check_between

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CenteredClipping:
    """Move a centre by the mean of the clipped differences from it to each delta (Karimireddy 2021, equation CC).

    ``v <- v + 1/n * sum((delta_k - v) * min(1, tau / |delta_k - v|))``. The paper admits any start near the good
    deltas and uses the previous round's result; ours starts every round from zero, the global row, so that the rule
    keeps no state between rounds. For the same reason clients send their deltas and not a momentum over rounds.

    Attributes:
        tau: clipping radius.
        iterations: number of steps; a single one gives the mean of the deltas clipped to norm tau.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    tau: float = 10.0
    iterations: int = 3

    def __post_init__(self) -> None:
        check_above(self, 0, "tau")
        check_between(self, 1, 100_000, "iterations")

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the centre ``[P]`` after the last step."""
        centre = torch.zeros(deltas.shape[1], dtype=torch.float64, device=deltas.device)
        for _ in range(self.iterations):
            step = torch.zeros_like(centre)
            for block in deltas.split(BLOCK):
                way = block.double() - centre
                step += (self.tau / way.norm(dim=1).clamp(min=self.tau)) @ way
            centre = centre + step / len(deltas)
        return centre
