"""The mean of deltas whose norms are bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.errors import check_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NormClippedMean:
    """``sum(n_k * delta_k / max(1, |delta_k| / max_norm)) / sum(n_k)`` (Sun 2019, "norm thresholding of updates").

    Attributes:
        max_norm: M, the norm to which longer deltas are scaled down.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COUNTS_SAMPLES, Fact.READS_REPORT})

    max_norm: float = 3.0

    def __post_init__(self) -> None:
        check_above(self, 0, "max_norm")

    def start(self, like: Tensor) -> WeightedSum:
        """Return an empty float64 sum shaped like the row `like` ``[P]``."""
        return WeightedSum(torch.zeros_like(like, dtype=torch.float64))

    def add(self, state: WeightedSum, deltas: Tensor, report: Report) -> None:
        """Clip the deltas of a chunk and add them to the sum, in place."""
        norms = deltas.norm(dim=1, keepdim=True)
        state.add(deltas * (self.max_norm / norms.clamp(min=self.max_norm)), report.num_samples)

    def finish(self, state: WeightedSum) -> Tensor:
        """Return the sample-weighted mean ``[P]`` of the clipped deltas."""
        return state.total / state.weight
