"""Malicious clients scale up their deltas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsim.attacks.attack import RowAttackers
from fedsim.errors import FieldError, check_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scale(RowAttackers):
    """``factor * delta`` (model replacement, Bagdasaryan 2020, equation 3).

    In the paper, ``factor = n / eta`` makes the model of a single attacker replace the global one, where n clients are
    averaged and eta is the server's learning rate.

    Attributes:
        factor: the paper's gamma, by which deltas are multiplied.
    """

    factor: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "factor")
        if self.factor == 1:
            raise FieldError("factor", self.factor, "changes nothing; take another")

    def alter(self, deltas: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return the deltas times `factor`."""
        return self.factor * deltas
