"""Which clients attack and from which round, and three kinds of attack: on single rows, on cohorts, and on data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.cohort import Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.part import Attack, Bound, Federation, Round
from fedsim.core.results import Evaluation, Metrics
from fedsim.core.setting import Setting
from fedsim.core.state import State
from fedsim.data.population import Population, Samples
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_exactly_one
from fedsim.evaluation.evaluate import score_samples
from fedsim.metrics import COLUMNS, Column

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoAttack(Attack):
    """All clients are honest."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Attackers(Attack, ABC):
    """What all attacks have in common: which clients attack, and from which round. Data stay as they are by default.

    Attributes:
        fraction: share of all clients, drawn by the seed; exclusive with `clients`.
        clients: numbers of the malicious clients; exclusive with `fraction`.
        start_round: first round of the attack.
    """

    fraction: float | None = 0.2
    clients: list[int] | None = None
    start_round: int = 1

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES})
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["malicious"],)

    def __post_init__(self) -> None:
        check_exactly_one(self, "fraction", "clients")
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction")
        check_at_least(self, 1, "start_round")
        if self.clients is not None and (not self.clients or len(set(self.clients)) < len(self.clients)):
            raise FieldError("clients", self.clients, "must be different client numbers, at least one")

    def check(self, setting: Setting) -> None:
        """Refuse an attack that would begin after the last round."""
        if self.start_round > setting.rounds:
            raise UserError(f"attack.start_round={self.start_round}: is after the last of rounds={setting.rounds}")

    def malicious(self, num_clients: int, seed: int) -> Tensor:
        """Return which clients are malicious, ``[N]`` bool; `fraction` is rounded to whole clients."""
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

    def poison(self, population: Population, malicious: Tensor, seed: int) -> Population:
        """Return the population with the training (and validation) samples of malicious clients ``[N]`` bool changed.

        Raises:
            UserError: if the attack does not apply to such data.
        """
        return population

    def trial(self, test: Samples) -> Samples | None:
        """Return test samples on which accuracy measures the success of the attack, or None."""
        return None

    @abstractmethod
    def change(self, updates: Iterator[Update], malicious: Tensor, key: int, round: Round) -> Iterator[Update]:
        """Return the updates, changed by malicious clients ``[N]`` bool; `key` is that of the round's random stream."""

    def bind(self, bound: Bound) -> AttackersInRun:
        """Choose the malicious clients, and poison their data."""
        malicious = self.malicious(bound.population.num_clients, bound.seed)
        population, poisoned = self.poison(bound.population, malicious, bound.seed), None
        if population is not bound.population:
            task = replace(bound.task, population=population)
            poisoned = task, bound.make_trainer(task)
        trial = self.trial(bound.population.test)
        return AttackersInRun(self, bound.seed, malicious, poisoned, trial)


@dataclass(frozen=True)
class AttackersInRun(Attack):
    """An attack, bound to a population.

    Attributes:
        settings: the settings of the attack.
        seed: the run's seed.
        malicious: which clients are malicious, ``[N]`` bool.
        poisoned: the task with poisoned data and an engine for it; None if the attack leaves the data alone.
        trial: test samples on which accuracy measures the success of the attack, or None.
    """

    settings: Attackers
    seed: int
    malicious: Tensor
    poisoned: tuple[LocalTask, Trainer] | None
    trial: Samples | None

    def workers(self, task: LocalTask, trainer: Trainer, round_number: int) -> tuple[LocalTask, Trainer]:
        """Return the task with poisoned data, once the attack has begun."""
        if self.poisoned is None or round_number < self.settings.start_round:
            return task, trainer
        return self.poisoned

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Replace the updates of malicious clients, once the attack has begun."""
        if round.number < self.settings.start_round:
            return updates
        return self.settings.change(
            updates, self.malicious, seeding.stream_key(self.seed, "attack", round.number), round
        )

    def attackers(self, clients: Tensor) -> Tensor:
        """Which of `clients` ``[c]`` are malicious, ``[c]`` bool."""
        return self.malicious[clients]

    def blame(self, round_number: int) -> str:
        """Name the attack, once it has begun."""
        start = self.settings.start_round
        return f" (under attack={option_name(self.settings)}, since round {start})" if round_number >= start else ""

    def measure(self, round: Round) -> Metrics:
        """Return how many clients of the cohort attack."""
        attacks = round.number >= self.settings.start_round
        return {"malicious": int(self.malicious[round.cohort.clients].sum()) if attacks else 0}

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the share of the trial samples on which the global model answers as the attack wants."""
        if self.trial is None:
            return Evaluation()
        sums = score_samples(federation.trainer, state.row, self.trial, federation.world)
        return Evaluation({"attack_success": float(sums.hits.sum() / sums.count.sum())})


@dataclass(frozen=True, kw_only=True)
class DataAttackers(Attackers, ABC):
    """Malicious clients train honestly, on poisoned data."""

    @abstractmethod
    def poison(self, population: Population, malicious: Tensor, seed: int) -> Population:
        """See `Attackers.poison`."""

    def change(self, updates: Iterator[Update], malicious: Tensor, key: int, round: Round) -> Iterator[Update]:
        """Hand the updates on as they are."""
        return updates


@dataclass(frozen=True, kw_only=True)
class RowAttackers(Attackers, ABC):
    """Every malicious client changes its own delta."""

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.FORGES})

    @abstractmethod
    def alter(self, deltas: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return what malicious clients ``[m]`` send instead of their honest deltas ``[m, n]``.

        Args:
            deltas: honest deltas of the malicious clients only.
            clients: ``[m]`` int64, their client numbers.
            key: key of the round's random stream.
        """

    def change(self, updates: Iterator[Update], malicious: Tensor, key: int, round: Round) -> Iterator[Update]:
        """Alter the rows of malicious clients."""
        for update in updates:
            bad = malicious[update.clients]
            if bool(bad.any()):
                rows = update.rows.clone()
                rows[bad] = self.alter(rows[bad], update.clients[bad], key)
                update = update._replace(rows=rows)
            yield update


@dataclass(frozen=True, kw_only=True)
class CohortAttackers(Attackers, ABC):
    """The malicious clients of a round know what the honest ones send, and all send the same forged row.

    For this the deltas of the whole cohort are held in memory, even with a streaming combine rule.
    """

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.COLLUDES, Fact.FORGES})

    @abstractmethod
    def forge(self, benign: Tensor, malicious: int) -> Tensor:
        """Return the row ``[n]`` float64 that the `malicious` clients of a round send.

        Args:
            benign: ``[b, n]`` deltas of the honest clients; those of the attackers if no client is honest.
            malicious: how many clients attack.
        """

    def change(self, updates: Iterator[Update], malicious: Tensor, key: int, round: Round) -> Iterator[Update]:
        """Collect the updates of the whole cohort, and replace the rows of malicious clients by the forged one."""
        with round.division.together():
            held = list(updates)
        columns: dict[str, Tensor] = {}
        if held:
            columns["rows"] = torch.cat([update.rows for update in held])
            columns["bad"] = malicious[torch.cat([update.clients for update in held])]
        seen = round.division.whole(columns)
        if not seen or not bool(seen["bad"].any()):
            yield from held
            return
        count = int(seen["bad"].sum())
        benign = seen["rows"] if count == len(seen["rows"]) else seen["rows"][~seen["bad"]]
        forged = self.forge(benign, count) if bool(malicious[round.own.clients].any()) else None
        for update in held:
            bad = malicious[update.clients]
            if forged is not None and bool(bad.any()):
                rows = update.rows.clone()
                rows[bad] = forged.to(rows.dtype)
                update = update._replace(rows=rows)
            yield update


def owned_by(samples: Samples, clients: Tensor) -> Tensor:
    """Which samples ``[S]`` bool belong to clients ``[N]`` bool."""
    return torch.repeat_interleave(clients, samples.sizes)
