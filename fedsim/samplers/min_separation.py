"""``sampler=min_separation``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.core.facts import Fact, Facts
from fedsim.errors import UserError, check_at_least
from fedsim.samplers.participation import Participation
from fedsim.samplers.sampler import Losses, Sized

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MinSeparation(Sized):
    """Clients take part at least some number of rounds apart (b-min-sep participation, Choquette-Choo 2023).

    The seed divides the clients into b groups of nearly equal size. Round t draws its cohort without replacement from
    group ``(t - 1) mod b``, so that two rounds of one client are a multiple of b apart, and no draw depends on an
    earlier one.

    Attributes:
        fraction: share of all clients, at least one; exclusive with `cohort_size`.
        cohort_size: number of clients per round; exclusive with `fraction`.
        separation: b; None is the largest that leaves every group as many clients as a round takes.
    """

    facts: ClassVar[Facts] = frozenset({Fact.TAKES_TURNS})

    fraction: float | None = 0.1
    separation: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "separation")

    def check(self, num_clients: int) -> None:
        """Refuse cohorts of all clients, and a separation for which there are too few clients."""
        self.check_choice(num_clients, "min_separation")
        largest = num_clients // self.size(num_clients)
        if self.separation is not None and self.separation > largest:
            raise UserError(
                f"sampler.separation={self.separation}: with {self.size(num_clients)} of {num_clients} clients in each "
                f"round, they can be at most {largest} rounds apart; take smaller cohorts or a smaller separation"
            )

    def apart(self, num_clients: int) -> int:
        """Return b, the least number of rounds from one participation of a client to the next."""
        return num_clients // self.size(num_clients) if self.separation is None else self.separation

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return the clients ``[C]`` drawn from the round's group, of N/b clients rounded up or down."""
        apart, size = self.apart(len(samples)), self.size(len(samples))
        order = seeding.generator(seed, "separated groups").permutation(len(samples))
        group = order[(round_number - 1) % apart :: apart]
        chosen = seeding.generator(seed, "cohort", round_number).choice(group, size, replace=False)
        return torch.from_numpy(chosen).sort().values

    def participation(self, num_clients: int, rounds: int) -> Participation:
        """Return b, and a participation every b rounds beginning with the first."""
        apart = self.apart(num_clients)
        return Participation(apart, math.ceil(rounds / apart))
