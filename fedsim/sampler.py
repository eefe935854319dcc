"""Which clients take part in a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.errors import UserError, check_above, check_at_least, check_between, check_exactly_one


@runtime_checkable
class Sampler(Protocol):
    """A rule that chooses a cohort."""

    def check(self, num_clients: int) -> None:
        """Raise `UserError` if no cohort can be chosen from so many clients."""
        ...

    def sizes(self, num_clients: int) -> tuple[int, int]:
        """How many clients the smallest and the largest cohort have."""
        ...

    def cohort(self, num_clients: int, round_number: int, seed: int) -> Tensor:
        """Return the client numbers ``[C]`` int64 of a round's cohort, ascending."""
        ...


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every client is equally likely, without replacement (McMahan 2017, Algorithm 1).

    Attributes:
        fraction: share of all clients, at least one; exclusive with `cohort_size`.
        cohort_size: number of clients.
    """

    fraction: float | None = 1.0
    cohort_size: int | None = None

    def __post_init__(self) -> None:
        check_exactly_one(self, "fraction", "cohort_size")
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction")
        check_at_least(self, 1, "cohort_size")

    def check(self, num_clients: int) -> None:
        """A cohort cannot be larger than the population."""
        if self.cohort_size is not None and self.cohort_size > num_clients:
            raise UserError(f"sampler.cohort_size={self.cohort_size}: there are only {num_clients} clients")

    def size(self, num_clients: int) -> int:
        """C, the number of clients per round."""
        if self.cohort_size is not None:
            return self.cohort_size
        assert self.fraction is not None
        return max(1, round(self.fraction * num_clients))

    def sizes(self, num_clients: int) -> tuple[int, int]:
        """All cohorts are alike."""
        return self.size(num_clients), self.size(num_clients)

    def cohort(self, num_clients: int, round_number: int, seed: int) -> Tensor:
        """Draw from the stream of this round."""
        size = self.size(num_clients)
        if size == num_clients:
            return torch.arange(num_clients)
        rng = seeding.generator(seed, "cohort", round_number)
        return torch.from_numpy(rng.choice(num_clients, size, replace=False)).sort().values
