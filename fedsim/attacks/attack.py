"""What an attack is: who attacks, from when on, and one of three things that they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.data.population import Population, Samples
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_exactly_one


@runtime_checkable
class Attack(Protocol):
    """Who attacks, and when. What they do is a `RowAttack`, a `CohortAttack` or a `DataAttack`, or two of them."""

    columns: ClassVar[tuple[str, ...]]
    """What it adds to ``metrics.csv``."""

    @property
    def start_round(self) -> int:
        """The first round in which malicious clients attack; before it they behave."""
        ...

    def malicious(self, num_clients: int, seed: int) -> Tensor:
        """Which clients are malicious, ``[N]`` bool, or raise `UserError` where it cannot be so."""
        ...


@runtime_checkable
class RowAttack(Protocol):
    """Every malicious client changes its own delta."""

    def alter(self, deltas: Tensor, clients: Tensor, key: int) -> Tensor:
        """What malicious clients ``[m]`` send for the deltas ``[m, n]`` of their honest training.

        Args:
            deltas: of malicious clients only.
            clients: their numbers.
            key: of the round's random stream.
        """
        ...


@runtime_checkable
class CohortAttack(Protocol):
    """The malicious clients of a round know what the others send, and all send one row made for that.

    The deltas of the whole cohort are held for it, whatever the combine rule.
    """

    def forge(self, benign: Tensor, malicious: int) -> Tensor:
        """The row ``[n]`` float64 that the `malicious` clients of a round send.

        Args:
            benign: ``[b, n]`` deltas of the others; if there are none, the attackers' own.
            malicious: how many attack.
        """
        ...


@runtime_checkable
class DataAttack(Protocol):
    """The malicious clients train on poisoned data."""

    def poison(self, population: Population, malicious: Tensor, seed: int) -> Population:
        """The population with other training (and validation) samples for malicious clients ``[N]`` bool.

        Raises:
            UserError: if these data cannot be poisoned so.
        """
        ...


@dataclass(frozen=True)
class NoAttack:
    """Everybody is honest."""

    columns: ClassVar[tuple[str, ...]] = ()
    start_round: ClassVar[int] = 1

    def malicious(self, num_clients: int, seed: int) -> Tensor:
        """Nobody."""
        return torch.zeros(num_clients, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Attackers:
    """What all attacks have in common: who attacks, from which round on.

    Attributes:
        fraction: share of all clients, drawn by the seed; exclusive with `clients`.
        clients: client numbers.
        start_round: first round of the attack.
    """

    fraction: float | None = 0.2
    clients: list[int] | None = None
    start_round: int = 1

    columns: ClassVar[tuple[str, ...]] = ("malicious",)

    def __post_init__(self) -> None:
        check_exactly_one(self, "fraction", "clients")
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction")
        check_at_least(self, 1, "start_round")
        if self.clients is not None and (not self.clients or len(set(self.clients)) < len(self.clients)):
            raise FieldError("clients", self.clients, "must be different client numbers, at least one")

    def malicious(self, num_clients: int, seed: int) -> Tensor:
        """``[N]`` bool; a share is rounded to whole clients."""
        chosen = torch.zeros(num_clients, dtype=torch.bool)
        if self.clients is not None:
            if not all(0 <= client < num_clients for client in self.clients):
                raise UserError(f"attack.clients={self.clients}: there are clients 0 to {num_clients - 1}")
            chosen[self.clients] = True
            return chosen
        assert self.fraction is not None
        count = round(self.fraction * num_clients)
        if count == 0:
            raise UserError(f"attack.fraction={self.fraction}: of {num_clients} client(s) nobody would attack")
        order = seeding.generator(seed, "attackers").permutation(num_clients)
        chosen[torch.from_numpy(order[:count])] = True
        return chosen


def owned_by(samples: Samples, clients: Tensor) -> Tensor:
    """Which samples ``[S]`` bool belong to clients ``[N]`` bool."""
    return torch.repeat_interleave(clients, samples.sizes)
