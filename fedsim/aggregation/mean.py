"""The plain mean of deltas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.report import Report
from fedsim.core.facts import Facts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """``1/K * sum(delta_k)``: every client counts the same, however many samples it has."""

    facts: ClassVar[Facts] = frozenset()

    def start(self, like: Tensor) -> WeightedSum:
        """Return an empty float64 sum shaped like the row `like` ``[P]``."""
        return WeightedSum(torch.zeros_like(like, dtype=torch.float64))

    def add(self, state: WeightedSum, deltas: Tensor, report: Report) -> None:
        """Add the deltas of a chunk of clients to the sums, in place."""
        state.add(deltas, torch.ones(len(deltas)))

    def finish(self, state: WeightedSum) -> Tensor:
        """Return the mean ``[P]``."""
        return state.total / state.weight
