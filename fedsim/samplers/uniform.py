"""``sampler=uniform``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.core.facts import Facts
from fedsim.samplers.sampler import REPLACE, Losses, Sampling, Sized

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Uniform(Sized):
    """Every client is equally likely; drawn without replacement (McMahan 2017, Algorithm 1)."""

    facts: ClassVar[Facts] = frozenset()

    fraction: float | None = 1.0

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return the clients ``[C]`` drawn from the random stream of the round."""
        size = self.size(len(samples))
        if size == len(samples):
            return torch.arange(size)
        rng = seeding.generator(seed, "cohort", round_number)
        return torch.from_numpy(rng.choice(len(samples), size, replace=False)).sort().values

    def accounting(self, num_clients: int) -> Sampling:
        """Return sampling of cohorts of a fixed size, uniformly and without replacement."""
        return Sampling(REPLACE, float(self.size(num_clients)), None, num_clients)
