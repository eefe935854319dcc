"""A little is enough: forged deltas that hide within the spread of the honest ones."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from fedsim.attacks.attack import CohortAttackers
from fedsim.attacks.statistics import mean_and_std
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_above

if TYPE_CHECKING:
    from torch import Tensor


def largest_z(clients: int, malicious: int) -> float:
    """``z_max`` of Baruch 2019, Algorithm 3: the most standard deviations at which the forged delta still hides.

    With ``s = floor(n / 2 + 1) - m`` supporters needed, ``z_max`` is the largest z with
    ``Phi(z) < (n - m - s) / (n - m)``; 0 where no positive z satisfies it, as in many cohorts of ten or fewer.
    """
    supporters = clients // 2 + 1 - malicious
    honest = clients - malicious
    share = (honest - supporters) / honest if honest else 0.0
    return NormalDist().inv_cdf(min(share, 1 - 1e-9)) if share > 0.5 else 0.0


@dataclass(frozen=True, kw_only=True)
class ALIE(CohortAttackers):
    """``mean - z * std`` of the honest deltas, parameter by parameter (Baruch 2019, Algorithm 3).

    In the paper the attackers estimate both from their own honest deltas; ours know the deltas of the honest clients,
    which is the stronger attack.

    Attributes:
        z: standard deviations from the mean; None is the paper's ``z_max`` for the round's cohort (`largest_z`).
    """

    z: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "z")

    def check_clients(self, setting: Setting) -> None:
        """Refuse the paper's z if it is 0 in the largest cohort, where it would have no effect."""
        if self.z is not None:
            return
        malicious = int(self.malicious(setting.num_clients, setting.seed).sum())
        count = round(malicious * setting.largest / setting.num_clients)
        if largest_z(setting.largest, count) == 0:
            raise UserError(
                f"attack.z=null: the paper's z_max is 0 where {count} of {setting.largest} clients attack, who would "
                "send the mean of the others; set attack.z, for instance to 1"
            )

    def forge(self, benign: Tensor, malicious: int) -> Tensor:
        """Return the row that all attackers send."""
        mean, std = mean_and_std(benign)
        z = largest_z(len(benign) + malicious, malicious) if self.z is None else self.z
        return mean - z * std
