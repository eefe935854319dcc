"""``sampler=power_of_choice``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.core.facts import Fact, Facts
from fedsim.errors import UserError, check_at_least
from fedsim.samplers.sampler import Losses, Sized, draw_by_samples

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PowerOfChoice(Sized):
    """The m clients with the highest loss of the global model among d candidates (Cho 2022, "power-of-choice").

    Candidates are drawn in proportion to their samples, without replacement. The global model is sent to all of
    them, which ``bytes_down`` counts.

    Attributes:
        candidates: d; None is twice the cohort size, or all clients if there are fewer.
    """

    facts: ClassVar[Facts] = frozenset({Fact.ASKS_LOSSES, Fact.ASKS_SIZES})

    candidates: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "candidates")

    def check(self, num_clients: int) -> None:
        """Refuse numbers of candidates that leave no choice, or exceed the population."""
        self.check_choice(num_clients, "power_of_choice")
        if self.candidates is not None and not self.size(num_clients) < self.candidates <= num_clients:
            raise UserError(
                f"sampler.candidates={self.candidates}: must be more than the {self.size(num_clients)} that take part "
                f"in a round, and at most all {num_clients} clients"
            )

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return the candidates of highest loss; ties go to the first client, and NaN counts as the lowest loss."""
        size = self.size(len(samples))
        count = min(2 * size, len(samples)) if self.candidates is None else self.candidates
        candidates = draw_by_samples(samples, count, round_number, seed)
        found = losses(candidates).nan_to_num(nan=-torch.inf, posinf=torch.inf)
        return candidates[torch.argsort(found, descending=True, stable=True)[:size]].sort().values
