"""Inner product manipulation: make the combined delta point away from the true mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsim.attacks.attack import CohortAttackers
from fedsim.attacks.statistics import mean_and_std
from fedsim.errors import check_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class IPM(CohortAttackers):
    """``-epsilon`` times the mean of the honest deltas (inner product manipulation, Xie 2020, section 4).

    A small epsilon is what deceives medians and Krum; a mean needs more than ``(n - m) / m``.

    Attributes:
        epsilon: length of the forged delta, relative to the honest mean.
    """

    epsilon: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "epsilon")

    def forge(self, benign: Tensor, malicious: int) -> Tensor:
        """Return the row that all attackers send."""
        return -self.epsilon * mean_and_std(benign)[0]
