"""How clients train: the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedsim.clients.class_weights import check_class_weights
from fedsim.clients.optimizers import LocalOptimizer
from fedsim.data.dataset import Task
from fedsim.errors import (
    FieldError,
    UserError,
    check_above,
    check_at_least,
    check_between,
    check_exactly_one,
    check_one_of,
)


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """How every client trains.

    Attributes:
        optimizer: the local optimizer.
        epochs: passes over the client's own samples per round; exclusive with `steps`.
        steps: minibatch steps per round, the same for every client; exclusive with `epochs`.
        batch_size: samples per step; None takes all of the client's samples.
        lr_decay: factor on the learning rate after every round, ``lr * lr_decay ** (round - 1)``.
        clip_norm: largest norm of a client's minibatch gradient (correction included), or None.
        keep_optimizer_state: whether a client continues with the optimizer state of the last round it took part in.
        validation_fraction: share of each client's training samples that it holds out to judge its local model.
        loss_over: what a minibatch's loss is the mean over, where there is a target at every step: ``targets`` that
            count, or ``positions``: all steps of its samples up to the longest of the data, where padding adds 0 to the
            loss but 1 to what it is divided by (as in FedJAX' StackOverflow and Shakespeare). Metrics of evaluations
            are means over targets in any case.
        class_weights: of the classes in a minibatch's loss, which is then the weighted mean, as that of
            ``torch.nn.CrossEntropyLoss(weight)``: None (all count the same), a list of K numbers in the order of the
            classes, or ``balanced``, inversely to how often a class occurs in the training data of all clients. With
            ``loss_over=positions`` the weighted sum is divided by the positions. Evaluations do not weigh.
    """

    optimizer: LocalOptimizer
    epochs: int | None = 2
    steps: int | None = None
    batch_size: int | None = 8
    lr_decay: float = 1.0
    clip_norm: float | None = None
    keep_optimizer_state: bool = False
    validation_fraction: float = 0.0
    loss_over: str = "targets"
    class_weights: str | list[float] | None = None

    def __post_init__(self) -> None:
        if (wrong := check_class_weights(self.class_weights)) is not None:
            raise FieldError("class_weights", self.class_weights, wrong)
        check_one_of(self, "loss_over", ("targets", "positions"))
        check_exactly_one(self, "epochs", "steps")
        check_at_least(self, 1, "epochs", "steps", "batch_size")
        check_above(self, 0, "lr_decay", "clip_norm")
        check_between(self, 0, 1, "validation_fraction", open_high=True)
        if self.keep_optimizer_state and not self.has_state:
            raise FieldError(
                "keep_optimizer_state",
                True,
                "has an effect only with an optimizer that has a state: client.optimizer.momentum above 0, "
                "client/optimizer=adam or adamw",
            )

    def check(self, task: Task) -> None:
        """Raise `UserError` if a setting has no effect on data with this task."""
        if self.loss_over != "targets" and task is not Task.SEQUENCE_LABELLING:
            raise UserError(
                f"client.loss_over={self.loss_over}: has an effect only on data with a target at every step, such as "
                "data=words"
            )

    @property
    def has_state(self) -> bool:
        """Whether the optimizer has a state that clients could keep."""
        return bool(self.optimizer.state(torch.zeros(1, 1)))

    def keeping(self) -> ClientConfig:
        """The same, with the optimizer's state kept from round to round, if there is any."""
        return replace(self, keep_optimizer_state=self.has_state)


@dataclass(frozen=True, kw_only=True)
class FullBatch(ClientConfig):
    """Every step takes all of a client's samples; a single step by default, as the clients of FedSGD do."""

    option: ClassVar[str] = "full_batch"

    epochs: int | None = None
    steps: int | None = 1
    batch_size: int | None = None

    def __post_init__(self) -> None:
        both = self.epochs is not None and self.steps is not None
        if both or self.batch_size is not None:
            name = "epochs" if both else "batch_size"
            raise FieldError(
                name,
                getattr(self, name),
                "client=full_batch (which aggregator=fedsgd chooses) is a step on all of a client's samples, and this "
                "is set elsewhere, on the command line or by an experiment; set client.epochs=null client.steps=1 "
                "client.batch_size=null, or take client=default and an aggregator such as fedavg",
            )
        super().__post_init__()
