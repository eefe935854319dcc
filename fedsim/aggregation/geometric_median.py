"""The geometric median of deltas (RFA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.columns import weighted_sum
from fedsim.clients.report import Report
from fedsim.core.cohort import BLOCK
from fedsim.core.facts import Fact, Facts
from fedsim.errors import check_above, check_between

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GeometricMedian:
    """RFA: the point with the least weighted sum of distances (Pillutla 2022, Algorithm 2, smoothed Weiszfeld).

    ``v <- sum(b_k * delta_k) / sum(b_k)`` with ``b_k = num_samples_k / max(nu, |v - delta_k|)``, from the weighted mean
    of the deltas, as in the authors' code. A few steps are an approximation, which a client with a very long delta can
    pull away, as each step undoes only a part of its share in the mean; with f bad clients of n and equal weights the
    limit is within ``2 (n - f) / (n - 2f)`` times the radius of the good ones.

    Attributes:
        nu: lower bound on the distances that weights are divided by.
        iterations: number of Weiszfeld steps.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COUNTS_SAMPLES, Fact.READS_REPORT, Fact.COMPARES})

    nu: float = 1e-6
    iterations: int = 3

    def __post_init__(self) -> None:
        check_above(self, 0, "nu")
        check_between(self, 1, 100_000, "iterations")

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the approximate geometric median ``[P]`` of deltas ``[C, P]``."""
        samples = report.num_samples.to(deltas.device).double()
        centre = weighted_sum(deltas, samples / samples.sum())
        for _ in range(self.iterations):
            distances = torch.cat([(block.double() - centre).norm(dim=1) for block in deltas.split(BLOCK)])
            weights = samples / distances.clamp(min=self.nu)
            weights = weights / weights.sum()
            centre = weighted_sum(deltas, weights)
        return centre
