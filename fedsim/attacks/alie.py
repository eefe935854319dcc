"""A little is enough: to hide in the spread of the others."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

from fedsim.attacks.attack import CohortAttackers
from fedsim.attacks.statistics import mean_and_std
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_above


def largest_z(clients: int, malicious: int) -> float:
    """``z_max`` of Baruch 2019, Algorithm 3: so many standard deviations away that a majority still seems farther.

    With ``s = floor(n / 2 + 1) - m`` supporters needed, ``z_max`` is the largest z with
    ``Phi(z) < (n - m - s) / (n - m)``; zero where that gives none above zero, as for many cohorts of ten and fewer.
    """
    supporters = clients // 2 + 1 - malicious
    honest = clients - malicious
    share = (honest - supporters) / honest if honest else 0.0
    return NormalDist().inv_cdf(min(share, 1 - 1e-9)) if share > 0.5 else 0.0


@dataclass(frozen=True, kw_only=True)
class ALIE(CohortAttackers):
    """``mean - z * std`` of the honest deltas, number by number (Baruch 2019, Algorithm 3).

    There the attackers estimate both from their own honest deltas; ours know those of the others, which is the
    stronger attack.

    Attributes:
        z: standard deviations from the mean; None is the paper's ``z_max`` for the round's cohort (`largest_z`).
    """

    z: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "z")

    def check_clients(self, setting: Setting) -> None:
        """The paper's z must be above zero in the largest cohort."""
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
        """The row that all attackers send."""
        mean, std = mean_and_std(benign)
        z = largest_z(len(benign) + malicious, malicious) if self.z is None else self.z
        return mean - z * std
