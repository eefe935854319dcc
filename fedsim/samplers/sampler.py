"""The interface of samplers, which choose the clients that take part in a round.

A cohort depends on the seed and the round (and on losses, if the sampler asks for them), never on earlier draws, so
that a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

import torch

from fedsim import seeding
from fedsim.errors import UserError, check_above, check_at_least, check_between, check_exactly_one

if TYPE_CHECKING:
    from torch import Tensor

Losses: TypeAlias = "Callable[[Tensor], Tensor]"
"""Mean loss ``[d]`` float64 of the global model on the training samples of clients ``[d]``."""

ADD_OR_REMOVE, REPLACE = "add or remove one client", "replace one client"
"""The relations by which a privacy accountant may define neighbouring populations."""


@dataclass(frozen=True)
class Sampling:
    """How clients are drawn into a round, as a privacy accountant sees it.

    Attributes:
        relation: which populations are neighbours, `ADD_OR_REMOVE` or `REPLACE`.
        expected: mean size of a cohort, which is the fixed denominator of a private mean.
        probability: with which each client independently takes part; None for cohorts of a fixed size.
        num_clients: N, the size of the population.
    """

    relation: str
    expected: float
    probability: float | None
    num_clients: int


@runtime_checkable
class Sampler(Protocol):
    """The interface of a sampler."""

    def accounting(self, num_clients: int) -> Sampling | None:
        """Return how a privacy accountant sees the cohorts; None if it has no theorem for them."""
        return None

    def check(self, num_clients: int) -> None:
        """Raise `UserError` if no cohort can be chosen from `num_clients` clients."""
        ...

    def limits(self, num_clients: int) -> tuple[int, int]:
        """Return the sizes of the smallest and the largest cohort."""
        ...

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return a round's cohort.

        Args:
            samples: ``[N]`` int64 training samples of each client.
            round_number: 1, 2, ...
            seed: the run's seed.
            losses: returns clients' losses, for samplers that need them; each client asked is sent the model.

        Returns:
            client numbers ``[C]`` int64, ascending; may be empty.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Sized(Sampler):
    """What samplers with a fixed cohort size have in common.

    Attributes:
        fraction: share of all clients, at least one; exclusive with `cohort_size`.
        cohort_size: number of clients per round; exclusive with `fraction`.
    """

    fraction: float | None = 0.5
    cohort_size: int | None = None

    def __post_init__(self) -> None:
        check_exactly_one(self, "fraction", "cohort_size")
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction")
        check_at_least(self, 1, "cohort_size")

    def size(self, num_clients: int) -> int:
        """Return C, the number of clients per round."""
        if self.cohort_size is not None:
            return self.cohort_size
        assert self.fraction is not None
        return max(1, round(self.fraction * num_clients))

    def resized(self, count: int) -> Self:
        """Return the same sampler with cohorts of `count` clients."""
        return replace(self, fraction=None, cohort_size=count)

    def limits(self, num_clients: int) -> tuple[int, int]:
        """Return the cohort size twice: all cohorts have the same."""
        return self.size(num_clients), self.size(num_clients)

    def check(self, num_clients: int) -> None:
        """Refuse cohorts larger than the population."""
        if self.cohort_size is not None and self.cohort_size > num_clients:
            raise UserError(f"sampler.cohort_size={self.cohort_size}: there are only {num_clients} clients")

    def check_choice(self, num_clients: int, name: str) -> None:
        """Check as `check` does; also refuse cohorts that leave no client out."""
        Sized.check(self, num_clients)
        if self.size(num_clients) == num_clients:
            raise UserError(
                f"sampler={name}: chooses nothing where all {num_clients} client(s) take part in every round; take a "
                "smaller sampler.fraction or sampler.cohort_size, or sampler=uniform"
            )


def draw_by_samples(samples: Tensor, size: int, round_number: int, seed: int) -> Tensor:
    """Draw `size` different clients one after another, with probabilities in proportion to their samples."""
    rng = seeding.generator(seed, "cohort", round_number)
    share = (samples.double() / samples.sum()).numpy()
    return torch.from_numpy(rng.choice(len(samples), size, replace=False, p=share / share.sum())).sort().values
