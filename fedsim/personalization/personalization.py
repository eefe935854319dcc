"""What personal models have in common: each client trains its own, and is evaluated with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.client_store import ClientStore
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Facts
from fedsim.core.part import Bound, Federation, Personalization, Round
from fedsim.core.results import Evaluation
from fedsim.core.state import State
from fedsim.evaluation.evaluate import evaluate_own

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
        """Bind the engine to the task of the personal models."""
        return OwnModelsInRun(self, bound.make_trainer(self.task(bound.task)))


@dataclass(frozen=True)
class OwnModelsInRun(Personalization):
    """Personal models, with the engine that trains and scores them."""

    settings: OwnModels
    trainer: Trainer

    def train(self, anchors: Tensor, clients: Tensor, round: Round) -> None:
        """Train the personal models of clients of the cohort."""
        trainer = self.trainer if round.given is None else self.trainer.given(round.given)
        self.settings.train_own(trainer, anchors, clients, round.number, round.store)

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``personal_*`` columns: each client's own model on its own test samples."""

        def models(clients: Tensor) -> Tensor:
            anchors = federation.blocks.models(state.store, clients, state.row).expand(len(clients), -1)
            return self.settings.rows(self.trainer, anchors, clients, state.round, state.store)

        return evaluate_own(
            self.trainer, models, federation.population, federation.chunk_size, "personal", federation.world
        )
