"""FedSAM: gradients taken at a nearby point of higher loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.step import Step
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction
from fedsim.errors import check_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SharpnessAware(Correction):
    """FedSAM (Qu 2022, Algorithm 1; Caldarola 2022): local gradients at a nearby point of higher loss.

    That point is ``row + rho * g / |g|`` for the minibatch gradient g (Foret 2021, eq. 2), so that every step computes
    two gradients of the same minibatch. The recorded loss is the one at the row itself. With private blocks the point
    differs from the row in all parameters, private ones included.
    """

    rho: float = 0.05

    facts: ClassVar[Facts] = frozenset({Fact.BENDS})
    gradients: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_above(self, 0, "rho")

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Replace the gradient by the one at the perturbed point; a zero gradient is not perturbed."""
        norm = gradient.norm(dim=1, keepdim=True)
        shift = gradient * (self.rho / norm.clamp(min=1e-12))
        gradient.copy_(step.at(step.rows + shift))
