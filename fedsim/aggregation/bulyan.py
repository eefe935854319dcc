"""Bulyan: Krum's choices, and then the values around the median of each parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.columns import median_of_sorted, over_clients
from fedsim.aggregation.distances import squared_distances
from fedsim.aggregation.krum import nearest, scores
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Bulyan:
    """Bulyan over Krum (El Mhamdi 2018, section 4).

    Krum chooses one delta after another, each from those that remain, until ``n - 2f`` are chosen. The result is, for
    every parameter, the mean of the ``n - 4f`` chosen values nearest to their median. Needs ``n >= 4f + 3`` clients.

    Krum's ``n - f - 2`` neighbours become fewer as deltas are removed. For the last two choices they would be fewer
    than the ``f + 1`` that Krum uses at its own bound ``n = 2f + 3``; there we use ``f + 1``.

    Attributes:
        f: how many clients of a cohort may be arbitrarily bad; at least 1, since with 0 every delta is chosen and
            Bulyan is the plain mean.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    f: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "f")

    def check(self, setting: Setting) -> None:
        """Refuse samplers that may give fewer than ``4f + 3`` clients."""
        if setting.smallest < 4 * self.f + 3:
            raise UserError(
                f"aggregator.combine.f={self.f}: bulyan needs at least 4f + 3 = {4 * self.f + 3} clients in every "
                f"round, and the sampler may give {setting.smallest}"
            )

    def choose(self, deltas: Tensor) -> Tensor:
        """Indices ``[n - 2f]`` of the rows that Krum chooses one after another, ascending."""
        distances = squared_distances(deltas)
        left = torch.arange(len(deltas), device=deltas.device)
        for _ in range(max(1, len(deltas) - 2 * self.f)):
            best = scores(distances[left][:, left], nearest(len(left), self.f)).argsort(stable=True)[0]
            left = left[left != left[best]]
        chosen = torch.ones(len(deltas), dtype=torch.bool, device=deltas.device)
        chosen[left] = False
        return chosen.nonzero()[:, 0]

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return, per parameter, the mean of the chosen values nearest to their median, ``[P]``."""
        kept = max(1, len(deltas) - 4 * self.f)

        def around_median(values: Tensor) -> Tensor:
            distance = (values - median_of_sorted(values)[:, None]).abs()
            return values.gather(1, distance.argsort(dim=1, stable=True)[:, :kept]).mean(1)

        return over_clients(deltas[self.choose(deltas)], around_median)
