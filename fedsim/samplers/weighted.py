"""``sampler=weighted``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedsim.core.facts import Fact, Facts
from fedsim.samplers.sampler import Losses, Sized, draw_by_samples


@dataclass(frozen=True, kw_only=True)
class WeightedBySize(Sized):
    """Clients with more samples are more likely, without replacement.

    Scheme I of Li 2020 ("On the convergence of FedAvg on non-IID data") draws with replacement, so that a client may
    count twice, and averages plainly. Ours draws each client once at most, which is near to that for small cohorts.
    Samples have had their say then: go with ``aggregator=mean``.
    """

    facts: ClassVar[Facts] = frozenset({Fact.ASKS_SIZES})
    option: ClassVar[str] = "weighted"

    def check(self, num_clients: int) -> None:
        """There must be a choice."""
        self.check_choice(num_clients, "weighted")

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Draw from the stream of this round."""
        return draw_by_samples(samples, self.size(len(samples)), round_number, seed)
