"""Multi-Krum: the mean of the deltas that Krum scores best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim.aggregation.columns import weighted_sum
from fedsim.aggregation.distances import squared_distances
from fedsim.aggregation.krum import Krum, nearest, scores
from fedsim.clients.report import Report
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Krum):
    """The mean of the m deltas with the best scores (Blanchard 2017, section 4, "Multi-Krum"); m = 1 is Krum.

    Attributes:
        m: how many deltas are averaged; None is ``n - f``, as in the paper's experiments.
    """

    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "m")

    def check(self, setting: Setting) -> None:
        """Check as for Krum; also, every cohort must have at least m clients, and m must leave some out."""
        super().check(setting)
        if self.m is not None and self.m > setting.smallest:
            raise UserError(
                f"aggregator.combine.m={self.m}: cannot be more than the clients of a round, and the sampler may give "
                f"{setting.smallest}"
            )
        if (self.f if self.m is None else self.m - setting.largest) == 0:
            raise UserError(
                f"aggregator.combine: f={self.f} and m={'null' if self.m is None else self.m} choose all "
                f"{setting.largest} clients; take aggregator/combine=mean"
            )

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the mean ``[P]`` of the m best-scored deltas."""
        order = scores(squared_distances(deltas), nearest(len(deltas), self.f)).argsort(stable=True)
        count = min(len(deltas), max(1, len(deltas) - self.f) if self.m is None else self.m)
        weights = torch.zeros(len(deltas), dtype=torch.float64, device=deltas.device)
        weights[order[:count]] = 1 / count
        return weighted_sum(deltas, weights)
