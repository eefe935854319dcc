"""The coordinate-wise median of deltas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.aggregation.columns import median_of_sorted, over_clients
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Median:
    """The median of each parameter separately (Yin 2018, Definition 1 and Algorithm 1, option I).

    Every client counts the same; for an even number of clients it is the mean of the middle two.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the median ``[P]`` of deltas ``[C, P]``."""
        return over_clients(deltas, median_of_sorted)
