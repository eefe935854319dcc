"""q-FFL: clients with a higher loss count more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.optimizers import SGD
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.errors import Diverged, UserError, check_at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class QFFL:
    """q-FedAvg (Li 2020, "Fair resource allocation in federated learning", Algorithm 2).

    With the loss F_k of the global row on a client's training data and ``L = 1 / lr`` (the local learning rate), the
    row moves by ``sum(L F_k^q delta_k) / sum(q F_k^(q-1) |L delta_k|^2 + L F_k^q)``. q = 0 is the plain mean. The
    paper draws clients in proportion to their samples (``sampler=weighted``), so sample counts are not in the formula.

    Attributes:
        q: how strongly clients with a high loss are favoured; 0 is not at all.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.READS_REPORT, Fact.COMPARES, Fact.TAKES_DRAW_BY_SIZE})

    needs: ClassVar[tuple[str, ...]] = ("start_loss", "lr")

    q: float = 1.0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "q")

    def check(self, setting: Setting) -> None:
        """Refuse all local optimizers but SGD, for which alone ``L = 1 / lr`` estimates the smoothness."""
        if not isinstance(setting.client.optimizer, SGD):
            raise UserError(
                f"client/optimizer={type(setting.client.optimizer).__name__.lower()}: aggregator/combine=qffl takes "
                "1 / lr of gradient descent for the smoothness of the loss; take client/optimizer=sgd"
            )

    def start(self, like: Tensor) -> WeightedSum:
        """Return an empty float64 sum shaped like the row `like` ``[P]``."""
        return WeightedSum(torch.zeros_like(like, dtype=torch.float64))

    def add(self, state: WeightedSum, deltas: Tensor, report: Report) -> None:
        """Add the deltas of a chunk; the factor L is left out of numerator and denominator."""
        assert report.start_loss is not None, "asked for in `needs`"
        assert report.lr is not None, "asked for in `needs`"
        if not bool(torch.isfinite(report.start_loss).all()):
            raise Diverged("a client's loss before training is not finite, so it cannot be a weight")
        loss = report.start_loss.to(deltas.device).clamp(min=1e-10)  # a power of zero may be infinite
        smoothness = 1 / report.lr.to(deltas.device)
        state.add(deltas, loss**self.q)
        state.weight += float((self.q * loss ** (self.q - 1) * smoothness * deltas.square().sum(1)).sum())

    def finish(self, state: WeightedSum) -> Tensor:
        """Return the step ``[P]`` of the global row."""
        return state.total / state.weight
