"""Who attacks and from when on, and three kinds of attack: on single rows, on a whole cohort's, and on data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.cohort import Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Attack, Bound, Federation, Round
from fedsim.core.results import Evaluation, Metrics
from fedsim.core.setting import Setting
from fedsim.core.state import State
from fedsim.data.population import Population, Samples
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_exactly_one
from fedsim.evaluation.evaluate import score_samples
from fedsim.metrics import COLUMNS, Column


@dataclass(frozen=True)
class NoAttack(Attack):
    """Everybody is honest."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Attackers(Attack):
    """What all attacks have in common: who attacks, from which round on. What is not written below does nothing.

    Attributes:
        fraction: share of all clients, drawn by the seed; exclusive with `clients`.
        clients: client numbers.
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
        """An attack must begin before the run ends."""
        if self.start_round > setting.rounds:
            raise UserError(f"attack.start_round={self.start_round}: is after the last of rounds={setting.rounds}")

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

    def poison(self, population: Population, malicious: Tensor, seed: int) -> Population:
        """Return the population with other training (and validation) samples for malicious clients ``[N]`` bool.

        Raises:
            UserError: if these data cannot be poisoned so.
        """
        return population

    def trial(self, test: Samples) -> Samples | None:
        """Return test samples by whose accuracy the attack is judged, or None."""
        return None

    def change(self, updates: Iterator[Update], malicious: Tensor, key: int, round: Round) -> Iterator[Update]:
        """Return the updates as malicious clients ``[N]`` bool make them; `key` is of the round's random stream."""
        return updates

    def bind(self, bound: Bound) -> AttackersInRun:
        """Choose the malicious clients, and poison what they train on."""
        malicious = self.malicious(bound.population.num_clients, bound.seed)
        population, poisoned = self.poison(bound.population, malicious, bound.seed), None
        if population is not bound.population:
            task = replace(bound.task, population=population)
            poisoned = task, bound.make_trainer(task)
        trial = self.trial(bound.population.test)
        return AttackersInRun(self, bound.seed, malicious, poisoned, trial)


@dataclass(frozen=True)
class AttackersInRun(Attack):
    """An attack with its malicious clients.

    Attributes:
        settings: of the attack.
        seed: of the run.
        malicious: ``[N]`` bool.
        poisoned: what clients train on once malicious ones poison their data, and an engine for it; None if they don't.
        trial: test samples by whose accuracy the attack is judged, or None.
    """

    settings: Attackers
    seed: int
    malicious: Tensor
    poisoned: tuple[LocalTask, Trainer] | None
    trial: Samples | None

    def workers(self, task: LocalTask, trainer: Trainer, round_number: int) -> tuple[LocalTask, Trainer]:
        """Poisoned data, once the attack has begun."""
        if self.poisoned is None or round_number < self.settings.start_round:
            return task, trainer
        return self.poisoned

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """What malicious clients send in the place of their honest updates."""
        if round.number < self.settings.start_round:
            return updates
        return self.settings.change(
            updates, self.malicious, seeding.stream_key(self.seed, "attack", round.number), round
        )

    def measure(self, round: Round) -> Metrics:
        """How many of the cohort attack."""
        attacks = round.number >= self.settings.start_round
        return {"malicious": int(self.malicious[round.cohort.clients].sum()) if attacks else 0}

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """The share of the trial that the global model takes for what the attack wants."""
        if self.trial is None:
            return Evaluation()
        sums = score_samples(federation.trainer, state.row, self.trial, federation.world)
        return Evaluation({"attack_success": float(sums.hits.sum() / sums.count.sum())})


@dataclass(frozen=True, kw_only=True)
class RowAttackers(Attackers):
    """Every malicious client changes its own delta."""

    def alter(self, deltas: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return what malicious clients ``[m]`` send for the deltas ``[m, n]`` of their honest training.

        Args:
            deltas: of malicious clients only.
            clients: their numbers.
            key: of the round's random stream.
        """
        raise NotImplementedError

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
class CohortAttackers(Attackers):
    """The malicious clients of a round know what all others send, and all send one row made for that.

    The deltas of the whole cohort are held for it, whatever the combine rule.
    """

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.COLLUDES})

    def forge(self, benign: Tensor, malicious: int) -> Tensor:
        """Return the row ``[n]`` float64 that the `malicious` clients of a round send.

        Args:
            benign: ``[b, n]`` deltas of the others; if there are none, the attackers' own.
            malicious: how many attack.
        """
        raise NotImplementedError

    def change(self, updates: Iterator[Update], malicious: Tensor, key: int, round: Round) -> Iterator[Update]:
        """Hold the cohort's updates, of all processes, and put the forged row in the place of the malicious ones."""
        with round.share.together():
            held = list(updates)
        columns: dict[str, Tensor] = {}
        if held:
            columns["rows"] = torch.cat([update.rows for update in held])
            columns["bad"] = malicious[torch.cat([update.clients for update in held])]
        seen = round.share.whole(columns)
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
