"""``aggregator/correction=none``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.step import Step
from fedsim.core.facts import Facts
from fedsim.core.part import Correction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoCorrection(Correction):
    """Plain local training, as in FedAvg (McMahan 2017, Algorithm 1)."""

    facts: ClassVar[Facts] = frozenset()

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Leave the gradient as it is."""
