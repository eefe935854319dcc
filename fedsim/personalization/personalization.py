"""What personal models have in common: each client trains its own, and is evaluated with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedsim.client_store import ClientStore
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Facts
from fedsim.core.part import Bound, Federation, Personalization, Round
from fedsim.core.results import Evaluation, merge
from fedsim.core.state import State
from fedsim.evaluation.evaluate import evaluate_own, personal_prefixes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoPersonalization(Personalization):
    """Clients use the global model."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True)
class OwnModels(Personalization):
    """Every client has a personal model. To add a method, inherit from this class and override what is needed.

    Keep rows per client in blocks of the store with names such as ``personalize.<name>``.
    """

    def task(self, task: LocalTask) -> LocalTask:
        """Return the task of the personal models, given the task of the federation."""
        return task

    def train_own(
        self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore
    ) -> None:
        """Train the personal models of clients that take part in a round.

        Args:
            trainer: the engine, bound to the task that `task` returned.
            anchors: ``[P]`` or ``[c, P]``, the models that these clients got from the server.
            clients: ``[c]`` int64 client numbers.
            round_number: 1, 2, ...
            store: the rows that are kept per client.
        """

    def rows(self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> Tensor:
        """Return the personal models ``[c, P]`` after a round.

        Args:
            trainer: the engine, bound to the task that `task` returned.
            anchors: ``[c, P]``, the models that these clients have from the federation.
            clients: ``[c]`` int64 client numbers.
            round_number: the number of rounds completed.
            store: the rows that are kept per client.
        """
        return anchors

    def bind(self, bound: Bound) -> OwnModelsInRun:
        """Bind the engine to the task of the personal models, those of clients that never train included."""
        task, unseen, newcomers = self.task(bound.task), bound.population.unseen, None
        if unseen is not None:
            newcomers = bound.make_trainer(replace(task, population=unseen, stream=f"unseen.{task.stream}"))
        return OwnModelsInRun(self, bound.make_trainer(task), newcomers)


@dataclass(frozen=True)
class OwnModelsInRun(Personalization):
    """Personal models, with the engine that trains and scores them, and the one for unseen clients."""

    settings: OwnModels
    trainer: Trainer
    newcomers: Trainer | None = None

    def train(self, anchors: Tensor, clients: Tensor, round: Round) -> None:
        """Train the personal models of clients of the cohort."""
        trainer = self.trainer if round.given is None else self.trainer.given(round.given)
        self.settings.train_own(trainer, anchors, clients, round.number, round.store)

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``personal_*`` columns: each client's own model on its own test samples, and on those held back.

        An unseen client gets what the method gives a client that takes part for the first time, from the model of this
        round; in round 0 nobody has trained.
        """

        def models(clients: Tensor) -> Tensor:
            anchors = federation.blocks.models(state.store, clients, state.row).expand(len(clients), -1)
            return self.settings.rows(self.trainer, anchors, clients, state.round, state.store)

        chunk, world, unseen = federation.chunk_size, federation.world, federation.population.unseen
        population = federation.population
        own = [
            evaluate_own(self.trainer, models, population, chunk, prefix, world)
            for prefix in personal_prefixes(population)
        ]
        if (trainer := self.newcomers) is None or unseen is None:
            return merge(own)
        newcomers = unseen.num_clients

        def fresh(clients: Tensor) -> Tensor:
            anchors, store = state.row.expand(len(clients), -1), ClientStore(newcomers)
            if state.round > 0:
                self.settings.train_own(trainer, anchors, clients, state.round, store)
            return self.settings.rows(trainer, anchors, clients, state.round, store)

        theirs = evaluate_own(trainer, fresh, unseen, chunk, "unseen_personal", world)
        return merge([*own, Evaluation(theirs.metrics, unseen=theirs.clients)])
