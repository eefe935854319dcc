"""What a privacy mechanism is, and the settings that all have in common."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fedsim.aggregation.rules import StreamingRule
from fedsim.errors import check_above, check_between, check_exactly_one
from fedsim.privacy.budget import Budget

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment


@runtime_checkable
class Privacy(Protocol):
    """A mechanism; `CentralPrivacy` and `LocalPrivacy` say what it does."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it adds to ``metrics.csv``."""
        ...

    def check(self, experiment: Experiment) -> None:
        """Raise `UserError` for settings with which the guarantee would not hold."""
        ...

    def budget(self, experiment: Experiment, num_clients: int) -> Budget | None:
        """What the run spends, or None if nothing is private."""
        ...


@runtime_checkable
class CentralPrivacy(Protocol):
    """The server, which is trusted, clips deltas and adds noise to their sum."""

    def rule(self, parts: MutableMapping[str, Tensor], budget: Budget, seed: int, number: int) -> StreamingRule:
        """The private mean of round `number`; `parts` is what it keeps between rounds."""
        ...


@runtime_checkable
class LocalPrivacy(Protocol):
    """Each client clips its delta and adds noise to it; nobody has to be trusted."""

    def privatise(self, deltas: Tensor, clients: Tensor, key: int, budget: Budget) -> Tensor:
        """What clients ``[C]`` send for their deltas ``[C, n]``."""
        ...


@dataclass(frozen=True)
class NoPrivacy:
    """Nothing is hidden."""

    columns: ClassVar[tuple[str, ...]] = ()

    def check(self, experiment: Experiment) -> None:
        """Goes with everything."""

    def budget(self, experiment: Experiment, num_clients: int) -> Budget | None:
        """None."""
        return None


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """What all mechanisms have in common. The unit of privacy is a client with all of its samples.

    The columns ``epsilon`` and ``delta`` say what the rounds so far have spent. The guarantee is about the global
    models, not about ``metrics.csv``, whose losses are found without noise. Noise from a keyed stream can be drawn
    again by who knows the seed: this simulates a mechanism and its accuracy, and protects nobody's real data.

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

    @property
    def columns(self) -> tuple[str, ...]:
        """What the rounds so far have spent."""
        return ("epsilon", "delta")

    @property
    def depends_on_rounds(self) -> bool:
        """Whether the noise follows from ``rounds``, so that a run cannot be made longer later."""
        return self.target_epsilon is not None

    def __post_init__(self) -> None:
        check_exactly_one(self, "noise_multiplier", "target_epsilon")
        check_above(self, 0, "clip_norm", "noise_multiplier", "target_epsilon", "delta")
        check_between(self, 0, 1, "delta", open_high=True)
