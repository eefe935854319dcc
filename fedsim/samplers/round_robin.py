"""``sampler=round_robin``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.core.facts import Fact, Facts
from fedsim.samplers.participation import Participation
from fedsim.samplers.sampler import Losses, Sized

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RoundRobin(Sized):
    """Clients take turns in the order of their numbers; each round continues where the previous one ended."""

    facts: ClassVar[Facts] = frozenset({Fact.TAKES_TURNS})

    def check(self, num_clients: int) -> None:
        """Refuse cohorts of all clients, in which there are no turns to take."""
        self.check_choice(num_clients, "round_robin")

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return the next clients in turn, with client 0 after the last one."""
        size = self.size(len(samples))
        return ((torch.arange(size) + (round_number - 1) * size) % len(samples)).sort().values

    def participation(self, num_clients: int, rounds: int) -> Participation:
        """Return N/C rounded down, since a turn comes N places after the one before, C of which are a round."""
        size = self.size(num_clients)
        return Participation(num_clients // size, math.ceil(rounds * size / num_clients))
