"""``sampler=poisson``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.core.facts import Fact, Facts
from fedsim.errors import check_above, check_between
from fedsim.samplers.sampler import ADD_OR_REMOVE, Losses, Sampler, Sampling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Poisson(Sampler):
    """Each client takes part independently with the same probability; a round may have no clients.

    This is the sampling of differentially private training (Abadi 2016, Algorithm 1, "lots").

    Attributes:
        probability: q, the probability that a client takes part in a round.
    """

    facts: ClassVar[Facts] = frozenset({Fact.NO_COHORT_SIZE})

    probability: float = 0.1

    def __post_init__(self) -> None:
        check_above(self, 0, "probability")
        check_between(self, 0, 1, "probability")

    def check(self, num_clients: int) -> None:
        """Accept any number of clients."""

    def limits(self, num_clients: int) -> tuple[int, int]:
        """Return 0 and N, or N twice if everyone always takes part."""
        return (0 if self.probability < 1 else num_clients), num_clients

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return the clients ``[C]`` drawn from the random stream of the round."""
        rng = seeding.generator(seed, "cohort", round_number)
        return torch.from_numpy(rng.random(len(samples)) < self.probability).nonzero()[:, 0]

    def accounting(self, num_clients: int) -> Sampling:
        """Return Poisson sampling, where clients take part independently of each other."""
        return Sampling(ADD_OR_REMOVE, self.probability * num_clients, self.probability, num_clients)
