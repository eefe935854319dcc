"""FedProx: a pull of every client towards the model that the server sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.step import Step
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction
from fedsim.errors import check_at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Prox(Correction):
    """The proximal term of FedProx (Li 2020, eq. 2): the gradient of ``mu / 2 * ||row - anchor||^2``.

    The term covers only the parameters that the server has: private blocks are not pulled.
    """

    mu: float = 0.01

    facts: ClassVar[Facts] = frozenset({Fact.PULLS})

    def __post_init__(self) -> None:
        check_at_least(self, 0, "mu")

    @property
    def pull(self) -> float:
        """The coefficient ``mu``."""
        return self.mu

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Add ``mu * (row - anchor)``."""
        gradient.add_(step.drift(), alpha=self.mu)
