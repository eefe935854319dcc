"""How a learning rate changes over the rounds, as a factor on it that is 1 in round 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from fedsim.errors import check_above, check_at_least, check_between


@runtime_checkable
class Schedule(Protocol):
    """The interface of a schedule."""

    def at(self, round_number: int, rounds: int) -> float:
        """The factor in round `round_number` (1, 2, ...) of a run of at most `rounds` rounds."""
        ...


@dataclass(frozen=True)
class Constant:
    """A constant learning rate: the factor is always 1."""

    def at(self, round_number: int, rounds: int) -> float:
        """Return 1 in every round."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """``decay ** ((round - 1) // every)``."""

    every: int = 10
    decay: float = 0.5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "every")
        check_above(self, 0, "decay")
        check_between(self, 0, 1, "decay", open_high=True)

    def at(self, round_number: int, rounds: int) -> float:
        """Return the factor, which drops at rounds ``every + 1``, ``2 * every + 1``, ..."""
        return self.decay ** ((round_number - 1) // self.every)


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """``decay ** (round - 1)``, as ``client.lr_decay``."""

    decay: float = 0.99

    def __post_init__(self) -> None:
        check_above(self, 0, "decay")
        check_between(self, 0, 1, "decay", open_high=True)

    def at(self, round_number: int, rounds: int) -> float:
        """Return the factor, which drops in every round."""
        return self.decay ** (round_number - 1)


@dataclass(frozen=True)
class InverseSqrt:
    """``1 / sqrt(round)``."""

    def at(self, round_number: int, rounds: int) -> float:
        """Return the factor: 1, 0.71, 0.58, 0.5, ..."""
        return 1 / math.sqrt(round_number)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 towards `final`, for the round after the last (Loshchilov and Hutter 2017, eq. 5)."""

    final: float = 0.0

    depends_on_rounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_between(self, 0, 1, "final", open_high=True)

    def at(self, round_number: int, rounds: int) -> float:
        """Return the factor, which depends on the round limit `rounds`."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * (round_number - 1) / rounds)) / 2


CONSTANT = Constant()
