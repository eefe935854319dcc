"""How often a client takes part, and how many rounds apart: what noise that is correlated over rounds relies on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

ZERO_OUT = "zero out one client"
"""The relation between populations that differ in one client, whose deltas count as zero in one of them (Kairouz 2021,
Definition 1.1): the rounds and places of all others are the same."""


@dataclass(frozen=True)
class Participation:
    """A promise about every client of a run.

    Attributes:
        separation: b; a client that takes part in round t does not take part again before round t + b.
        most: k, the largest number of rounds in which a client takes part.
    """

    separation: int
    most: int


@runtime_checkable
class Separated(Protocol):
    """A sampler that promises how far apart the rounds of each client are."""

    def limits(self, num_clients: int) -> tuple[int, int]:
        """Return the sizes of the smallest and the largest cohort."""
        ...

    def participation(self, num_clients: int, rounds: int) -> Participation:
        """Return the promise for a run of so many rounds, the largest separation that always holds."""
        ...
