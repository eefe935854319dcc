"""Krum: the single delta that is nearest to its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.distances import squared_distances
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_at_least

if TYPE_CHECKING:
    from torch import Tensor


def scores(distances: Tensor, neighbours: int) -> Tensor:
    """Sum of squared distances ``[C]`` to the nearest `neighbours` other rows, from distances ``[C, C]``."""
    others = distances.clone().fill_diagonal_(torch.inf).sort(1).values[:, :-1]
    return others[:, :neighbours].sum(1)


def nearest(clients: int, f: int) -> int:
    """How many neighbours are scored among `clients` rows: ``n - f - 2``, and never fewer than at ``n = 2f + 3``.

    Fewer rows than `Krum.check` asks for are left where the server has rejected some, or Bulyan has chosen some.
    """
    return max(clients - f - 2, f + 1)


@dataclass(frozen=True, kw_only=True)
class Krum:
    """The delta with the least sum of squared distances to its ``n - f - 2`` nearest (Blanchard 2017, section 4).

    Ties go to the first in cohort order, as in the paper. Needs ``n >= 2f + 3`` clients (Proposition 1).

    Attributes:
        f: how many clients of a cohort may be arbitrarily bad.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    f: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 0, "f")

    def check(self, setting: Setting) -> None:
        """Refuse samplers that may give fewer than ``2f + 3`` clients."""
        if setting.smallest < 2 * self.f + 3:
            raise UserError(
                f"aggregator.combine.f={self.f}: krum needs at least 2f + 3 = {2 * self.f + 3} clients in every "
                f"round, and the sampler may give {setting.smallest}"
            )

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the chosen delta ``[P]``, in float64."""
        best = scores(squared_distances(deltas), nearest(len(deltas), self.f)).argsort(stable=True)[0]
        return deltas[best].double()
