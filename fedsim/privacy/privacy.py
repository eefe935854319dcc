"""What differentially private mechanisms have in common, and the option of having none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from fedsim.core.facts import Facts
from fedsim.core.part import Bound, Privacy, Round
from fedsim.core.results import Metrics
from fedsim.core.state import State
from fedsim.errors import check_above, check_between, check_exactly_one
from fedsim.metrics import COLUMNS, Column
from fedsim.privacy.budget import Budget


@dataclass(frozen=True)
class NoPrivacy(Privacy):
    """No privacy: the server sees the deltas as they are."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Clipped(Privacy, ABC):
    """What all mechanisms have in common. The unit of privacy is a client with all of its samples.

    The columns ``epsilon`` and ``delta`` give the privacy spent so far. The guarantee covers the global models, not
    ``metrics.csv``, whose losses are computed without noise. Anyone who knows the seed can draw the noise again: this
    simulates a mechanism and its accuracy, and does not protect real data.

    Attributes:
        clip_norm: S, the largest norm of a delta.
        noise_multiplier: standard deviation of the noise divided by S; exclusive with `target_epsilon`.
        target_epsilon: the epsilon that all ``rounds`` together may spend; the noise is chosen to meet it.
        delta: the delta of (epsilon, delta)-differential privacy; choose it well below ``1 / num_clients``.
    """

    clip_norm: float = 1.0
    noise_multiplier: float | None = 1.0
    target_epsilon: float | None = None
    delta: float = 1e-5

    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["epsilon"], COLUMNS["delta"])

    @property
    def depends_on_rounds(self) -> bool:
        """Whether the noise is chosen for ``rounds``, so that a run cannot be extended later."""
        return self.target_epsilon is not None

    def __post_init__(self) -> None:
        check_exactly_one(self, "noise_multiplier", "target_epsilon")
        check_above(self, 0, "clip_norm", "noise_multiplier", "target_epsilon", "delta")
        check_between(self, 0, 1, "delta", open_high=True)

    @abstractmethod
    def bind(self, bound: Bound) -> Accounted:
        """Work out the noise, and return the mechanism with its budget."""


NOT_COVERED = (
    "metrics.csv and clients.csv, which tell losses and scores on clients' samples without noise",
    "what is chosen by them: the best round, early stopping, settings",
)
"""What a run gives away besides the models whose release epsilon is about."""


@dataclass(frozen=True)
class Accounted(Privacy):
    """A mechanism bound to a run, whose accountant tracks the privacy spent.

    Attributes:
        budget: the run's privacy budget.
        seed: the run's seed.
    """

    budget: Budget
    seed: int

    def spent(self, round: Round) -> int:
        """Return the number of rounds to account for: those in which the most exposed client has spent privacy."""
        return round.state.round

    def measure(self, round: Round) -> Metrics:
        """Return the privacy spent so far."""
        return {"epsilon": self.budget.epsilon(self.spent(round)), "delta": self.budget.delta}

    def introduce(self) -> list[str]:
        """Return a line about the guarantee, and one about what it leaves out."""
        return [self.budget.describe(), f"epsilon does not cover {'; '.join(NOT_COVERED)}"]

    def summary(self, state: State) -> dict[str, Any]:
        """Return the guarantee in numbers."""
        return {"privacy": {**self.budget.facts(), "not_covered": [*NOT_COVERED]}}
