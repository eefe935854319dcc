"""What differentially private mechanisms have in common, and the option of having none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from fedsim.core.cohort import Cohort
from fedsim.core.facts import Facts
from fedsim.core.names import option_name
from fedsim.core.part import Bound, Federation, Privacy, Round
from fedsim.core.results import Evaluation, Metrics
from fedsim.core.setting import Setting
from fedsim.core.state import State
from fedsim.errors import check_above, check_at_least, check_between, check_exactly_one
from fedsim.metrics import COLUMNS, Column
from fedsim.privacy.budget import Budget
from fedsim.privacy.guarantee import Guarantee, refuse_pooled
from fedsim.privacy.participations import count, participations


@dataclass(frozen=True)
class NoPrivacy(Privacy):
    """No privacy: the server sees the deltas as they are."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Clipped(Privacy, ABC):
    """What all mechanisms have in common. The unit of privacy is a client with all of its samples.

    The columns ``epsilon`` and ``delta`` give the privacy spent so far, and ``participations_max`` how often the client
    that took part most often did so; ``clients.csv`` has the number of each. The guarantee covers the global models,
    not ``metrics.csv``, whose losses are computed without noise. Anyone who knows the seed can draw the noise again:
    this simulates a mechanism and its accuracy, and does not protect real data.

    A client whose delta is not finite has sent zeros, as far as the mean is concerned, and is counted in the column
    ``rejected``: if the run ended, that would tell of a single client.

    Attributes:
        clip_norm: S, the largest norm of a delta.
        noise_multiplier: standard deviation of the noise divided by S; exclusive with `target_epsilon`.
        target_epsilon: the epsilon that all ``rounds`` together may spend; the noise is chosen to meet it.
        delta: the delta of (epsilon, delta)-differential privacy; choose it well below ``1 / num_clients``.
        noise_stream: number of the noise among all that one seed gives. Runs on the same clients that share seed and
            stream share their noise, so that their difference is without it; a fork gets a stream of its own.
    """

    clip_norm: float = 1.0
    noise_multiplier: float | None = 1.0
    target_epsilon: float | None = None
    delta: float = 1e-5
    noise_stream: int = 0

    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["epsilon"], COLUMNS["delta"], COLUMNS["participations_max"])

    @property
    def depends_on_rounds(self) -> bool:
        """Whether the noise is chosen for ``rounds``, so that a run cannot be extended later."""
        return self.target_epsilon is not None

    @property
    def stream(self) -> tuple[int, ...]:
        """What the keys of the noise end with."""
        return (self.noise_stream,) if self.noise_stream else ()

    def __post_init__(self) -> None:
        check_exactly_one(self, "noise_multiplier", "target_epsilon")
        check_above(self, 0, "clip_norm", "noise_multiplier", "target_epsilon", "delta")
        check_between(self, 0, 1, "delta", open_high=True)
        check_at_least(self, 0, "noise_stream")

    def check_clients(self, setting: Setting) -> None:
        """Refuse data that were prepared by what all clients hold, where that can be avoided."""
        assert setting.population is not None
        refuse_pooled(setting.population, f"privacy={option_name(self)}")

    @abstractmethod
    def bind(self, bound: Bound) -> Accounted:
        """Work out the noise, and return the mechanism with its budget."""


@dataclass(frozen=True)
class Accounted(Privacy):
    """A mechanism bound to a run, whose accountant tracks the privacy spent.

    Attributes:
        budget: the run's privacy budget.
        guarantee: what its epsilon is about.
        seed: the run's seed.
        settings: those of the mechanism.
    """

    budget: Budget
    guarantee: Guarantee
    seed: int
    settings: Clipped

    def spent(self, state: State) -> int:
        """Return the number of rounds to account for: those in which the most exposed client has spent privacy."""
        return state.round

    def close(self, round: Round) -> None:
        """Count who has taken part."""
        count(round.cohort.clients, round.state)

    def measure(self, round: Round) -> Metrics:
        """Return the privacy spent so far, and how often the client that took part most often did so."""
        most = int(participations(round.state).max())
        spent = self.budget.epsilon(self.spent(round.state))
        return {"epsilon": spent, "delta": self.budget.delta, "participations_max": most}

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return how often each client has taken part."""
        return Evaluation(clients={"participations": participations(state).double().numpy()})

    def introduce(self) -> list[str]:
        """Return lines about the guarantee, what it leaves out, and what makes it worth less than it seems."""
        left_out = f"epsilon does not cover {'; '.join(self.guarantee.not_covered)}"
        return [*self._stated(), left_out, *(f"warning: {line}" for line in self.guarantee.warnings)]

    def _stated(self) -> list[str]:
        lines = [f"{self.budget.describe()}; sampling: {self.guarantee.sampling}"]
        if self.guarantee.public:
            lines.append(f"epsilon takes for public: {self.guarantee.public}")
        if (before := self.budget.epsilon(0)) and self.guarantee.origin is not None:
            path = self.guarantee.origin.path
            lines.append(f"epsilon begins at {before:.4g}, spent on the same clients by the model of init_from={path}")
        return lines

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Return the same for ``--dry-run``, with what all rounds together will spend at most."""
        rounds, warnings = federation.bound.rounds, self.guarantee.warnings
        return {
            "privacy": "\n".join(
                [*self._stated(), f"epsilon at most {self.budget.epsilon(rounds):.4g} in {rounds} rounds"]
            ),
            "epsilon leaves out": "\n".join(self.guarantee.not_covered),
            **({"privacy warnings": "\n".join(warnings)} if warnings else {}),
        }

    def summary(self, state: State) -> dict[str, Any]:
        """Return the guarantee in numbers and words."""
        rounds = self.spent(state)
        drawn = {"seed": self.seed, "noise_stream": self.settings.noise_stream}
        spent = [(drawn if one.seed is None else {}) | one.record() for one in self.budget.spent(rounds)]
        found = {
            **self.budget.facts(),
            **self.guarantee.facts(),
            "epsilon": self.budget.epsilon(rounds),
            "epsilon_before": self.budget.epsilon(0),
            "spent": spent,
            "participations_max": int(participations(state).max()),
        }
        return {"privacy": found}
