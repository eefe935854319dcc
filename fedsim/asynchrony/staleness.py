"""The weight of an update that was trained from an older model.

Staleness is the number of versions that the server has made since it gave the client its model: 0 if none, as in
FedBuff. The functions are those of ``t - tau`` in Xie 2019, with ``s(0) = 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from fedsim.errors import check_above, check_at_least

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Staleness(Protocol):
    """The interface of a weight that depends on staleness."""

    def weights(self, staleness: Tensor) -> Tensor:
        """Return factors ``[C]`` float64 for staleness ``[C]`` int64; the factor for 0 is 1."""
        ...


@dataclass(frozen=True)
class Constant:
    """Stale updates count fully: the factor is always 1."""

    def weights(self, staleness: Tensor) -> Tensor:
        """Return ones ``[C]``."""
        return torch.ones(len(staleness), dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """``(1 + tau) ** -exponent`` (Xie 2019); the default, ``1 / sqrt(1 + tau)``, is that of Nguyen 2022."""

    exponent: float = 0.5

    def __post_init__(self) -> None:
        check_above(self, 0, "exponent")

    def weights(self, staleness: Tensor) -> Tensor:
        """Return factors that decrease with staleness, fast at first."""
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
        """Return factors that decrease once staleness exceeds `grace`."""
        return 1.0 / (self.slope * (staleness - self.grace).clamp(min=0).double() + 1.0)


POLYNOMIAL = Polynomial()
