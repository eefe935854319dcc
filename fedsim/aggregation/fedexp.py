"""FedExP: a step of the server that is the longer, the more the deltas disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.errors import check_above, check_one_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ExtrapolatedSum:
    """Running sums of a round: ``sum(w_k * delta_k)``, ``sum(w_k)`` and ``sum(w_k * |delta_k|^2)``."""

    deltas: WeightedSum
    squares: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FedExP:
    """The mean of deltas, lengthened (FedExP, Jhunjhunwala 2023, Algorithm 1).

    ``max(1, sum(p_k * |delta_k|^2) / (2 * (|m|^2 + epsilon))) * m`` with the mean ``m = sum(p_k * delta_k)``. Deltas
    that agree, and a large `epsilon`, leave the mean as it is; deltas that are orthogonal to one another lengthen it.

    The paper weighs clients equally, ``p_k = 1 / C``; the authors' code weighs them by samples and has C epsilon in
    the place of epsilon. Both evaluate the mean of the last two models, and fedsim the last one.

    Attributes:
        epsilon: bounds the factor where the mean is short; in squared units of a delta.
        by: how a client is weighted: ``samples``, its number of training samples, or ``equal``.
    """

    epsilon: float = 0.001
    by: str = "samples"

    option: ClassVar[str] = "fedexp"
    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    def __post_init__(self) -> None:
        check_above(self, 0, "epsilon")
        check_one_of(self, "by", ("samples", "equal"))

    def conditional_facts(self) -> Mapping[Fact, str]:
        """Weights by samples need the clients' sizes."""
        return {Fact.READS_REPORT: "", Fact.COUNTS_SAMPLES: ""} if self.by == "samples" else {}

    def start(self, like: Tensor) -> ExtrapolatedSum:
        """Return empty float64 sums, shaped like the row `like` ``[P]``."""
        return ExtrapolatedSum(WeightedSum(torch.zeros_like(like, dtype=torch.float64)))

    def add(self, state: ExtrapolatedSum, deltas: Tensor, report: Report) -> None:
        """Add the deltas of a chunk of clients to the sums, in place."""
        weights = report.num_samples.double() if self.by == "samples" else torch.ones(len(deltas), dtype=torch.float64)
        state.deltas.add(deltas, weights)
        state.squares += float(weights @ deltas.double().square().sum(1).cpu())

    def finish(self, state: ExtrapolatedSum) -> Tensor:
        """Return the lengthened mean ``[P]``."""
        mean = state.deltas.total / state.deltas.weight
        squares = state.squares / state.deltas.weight
        return max(1.0, squares / (2 * (float(mean.square().sum()) + self.epsilon))) * mean
