"""What differentially private mechanisms have in common, and what a run has without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fedsim.core.facts import Facts
from fedsim.core.part import Privacy, Round
from fedsim.core.results import Metrics
from fedsim.core.state import State
from fedsim.errors import check_above, check_between, check_exactly_one
from fedsim.metrics import COLUMNS, Column
from fedsim.privacy.budget import Budget


@dataclass(frozen=True)
class NoPrivacy(Privacy):
    """Nothing is hidden."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Clipped(Privacy):
    """What all mechanisms have in common. The unit of privacy is a client with all of its samples.

    The columns ``epsilon`` and ``delta`` say what the rounds so far have spent. The guarantee is about the global
    models, not about ``metrics.csv``, whose losses are found without noise. Noise from a keyed stream can be drawn
    again by anyone who knows the seed: this simulates a mechanism and its accuracy, and protects nobody's real data.

    Attributes:
        clip_norm: S, largest norm of a delta.
        noise_multiplier: standard deviation of the noise over S; exclusive with `target_epsilon`.
        target_epsilon: what all ``rounds`` together may spend; the noise follows from it.
        delta: of (epsilon, delta)-differential privacy; choose it well below ``1 / num_clients``.
    """

    clip_norm: float = 1.0
    noise_multiplier: float | None = 1.0
    target_epsilon: float | None = None
    delta: float = 1e-5

    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["epsilon"], COLUMNS["delta"])

    @property
    def depends_on_rounds(self) -> bool:
        """Whether the noise follows from ``rounds``, so that a run cannot be made longer later."""
        return self.target_epsilon is not None

    def __post_init__(self) -> None:
        check_exactly_one(self, "noise_multiplier", "target_epsilon")
        check_above(self, 0, "clip_norm", "noise_multiplier", "target_epsilon", "delta")
        check_between(self, 0, 1, "delta", open_high=True)


@dataclass(frozen=True)
class Accounted(Privacy):
    """A mechanism with its noise, and the accountant's books.

    Attributes:
        budget: what the run spends.
        seed: of the run.
    """

    budget: Budget
    seed: int

    def spent(self, round: Round) -> int:
        """In how many rounds the client that took part in most has spent privacy."""
        return round.state.round

    def measure(self, round: Round) -> Metrics:
        """What the rounds so far have spent."""
        return {"epsilon": self.budget.epsilon(self.spent(round)), "delta": self.budget.delta}

    def introduce(self) -> list[str]:
        """The guarantee in one line."""
        return [self.budget.describe()]

    def summary(self, state: State) -> dict[str, Any]:
        """The guarantee in numbers."""
        return {"privacy": self.budget.facts()}
