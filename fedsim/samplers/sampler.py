"""Which clients take part in a round.

A cohort depends on seed and round (and on losses, where a sampler looks at them), never on the rounds before: a run
that is taken up again draws the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.errors import UserError, check_above, check_at_least, check_between, check_exactly_one

Losses = Callable[[Tensor], Tensor]
"""Mean loss ``[d]`` float64 of the global model on the training samples of clients ``[d]``."""


@runtime_checkable
class Sampler(Protocol):
    """A rule that chooses a cohort."""

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
class Sized:
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


@dataclass(frozen=True, kw_only=True)
class Uniform(Sized):
    """Every client is equally likely, without replacement (McMahan 2017, Algorithm 1)."""

    fraction: float | None = 1.0

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Draw from the stream of this round."""
        size = self.size(len(samples))
        if size == len(samples):
            return torch.arange(size)
        rng = seeding.generator(seed, "cohort", round_number)
        return torch.from_numpy(rng.choice(len(samples), size, replace=False)).sort().values


def draw_by_samples(samples: Tensor, size: int, round_number: int, seed: int) -> Tensor:
    """Draw `size` different clients one after another, each in proportion to its samples among those left."""
    rng = seeding.generator(seed, "cohort", round_number)
    share = (samples.double() / samples.sum()).numpy()
    return torch.from_numpy(rng.choice(len(samples), size, replace=False, p=share / share.sum())).sort().values


@dataclass(frozen=True, kw_only=True)
class WeightedBySize(Sized):
    """Clients with more samples are more likely, without replacement.

    Scheme I of Li 2020 ("On the convergence of FedAvg on non-IID data") draws with replacement, so that a client may
    count twice, and averages plainly. Ours draws each client once at most, which is near to that for small cohorts.
    Samples have had their say then: go with ``aggregator=mean``.
    """

    def check(self, num_clients: int) -> None:
        """There must be a choice."""
        self.check_choice(num_clients, "weighted")

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Draw from the stream of this round."""
        return draw_by_samples(samples, self.size(len(samples)), round_number, seed)


@dataclass(frozen=True, kw_only=True)
class RoundRobin(Sized):
    """Clients by their numbers, as many as fit in a round; the next round goes on where this one ends."""

    def check(self, num_clients: int) -> None:
        """There must be a choice."""
        self.check_choice(num_clients, "round_robin")

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """The next ones, starting again with client 0 after the last."""
        size = self.size(len(samples))
        return ((torch.arange(size) + (round_number - 1) * size) % len(samples)).sort().values


@dataclass(frozen=True, kw_only=True)
class PowerOfChoice(Sized):
    """Of d candidates the m with the highest loss of the global model (Cho 2022, "power-of-choice").

    Candidates are drawn in proportion to their samples, without replacement. The global model is sent to all of
    them, which ``bytes_down`` counts.

    Attributes:
        candidates: d; None is twice the cohort, or all clients if there are fewer.
    """

    candidates: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "candidates")

    def check(self, num_clients: int) -> None:
        """There must be candidates to choose from."""
        self.check_choice(num_clients, "power_of_choice")
        if self.candidates is not None and not self.size(num_clients) < self.candidates <= num_clients:
            raise UserError(
                f"sampler.candidates={self.candidates}: must be more than the {self.size(num_clients)} that take part "
                f"in a round, and at most all {num_clients} clients"
            )

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Of equal losses the first client's counts as higher; a loss that is not a number is the lowest."""
        size = self.size(len(samples))
        count = min(2 * size, len(samples)) if self.candidates is None else self.candidates
        candidates = draw_by_samples(samples, count, round_number, seed)
        found = losses(candidates).nan_to_num(nan=-torch.inf, posinf=torch.inf)
        return candidates[torch.argsort(found, descending=True, stable=True)[:size]].sort().values


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Each client takes part with the same probability, whatever the others do; a round may have no clients.

    The sampling of differentially private training (Abadi 2016, Algorithm 1, "lots").

    Attributes:
        probability: q.
    """

    probability: float = 0.1

    def __post_init__(self) -> None:
        check_above(self, 0, "probability")
        check_between(self, 0, 1, "probability")

    def check(self, num_clients: int) -> None:
        """Any number will do."""

    def limits(self, num_clients: int) -> tuple[int, int]:
        """From nobody to everybody."""
        return (0 if self.probability < 1 else num_clients), num_clients

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Draw from the stream of this round."""
        rng = seeding.generator(seed, "cohort", round_number)
        return torch.from_numpy(rng.random(len(samples)) < self.probability).nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class Availability(Sized):
    """Clients go on and off, and a round draws from those that are on; there may be none.

    Each client is a Markov chain of its own (as in Rodio 2023, "Federated learning under heterogeneous and correlated
    client availability"): off, it turns on with one probability per round; on, it turns off with another. Round 1 has
    the chain's stationary distribution, so that a share of ``turn_on / (turn_on + turn_off)`` is on in any round.

    Attributes:
        fraction: share of the clients that are on, at least one of them; exclusive with `cohort_size`.
        cohort_size: clients per round, or all that are on if they are fewer.
        turn_on: probability of turning on from one round to the next.
        turn_off: probability of turning off.
    """

    fraction: float | None = 1.0
    turn_on: float = 0.1
    turn_off: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "turn_on", "turn_off")
        check_between(self, 0, 1, "turn_on", "turn_off")

    def limits(self, num_clients: int) -> tuple[int, int]:
        """Nobody may be on."""
        return 0, self.size(num_clients)

    def on(self, num_clients: int, round_number: int, seed: int) -> Tensor:
        """Which clients are on, ``[N]`` bool.

        One uniform number u per client and round decides: off turns on if ``u < turn_on``, on stays on if
        ``u < 1 - turn_off``. Unless u lies between the two, the state does not depend on the one before. So we look
        back, round by round, for the last u that decides; a few rounds will do for most clients.
        """
        low, high = sorted((self.turn_on, 1 - self.turn_off))
        swaps = self.turn_on > 1 - self.turn_off  # what a u between them does: turn, or stay
        on = torch.zeros(num_clients, dtype=torch.bool)
        turned = torch.zeros(num_clients, dtype=torch.bool)
        open_clients = torch.arange(num_clients)
        for number in range(round_number, 0, -1):
            u = seeding.uniforms(seeding.stream_key(seed, "availability", number), open_clients)
            if number == 1:
                low = high = self.turn_on / (self.turn_on + self.turn_off)
            decided = (u < low) | (u >= high)
            on[open_clients[decided]] = (u < low)[decided]
            open_clients = open_clients[~decided]
            turned[open_clients] ^= swaps
            if len(open_clients) == 0:
                break
        return on ^ turned

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Draw from those that are on."""
        on = self.on(len(samples), round_number, seed).nonzero()[:, 0]
        size = min(self.size(len(on)), len(on))
        if size == len(on):
            return on
        rng = seeding.generator(seed, "cohort", round_number)
        return on[torch.from_numpy(rng.choice(len(on), size, replace=False)).sort().values]
