"""``sampler=poisson``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.core.facts import Fact, Facts
from fedsim.errors import check_above, check_between
from fedsim.samplers.sampler import ADD_OR_REMOVE, Losses, Sampler, Sampling


@dataclass(frozen=True, kw_only=True)
class Poisson(Sampler):
    """Each client takes part with the same probability, whatever the others do; a round may have no clients.

    The sampling of differentially private training (Abadi 2016, Algorithm 1, "lots").

    Attributes:
        probability: q.
    """

    facts: ClassVar[Facts] = frozenset({Fact.NO_COHORT_SIZE})

    probability: float = 0.1

    def __post_init__(self) -> None:
        check_above(self, 0, "probability")
        check_between(self, 0, 1, "probability")

    def check(self, num_clients: int) -> None:
        """Any number will do."""

    def limits(self, num_clients: int) -> tuple[int, int]:
        """From nobody to everybody."""
        return (0 if self.probability < 1 else num_clients), num_clients

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Draw from the stream of this round."""
        rng = seeding.generator(seed, "cohort", round_number)
        return torch.from_numpy(rng.random(len(samples)) < self.probability).nonzero()[:, 0]

    def accounting(self, num_clients: int) -> Sampling:
        """Clients that take part independently of each other."""
        return Sampling(ADD_OR_REMOVE, self.probability * num_clients, self.probability, num_clients)
