"""Malicious clients reverse their deltas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsim.attacks.attack import RowAttackers
from fedsim.errors import check_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SignFlip(RowAttackers):
    """``-factor * delta`` (the bit-flipping of Xie 2018; "sign-flipping" of Li 2019, RSA).

    Attributes:
        factor: length of the reversed delta, relative to the honest one.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "factor")

    def alter(self, deltas: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return the deltas times ``-factor``."""
        return -self.factor * deltas
