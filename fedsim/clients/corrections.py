"""Local corrections: what a federated algorithm adds to each client's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from fedsim.errors import check_at_least


@runtime_checkable
class Correction(Protocol):
    """A term added to the local gradient; rows in, rows changed in place."""

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor) -> None:
        """Add the correction to `gradient` in place.

        Args:
            gradient: ``[A, P]`` minibatch gradients.
            rows: ``[A, P]`` local parameters at which they were taken.
            anchors: ``[A, P]`` or ``[P]``, what the clients started the round from.
        """
        ...


@dataclass(frozen=True)
class NoCorrection:
    """Plain local training, as in FedAvg (McMahan 2017, Algorithm 1)."""

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor) -> None:
        """Leave the gradient as it is."""


@dataclass(frozen=True, kw_only=True)
class Prox:
    """The proximal term of FedProx (Li 2020, eq. 2): the gradient of ``mu / 2 * ||row - anchor||^2``."""

    mu: float = 0.01

    def __post_init__(self) -> None:
        check_at_least(self, 0, "mu")

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor) -> None:
        """Add ``mu * (row - anchor)``."""
        gradient.add_(rows - anchors, alpha=self.mu)
