"""``sampler=round_robin``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsim.core.facts import Fact, Facts
from fedsim.samplers.sampler import Losses, Sized


@dataclass(frozen=True, kw_only=True)
class RoundRobin(Sized):
    """Clients by their numbers, as many as fit in a round; the next round goes on where this one ends."""

    facts: ClassVar[Facts] = frozenset({Fact.TAKES_TURNS})

    def check(self, num_clients: int) -> None:
        """There must be a choice."""
        self.check_choice(num_clients, "round_robin")

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """The next ones, starting again with client 0 after the last."""
        size = self.size(len(samples))
        return ((torch.arange(size) + (round_number - 1) * size) % len(samples)).sort().values
