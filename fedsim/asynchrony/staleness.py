"""How much an update counts that was trained from an older model.

Staleness is the number of versions that the server has made since it gave the client its model: 0 if none, as in
FedBuff. Xie 2019 has functions of ``t - tau`` with ``s(0) = 1``; these are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim.errors import check_above, check_at_least


@runtime_checkable
class Staleness(Protocol):
    """A function of staleness."""

    def weights(self, staleness: Tensor) -> Tensor:
        """Factors ``[C]`` float64, 1 where nothing is stale, of staleness ``[C]`` int64."""
        ...


@dataclass(frozen=True)
class Constant:
    """Always 1."""

    def weights(self, staleness: Tensor) -> Tensor:
        """Ones."""
        return torch.ones(len(staleness), dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """``(1 + tau) ** -exponent`` (Xie 2019); ``1 / sqrt(1 + tau)`` is that of Nguyen 2022."""

    exponent: float = 0.5

    def __post_init__(self) -> None:
        check_above(self, 0, "exponent")

    def weights(self, staleness: Tensor) -> Tensor:
        """Falling with staleness, fast at first."""
        return (1.0 + staleness.double()) ** -self.exponent


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """1 up to ``tau = grace``, then ``1 / (slope * (tau - grace) + 1)`` (Xie 2019)."""

    slope: float = 10.0
    grace: int = 4

    def __post_init__(self) -> None:
        check_above(self, 0, "slope")
        check_at_least(self, 0, "grace")

    def weights(self, staleness: Tensor) -> Tensor:
        """Falling after a while."""
        return 1.0 / (self.slope * (staleness - self.grace).clamp(min=0).double() + 1.0)


POLYNOMIAL = Polynomial()
