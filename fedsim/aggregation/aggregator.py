"""What ``aggregator=`` selects: three parts, each of which can be replaced on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedsim.aggregation.rules import Combine
from fedsim.clients.optimizers import SGD
from fedsim.core.part import Correction
from fedsim.core.setting import Setting
from fedsim.errors import UserError
from fedsim.server.optimizers import ServerOptimizer


@dataclass(frozen=True, kw_only=True)
class Aggregator:
    """A federated algorithm as the sum of its parts.

    Attributes:
        combine: how deltas ``[C, P]`` become one delta ``[P]``.
        server_optimizer: how that delta moves the global row.
        correction: what is added to the clients' gradients.
        blocks: the parameter blocks (those that the model has of embedding, recurrent, pooling, projection, head) that
            are aggregated, or with a minus before each those that are not (``[-head]``); None is all of them. All other
            blocks stay private to each client, as in FedPer (Arivazhagan 2019: a personal head) and LG-FedAvg (Liang
            2020: a personal representation). `test_*` then pools the evaluations of the clients' own models.
    """

    combine: Combine
    server_optimizer: ServerOptimizer
    correction: Correction
    blocks: list[str] | None = None

    def check(self, setting: Setting) -> None:
        """Raise `UserError` for settings under which the algorithm would be another one."""


@dataclass(frozen=True, kw_only=True)
class FedSGD(Aggregator):
    """FedSGD (McMahan 2017, section 2): each client sends one gradient of all its samples; the server takes the step.

    In McMahan's words B is infinite and E is 1. Here the local step makes the gradient a delta of length
    ``client.optimizer.lr``.
    """

    option: ClassVar[str] = "fedsgd"

    def check(self, setting: Setting) -> None:
        """Refuse clients that do anything but one plain step on all of their samples."""
        client = setting.client
        optimizer = client.optimizer
        if not isinstance(optimizer, SGD) or optimizer.momentum > 0:
            what = f"client/optimizer={type(optimizer).__name__.lower()}"
            if isinstance(optimizer, SGD):
                what = f"client.optimizer.momentum={optimizer.momentum}"
            raise UserError(
                f"{what}: in aggregator=fedsgd clients send a gradient; take client/optimizer=sgd without momentum, or "
                "aggregator=fedavg"
            )
        whole = client.batch_size is None
        if not whole or (client.epochs or client.steps) != 1:
            given = f"epochs={client.epochs}" if client.steps is None else f"steps={client.steps}"
            size = "null" if whole else client.batch_size
            raise UserError(
                f"client.{given} client.batch_size={size}: aggregator=fedsgd is one step per round on all of a "
                "client's samples; set client.epochs=null client.steps=1 client.batch_size=null, or take "
                "aggregator=fedavg"
            )
