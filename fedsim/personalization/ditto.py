"""Ditto: every client has a personal model, pulled towards the global one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedsim.client_store import ClientStore
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Fact, Facts
from fedsim.corrections.proximal import Prox
from fedsim.errors import check_above
from fedsim.personalization.personalization import OwnModels

if TYPE_CHECKING:
    from torch import Tensor

KEPT = "personalize.ditto"
"""The block of the client store with the personal models."""


@dataclass(frozen=True, kw_only=True)
class Ditto(OwnModels):
    """Every client keeps a personal model that is pulled towards the global one (Ditto, Li 2021, Algorithm 1).

    In the rounds in which it takes part, a client also minimises ``F_k(v) + mu / 2 * ||v - w||^2``, starting from its
    last v and with the client settings, where w is the global model that it was sent. Its first v is the w of its
    first round.

    Attributes:
        mu: strength of the pull (lambda in the paper).
    """

    mu: float = 0.1

    facts: ClassVar[Facts] = frozenset({Fact.PERSONAL, Fact.SECOND_MODEL})
    gradients: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_above(self, 0, "mu")

    def task(self, task: LocalTask) -> LocalTask:
        """Return the task with a proximal term; no optimizer state is kept, so that two models never share one."""
        config = replace(task.config, keep_optimizer_state=False)
        return replace(task, config=config, correction=Prox(mu=self.mu), stream="ditto")

    def train_own(
        self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore
    ) -> None:
        """Take lines 7 and 8 of the algorithm for the clients of a round, and store their models."""
        start = store.read(KEPT, clients, anchors.expand(len(clients), -1))
        deltas, _ = trainer.train(anchors, clients, round_number, store, start=start)
        store.write(KEPT, clients, start + deltas)

    def rows(self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> Tensor:
        """Return the stored models; clients that never took part have the global one."""
        return store.read(KEPT, clients, anchors)
