"""The coordinate-wise trimmed mean of deltas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.aggregation.columns import over_clients
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.errors import FieldError, UserError, check_at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TrimmedMean:
    """The mean of every parameter without its largest and smallest values (Yin 2018, Definition 2).

    Every client counts the same.

    Attributes:
        beta: share of the clients trimmed at each end, rounded down to whole clients; below one half.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(self, 0, "beta")
        if self.beta >= 0.5:
            raise FieldError("beta", self.beta, "must be below 0.5, since so much is left out at each end")

    def trimmed(self, clients: int) -> int:
        """How many of `clients` clients are trimmed at each end."""
        return int(self.beta * clients + 1e-9)  # 0.29 * 100 is below 29 in binary

    def check(self, setting: Setting) -> None:
        """Refuse a share that trims no client in any cohort, and so has no effect."""
        if self.beta > 0 and self.trimmed(setting.largest) == 0:
            least = -(-1000 // setting.largest) / 1000
            hint = f"take at least {least:g}, or " if least < 0.5 else "take "
            raise UserError(
                f"aggregator.combine.beta={self.beta}: leaves out nobody of {setting.largest} client(s) at either end; "
                f"{hint}aggregator/combine=mean"
            )

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the trimmed mean ``[P]`` of deltas ``[C, P]``."""
        count, cut = len(deltas), self.trimmed(len(deltas))
        return over_clients(deltas, lambda values: values[:, cut : count - cut].mean(1))
