"""What a sampler is: which clients take part in a round.

A cohort depends on seed and round (and on losses, where a sampler looks at them), never on the rounds before, so that
a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.errors import UserError, check_above, check_at_least, check_between, check_exactly_one

Losses = Callable[[Tensor], Tensor]
"""Mean loss ``[d]`` float64 of the global model on the training samples of clients ``[d]``."""

ADD_OR_REMOVE, REPLACE = "add or remove one client", "replace one client"
"""Which populations an accountant of privacy may call neighbours."""


@dataclass(frozen=True)
class Sampling:
    """How clients come into a round, as an accountant of privacy sees it.

    Attributes:
        relation: which populations are neighbours, `ADD_OR_REMOVE` or `REPLACE`.
        expected: clients of a round, on average: the fixed denominator of a private mean.
        probability: of a client in a round, independently of the others; None for cohorts of a fixed size.
        num_clients: of the population.
    """

    relation: str
    expected: float
    probability: float | None
    num_clients: int


@runtime_checkable
class Sampler(Protocol):
    """A rule that chooses a cohort."""

    def accounting(self, num_clients: int) -> Sampling | None:
        """How an accountant of privacy sees the cohorts; None if no theorem is known about them."""
        return None

    def check(self, num_clients: int) -> None:
        """Raise `UserError` if no cohort can be chosen from so many clients."""
        ...

    def limits(self, num_clients: int) -> tuple[int, int]:
        """How many clients the smallest and the largest cohort have."""
        ...

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Choose a round's cohort.

        Args:
            samples: ``[N]`` int64 training samples of each client.
            round_number: 1, 2, ...
            seed: of the run.
            losses: for samplers that look at them; asking a client sends it the model.

        Returns:
            client numbers ``[C]`` int64, ascending; perhaps none at all.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Sized(Sampler):
    """What samplers of cohorts of one size have in common.

    Attributes:
        fraction: share of all clients, at least one; exclusive with `cohort_size`.
        cohort_size: number of clients.
    """

    fraction: float | None = 0.5
    cohort_size: int | None = None

    def __post_init__(self) -> None:
        check_exactly_one(self, "fraction", "cohort_size")
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction")
        check_at_least(self, 1, "cohort_size")

    def size(self, num_clients: int) -> int:
        """C, the number of clients per round."""
        if self.cohort_size is not None:
            return self.cohort_size
        assert self.fraction is not None
        return max(1, round(self.fraction * num_clients))

    def resized(self, count: int) -> Self:
        """The same rule with cohorts of `count` clients."""
        return replace(self, fraction=None, cohort_size=count)

    def limits(self, num_clients: int) -> tuple[int, int]:
        """All cohorts are alike."""
        return self.size(num_clients), self.size(num_clients)

    def check(self, num_clients: int) -> None:
        """A cohort cannot be larger than the population."""
        if self.cohort_size is not None and self.cohort_size > num_clients:
            raise UserError(f"sampler.cohort_size={self.cohort_size}: there are only {num_clients} clients")

    def check_choice(self, num_clients: int, name: str) -> None:
        """As `check`, and somebody must be left out."""
        Sized.check(self, num_clients)
        if self.size(num_clients) == num_clients:
            raise UserError(
                f"sampler={name}: chooses nothing where all {num_clients} client(s) take part in every round; take a "
                "smaller sampler.fraction or sampler.cohort_size, or sampler=uniform"
            )


def draw_by_samples(samples: Tensor, size: int, round_number: int, seed: int) -> Tensor:
    """Draw `size` different clients one after another, each in proportion to its samples among those left."""
    rng = seeding.generator(seed, "cohort", round_number)
    share = (samples.double() / samples.sum()).numpy()
    return torch.from_numpy(rng.choice(len(samples), size, replace=False, p=share / share.sum())).sort().values
