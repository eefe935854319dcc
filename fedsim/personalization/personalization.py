"""Personal models: what each client uses for itself, evaluated beside the global model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from fedsim.client_store import ClientStore
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.corrections.correction import NoCorrection, Prox
from fedsim.errors import check_above, check_at_least


@runtime_checkable
class Personalization(Protocol):
    """How a client comes to a model of its own. Inherit from this one: what is not written does nothing."""

    def task(self, task: LocalTask) -> LocalTask | None:
        """Return what clients train for themselves, or None if there are no personal models."""
        return None

    def train(self, trainer: Trainer, row: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> None:
        """Train the personal models of clients ``[C]`` that take part in a round which starts from `row` ``[P]``."""
        return None

    def rows(self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> Tensor:
        """Return the personal models ``[C, P]`` after a round.

        Args:
            trainer: bound to what `task` returned.
            anchors: ``[C, P]``, the models that these clients have from the federation.
            clients: ``[C]`` int64 client numbers.
            round_number: rounds done.
            store: what is kept per client.
        """
        return anchors


@dataclass(frozen=True)
class NoPersonalization(Personalization):
    """Clients use the global model."""


@dataclass(frozen=True, kw_only=True)
class FineTune(Personalization):
    """Every client takes a few local steps from the global model before it is evaluated (Wang 2019, section 3).

    Nothing is kept: the next round starts from the global model, and fine-tuning from a fresh optimizer.

    Attributes:
        steps: local steps, with the clients' own optimizer and batch size.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps")

    def task(self, task: LocalTask) -> LocalTask | None:
        """Plain local steps, with batches in an order of their own."""
        config = replace(task.config, epochs=None, steps=self.steps, keep_optimizer_state=False)
        return replace(task, config=config, correction=NoCorrection(), stream="finetune")

    def rows(self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> Tensor:
        """The fine-tuned models; before the first round, too."""
        deltas, _ = trainer.train(anchors, clients, max(round_number, 1), ClientStore(store.num_clients))
        return anchors + deltas


@dataclass(frozen=True, kw_only=True)
class Ditto(Personalization):
    """Every client keeps a model of its own that is pulled to the global one (Ditto, Li 2021, Algorithm 1).

    In the rounds in which it takes part, a client also minimises ``F_k(v) + mu / 2 * ||v - w||^2`` from its last v,
    with the client settings, w being the global model that it was sent. Its first v is the w of its first round.

    Attributes:
        mu: strength of the pull (lambda in the paper).
    """

    mu: float = 0.1

    def __post_init__(self) -> None:
        check_above(self, 0, "mu")

    def task(self, task: LocalTask) -> LocalTask | None:
        """The client settings with a proximal term; the optimizer starts afresh, so as not to mix the two states."""
        config = replace(task.config, keep_optimizer_state=False)
        return replace(task, config=config, correction=Prox(mu=self.mu), stream="ditto")

    def train(self, trainer: Trainer, row: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> None:
        """Lines 7 and 8, for the clients of a round."""
        start = store.read("ditto", clients, row.expand(len(clients), -1))
        deltas, _ = trainer.train(row, clients, round_number, store, start=start)
        store.write("ditto", clients, start + deltas)

    def rows(self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> Tensor:
        """The kept models; clients that never took part have the global one."""
        return store.read("ditto", clients, anchors)
