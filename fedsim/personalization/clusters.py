"""What federations with several global models have in common: every client trains and uses one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from fedsim.aggregation.rules import combine_chunks, concatenate_reports, part_of, whole_reports
from fedsim.client_store import ClientStore
from fedsim.clients.trainer import Trainer
from fedsim.core.cohort import Cohort, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.part import Bound, Federation, Round, Schedule
from fedsim.core.results import Evaluation, merge
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.core.stopping import Progress
from fedsim.data.population import Population
from fedsim.errors import UserError
from fedsim.evaluation.evaluate import evaluate_own, judged_samples, personal_prefixes
from fedsim.metrics import Column
from fedsim.parallel.division import add_up

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ROWS, SERVER, MEMBER = "rows", "server.", "member"
"""Entries of the drawer: the models ``[K, P]``, the state of each one's server optimizer, ``[K, ...]`` each, and which
model each client belongs to ``[N]``, -1 if that is open (only where clients belong to one)."""

CHOICE, MOVED = "schedule.choice", "schedule.moved"
"""Notes of a round: ``[N]`` int64, the models that this process's clients start from; and the next drawer."""


@dataclass(frozen=True)
class Clustered(Schedule, ABC):
    """Several models of one shape: a client starts from one of them, and its delta goes to that one.

    The combine rule and the server optimizer work within each cluster, as if it were a federation of its own; a model
    without a client in a round stays as it is. The global model of the records, which ``test_*`` judges, is what they
    make of all local models together, and is nobody's: ``personal_*`` judges each client's.
    """

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.READS_REPORT, Fact.PERSONAL})
    columns: ClassVar[tuple[Column, ...]] = (
        Column("clusters", "", evaluated=True),
        Column("largest_cluster", "", evaluated=True),
        Column("cluster_purity", "max", evaluated=True, grouped=True),
    )

    @abstractmethod
    def choose(
        self, rows: Tensor, clients: Tensor, trainer: Trainer, population: Population, member: Tensor | None
    ) -> Tensor:
        """Return which model each client takes, ``[c]`` int64.

        Args:
            rows: ``[K, P]``, the models.
            clients: ``[c]`` int64 client numbers.
            trainer: the engine, bound to `population`.
            population: to which the clients belong.
            member: ``[N]``, the drawer's `MEMBER`; None if it has none, and for clients that never train.
        """

    def regroup(self, rows: Tensor, clients: Tensor, choice: Tensor, moved: Drawer, round: Round) -> Tensor:
        """Return to which model the delta of each client of a cohort goes, ``[C]`` int64.

        Args:
            rows: ``[C, P]``, the deltas.
            clients: ``[C]`` int64 client numbers.
            choice: ``[C]``, the models from which they started.
            moved: the drawer of the next round, which may be changed.
            round: the round.
        """
        return choice

    def check(self, setting: Setting) -> None:
        """Refuse what works on the one model that is not there, or on another personal model."""
        name = option_name(self)
        for fact in (Fact.PRIVATE_BLOCKS, Fact.REMEMBERS, Fact.LOSSY_DOWN, Fact.JUDGES_MODEL, Fact.READS_UPDATES):
            if fact in setting.facts:
                raise UserError(
                    f"{setting.facts[fact]}: is about one model that all clients get, and under schedule={name} "
                    "clients get different ones; take schedule=synchronous or switch it off"
                )
        if Fact.ASKS_LOSSES in setting.facts:
            raise UserError(
                f"{setting.facts[Fact.ASKS_LOSSES]}: asks for losses of one model, and under schedule={name} clients "
                "get different ones; take another sampler"
            )
        if (other := setting.facts[Fact.PERSONAL]) != f"schedule={name}":
            raise UserError(f"{other}: makes personal models, and so does schedule={name}; take one of them alone")

    def introduce(self) -> list[str]:
        """Say what the columns judge."""
        return [
            f"schedule={option_name(self)}: personal_* judges the model that each client uses; test_*, the best round "
            "and the saved model are of all local models together, which no client uses (stop.metric chooses another "
            "column)"
        ]

    def anchors(self, part: Cohort, round: Round) -> Tensor:
        """Return the models that the clients have chosen."""
        rows: Tensor = round.drawer(self)[ROWS][round.notes[CHOICE][part.clients]]
        return rows

    def open(self, round: Round) -> None:
        """Let the clients choose among the models that they get."""
        choice = torch.zeros(round.federation.population.num_clients, dtype=torch.int64)
        drawer, population = round.drawer(self), round.task.population
        for part in round.own.chunks(round.federation.chunk_size):
            known = drawer.get(MEMBER)
            choice[part.clients] = self.choose(drawer[ROWS], part.clients, round.trainer, population, known)
        round.notes[CHOICE] = choice

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Combine the updates of each cluster, and pass them on as distances from the global model of the records."""
        drawer, division = round.drawer(self), round.division
        with division.together():
            held = list(updates)
        choices = [round.notes[CHOICE][update.clients] for update in held]
        own: dict[str, Tensor] = {}
        if held:
            own = {"clients": torch.cat([u.clients for u in held]), "rows": torch.cat([u.rows for u in held])}
            own["choice"] = torch.cat(choices)
        whole = division.whole(own)
        moved = dict(self._servers(round))
        for report in whole_reports(division, [concatenate_reports([u.report for u in held])] if held else []):
            goes = self.regroup(whole["rows"], whole["clients"], whole["choice"], moved, round)
            for model in goes.unique().tolist():
                which = (goes == model).nonzero()[:, 0]
                chunk = whole["rows"][which], part_of(report, which)
                combined = combine_chunks(round.federation.bound.combine, moved[ROWS][model], [chunk])
                if combined is not None:
                    _step(moved, model, combined.delta, round)
        round.notes[MOVED] = moved
        for update, choice in zip(held, choices, strict=True):
            yield update._replace(rows=update.rows + (drawer[ROWS][choice] - round.state.row))

    def _servers(self, round: Round) -> Drawer:
        """The drawer, with a fresh server optimizer for each model before the first round."""
        drawer = round.drawer(self)
        if any(name.startswith(SERVER) for name in drawer):
            return {name: kept.clone() for name, kept in drawer.items()}
        fresh = [round.federation.server.start(row) for row in drawer[ROWS]]
        servers = {f"{SERVER}{name}": torch.stack([one[name] for one in fresh]) for name in fresh[0]}
        return {name: kept.clone() for name, kept in drawer.items()} | servers

    def close(self, round: Round) -> None:
        """Keep the models that the round has made, if any of its clients arrived."""
        if MOVED in round.notes:
            round.state.drawers[self.group] = round.notes[MOVED]

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Accept as many models as there are, each with the state of its server optimizer."""
        servers = {name: kept for name, kept in drawer.items() if name.startswith(SERVER)}
        others = {name: kept for name, kept in drawer.items() if name not in servers}
        return super().accepts(others, fresh) and all(len(kept) == len(fresh[ROWS]) for kept in servers.values())

    @property
    def newcomers(self) -> Trainer | None:
        """The engine bound to unseen clients, or None if there are none."""
        return None

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``personal_*`` columns, how many models are in use, and how many clients the most popular has.

        Where the data know to which group each client truly belongs, there is the purity of the clusters, too.
        """
        drawer = state.drawers[self.group]
        population, found = federation.population, []
        for prefix in personal_prefixes(population):
            own, choice = self._scores(drawer, federation.trainer, population, prefix, federation)
            found.append(own)
        taken = choice[choice >= 0]
        sizes = torch.bincount(taken) if len(taken) else torch.zeros(1, dtype=torch.int64)
        counts = {"clusters": float((sizes > 0).sum()), "largest_cluster": float(sizes.max())}
        if (groups := federation.population.groups) is not None:
            tested = (choice >= 0).numpy()
            counts["cluster_purity"] = purity(choice.numpy()[tested], groups[tested])
        number = np.where(choice.numpy() < 0, np.nan, choice.double().numpy())
        found.append(Evaluation(counts, {"cluster": number}))
        trainer, unseen = self.newcomers, federation.population.unseen
        if trainer is not None and unseen is not None:
            theirs, choice = self._scores({ROWS: drawer[ROWS]}, trainer, unseen, "unseen_personal", federation)
            found.append(Evaluation(theirs.metrics, unseen=theirs.clients | {"cluster": choice.double().numpy()}))
        return merge(found)

    def _scores(
        self, drawer: Drawer, trainer: Trainer, population: Population, prefix: str, federation: Federation
    ) -> tuple[Evaluation, Tensor]:
        """The scores of the clients that have samples to judge by, and the models that they take ``[N]``, else -1."""
        world, size, rows = federation.world, federation.chunk_size, drawer[ROWS]
        choice = torch.zeros(population.num_clients, dtype=torch.int64)
        sizes = judged_samples(population, prefix).sizes
        tested = sizes.nonzero()[:, 0]
        for clients in tested[world.rank :: world.size].split(size):
            if len(clients):
                choice[clients] = self.choose(rows, clients, trainer, population, drawer.get(MEMBER))
        choice = add_up(world, choice)
        own = evaluate_own(trainer, lambda clients: rows[choice[clients]], population, size, prefix, world)
        return own, torch.where(sizes > 0, choice, -1)


def purity(clusters: NDArray[np.int64], groups: NDArray[np.int64]) -> float:
    """Return the share of clients whose group is the most frequent one of their cluster.

    ``(1 / N) sum_k max_j |cluster_k and group_j|`` (Manning, Raghavan and Schuetze 2008, Introduction to Information
    Retrieval, section 16.3). It is 1 if no cluster mixes groups, also where a group falls apart into several clusters,
    and in one cluster of all it is the share of the largest group.

    Args:
        clusters: ``[N]``, the cluster of each client.
        groups: ``[N]``, its true group.
    """
    counts = np.zeros((clusters.max() + 1, groups.max() + 1), np.int64)
    np.add.at(counts, (clusters, groups), 1)
    return float(counts.max(1).sum() / len(clusters))


def best_model(rows: Tensor, clients: Tensor, trainer: Trainer, population: Population) -> Tensor:
    """Which of the models ``[K, P]`` has the lowest loss on each client's training samples, the first of several."""
    losses = []
    for row in rows:
        sums = trainer.score_clients(row.expand(len(clients), -1), clients, population.train)
        losses.append(sums.loss / sums.count)
    return torch.stack(losses).argmin(0)


def engine_for_unseen(bound: Bound) -> Trainer | None:
    """The engine bound to the clients that never train, or None if there are none."""
    unseen = bound.population.unseen
    if unseen is None:
        return None
    return bound.make_trainer(replace(bound.task, population=unseen, stream=f"unseen.{bound.task.stream}"))


def _step(moved: Drawer, model: int, delta: Tensor, round: Round) -> None:
    """Take the server's step with one of the models, in place."""
    server = round.federation.server
    own = {name.removeprefix(SERVER): kept[model] for name, kept in moved.items() if name.startswith(SERVER)}
    alone = State(moved[ROWS][model], ClientStore(0), Progress("", ""), drawers={server.group: own})
    server.step(delta, replace(round, state=alone))
    moved[ROWS][model] = alone.row
    for name, kept in alone.drawers[server.group].items():
        moved[f"{SERVER}{name}"][model] = kept
