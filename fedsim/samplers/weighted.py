"""``sampler=weighted``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.core.facts import Fact, Facts
from fedsim.samplers.sampler import Losses, Sized, draw_by_samples

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WeightedBySize(Sized):
    """Clients with more samples are more likely, without replacement.

    Scheme I of Li 2020 ("On the convergence of FedAvg on non-IID data") draws with replacement, so that a client may
    count twice, and takes the plain mean. Ours draws each client at most once, which is close to that for small
    cohorts. Since sample counts already decide who is drawn, combine it with ``aggregator=mean``.
    """

    facts: ClassVar[Facts] = frozenset({Fact.ASKS_SIZES})
    option: ClassVar[str] = "weighted"

    def check(self, num_clients: int) -> None:
        """Refuse cohorts of all clients, which leave nothing to choose."""
        self.check_choice(num_clients, "weighted")

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return the clients ``[C]`` drawn from the random stream of the round."""
        return draw_by_samples(samples, self.size(len(samples)), round_number, seed)
