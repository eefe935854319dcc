"""APFL: a model of each client's own, mixed with the global one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.client_store import ClientStore
from fedsim.clients.optimizers import SGD
from fedsim.clients.step import Corrects, Step
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.part import Correction
from fedsim.core.setting import Setting
from fedsim.corrections.plain_steps import check_one_rate
from fedsim.corrections.within_round import notebook, whose
from fedsim.errors import FieldError, UserError, check_above, check_between
from fedsim.personalization.personalization import OwnModels

if TYPE_CHECKING:
    from torch import Tensor

OWN, ALPHA = "personalize.own", "personalize.alpha"
"""The blocks of the client store with the clients' own models, and their weights."""


@dataclass(frozen=True, kw_only=True)
class APFL(OwnModels):
    """Every client mixes a model of its own with the global one (APFL, Deng 2020, Algorithm 1).

    In the rounds in which it takes part, a client trains its own model v on the same minibatches as its copy w of the
    global one, which trains as without APFL:

        ``v <- v - lr * alpha * g(m)`` with the mixture ``m = alpha * v + (1 - alpha) * w``,

    and, if it learns its weight, in the first local step of the round ``alpha <- alpha - lr * <v - w, g(m)>``, within 0
    and 1. Its first v is the w that it was sent in its first round. The mixture of v and the newest global model is
    what the columns ``personal_*`` judge; a client that never took part has the global model. Nothing but the global
    model travels.

    fedsim trains w a second time to follow it, so that a local step takes three gradients.

    Attributes:
        alpha: weight of the own model, or the first weight if it is learnt; at 0 a client has the global model.
        learn: whether every client learns its weight.
        lr: learning rate of v and alpha; None is the local learning rate, with which it falls.
    """

    alpha: float = 0.5
    learn: bool = True
    lr: float | None = None

    facts: ClassVar[Facts] = frozenset({Fact.PERSONAL, Fact.SECOND_MODEL})
    gradients: ClassVar[int] = 2
    held_rows: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_between(self, 0, 1, "alpha")
        check_above(self, 0, "lr")
        if self.alpha == 0 and self.learn:
            raise FieldError(
                "alpha", self.alpha, "has no slope from which it could be learnt; set personalize.learn=false or more"
            )

    def check(self, setting: Setting) -> None:
        """Refuse settings under which the training of w cannot be followed, or v has no learning rate."""
        check_one_rate(setting, "personalize=apfl")
        optimizer = setting.client.optimizer
        if self.lr is None and not isinstance(optimizer, SGD):
            raise UserError(
                f"client/optimizer={type(optimizer).__name__.lower()}: personalize=apfl trains the clients' own models "
                "by plain gradient descent, for which a learning rate of this optimizer is none; set personalize.lr"
            )
        keeps = setting.facts.get(Fact.KEEPS_OPTIMIZER_STATE) or setting.facts.get(Fact.REMEMBERS)
        if keeps:
            raise UserError(
                f"{keeps}: clients keep more from round to round than the model, and personalize=apfl follows their "
                "training from the model alone; switch one of them off"
            )

    def task(self, task: LocalTask) -> LocalTask:
        """Return the task of the federation, in which the own models train along."""
        rate = task.config.optimizer.lr if self.lr is None else self.lr
        return replace(task, correction=Mixed(_plain(task.correction), self.learn, rate, task.config.lr_decay))

    def train_own(
        self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore
    ) -> None:
        """Take lines 5 to 8 of the algorithm for the clients of a round, and store their models and weights."""
        sent = anchors.expand(len(clients), -1)
        own, alpha = store.read(OWN, clients, sent).clone(), store.read(ALPHA, clients, self._first(sent)).clone()
        memory = notebook(clients, own=own, alpha=alpha, round=torch.tensor(round_number))
        trainer.train(anchors, clients, round_number, store, memory)
        store.write(OWN, clients, own)
        store.write(ALPHA, clients, alpha)

    def rows(self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> Tensor:
        """Return the mixtures with the newest global model."""
        alpha = store.read(ALPHA, clients, self._first(anchors))
        return alpha * store.read(OWN, clients, anchors) + (1 - alpha) * anchors

    def _first(self, rows: Tensor) -> Tensor:
        return rows.new_full((len(rows), 1), self.alpha)


@dataclass(frozen=True)
class Mixed(Correction):
    """Trains the clients' own models along with the copies of the global one, whose gradients it leaves as they are.

    Attributes:
        inner: the correction of the federation.
        learn: whether clients learn their weights.
        lr: learning rate of the own models in round 1.
        lr_decay: factor on it after every round.
    """

    inner: Correction
    learn: bool
    lr: float
    lr_decay: float

    facts: ClassVar[Facts] = frozenset({Fact.BENDS})

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Take a step of the own models, and of the weights in the first step of a round."""
        assert step.memory is not None
        notes, clients = step.memory.shared, whose(step)
        lr = self.lr * self.lr_decay ** (int(notes["round"]) - 1)
        own, alpha = notes["own"][clients], notes["alpha"][clients]
        slope = step.at(alpha * own + (1 - alpha) * step.rows)
        if self.learn and step.number == 0:
            towards = ((own - step.rows) * slope).double().sum(1, keepdim=True)
            notes["alpha"][clients] = (alpha.double() - lr * towards).clamp(0, 1).to(alpha.dtype)
        notes["own"][clients] = own - lr * alpha * slope
        self.inner.correct(gradient, step)


def _plain(correction: Corrects) -> Correction:
    """The correction of the federation, which must not take notes of its own while a client trains."""
    if not isinstance(correction, Correction) or type(correction).recall is not Correction.recall:
        raise UserError(
            "personalize=apfl: follows local training from the model alone, and aggregator/correction="
            f"{option_name(correction)} needs more; take aggregator/correction=none or prox"
        )
    return correction
