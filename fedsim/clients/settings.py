"""How clients train: the settings."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.clients.optimizers import LocalOptimizer
from fedsim.errors import check_above, check_at_least, check_between, check_exactly_one


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
    """

    optimizer: LocalOptimizer
    epochs: int | None = 2
    steps: int | None = None
    batch_size: int | None = 8
    lr_decay: float = 1.0
    clip_norm: float | None = None
    keep_optimizer_state: bool = False
    validation_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_exactly_one(self, "epochs", "steps")
        check_at_least(self, 1, "epochs", "steps", "batch_size")
        check_above(self, 0, "lr_decay", "clip_norm")
        check_between(self, 0, 1, "validation_fraction", open_high=True)
