"""Malicious clients send random noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim import seeding
from fedsim.attacks.attack import RowAttackers
from fedsim.errors import check_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Gaussian(RowAttackers):
    """Gaussian noise instead of the delta (Blanchard 2017, section 6, with a standard deviation of 200).

    Attributes:
        std: standard deviation of the noise, per parameter.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "std")

    def alter(self, deltas: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return noise ``[m, n]`` that depends only on the round and the client."""
        place = torch.arange(deltas.shape[1], device=deltas.device)
        noise = seeding.normals(key, clients.to(deltas.device)[:, None], place)
        return (self.std * noise).to(deltas.dtype)
