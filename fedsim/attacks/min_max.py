"""Min-Max: forged deltas at most as far from the honest ones as these are from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim.aggregation.distances import squared_distances
from fedsim.attacks.attack import CohortAttackers
from fedsim.attacks.statistics import mean_and_std
from fedsim.core.cohort import BLOCK
from fedsim.errors import check_one_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MinMax(CohortAttackers):
    """``mean + gamma * p``, with the largest gamma that raises no suspicion (Shejwalkar 2021, equation 8).

    Its largest distance to an honest delta is at most the largest distance between two of them. The paper searches for
    gamma by halving; each honest delta bounds it by a quadratic equation, so ours is the smallest of their roots.

    Attributes:
        direction: p, one of ``std`` (minus the standard deviations), ``unit`` (minus the mean, scaled to length 1) and
            ``sign`` (minus the signs of the mean).
    """

    direction: str = "std"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(self, "direction", ("std", "unit", "sign"))

    def forge(self, benign: Tensor, malicious: int) -> Tensor:
        """Return the row that all attackers send."""
        mean, std = mean_and_std(benign)
        p: Tensor = -{"std": std, "unit": mean / mean.norm().clamp(min=1e-300), "sign": mean.sign()}[self.direction]
        square = float(p @ p)
        if square == 0:  # equal deltas, or zeros: no direction to move in
            return mean
        ways = [mean - block.double() for block in benign.split(BLOCK)]
        along = torch.cat([way @ p for way in ways])
        left = torch.cat([way.square().sum(1) for way in ways]) - squared_distances(benign).max()
        # |way + gamma p|^2 <= D^2, that is square * gamma^2 + 2 * along * gamma + left <= 0.
        roots = (-along + (along.square() - square * left).clamp(min=0).sqrt()) / square
        return mean + float(roots.min().clamp(min=0)) * p
