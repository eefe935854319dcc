"""Server optimizers: how the combined delta moves the global row.

The delta points where the clients went, so every step *adds*; with `SGD` at learning rate 1 the weighted mean of
deltas gives FedAvg. State goes in and comes out as a dictionary of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim.errors import check_above, check_between

State = dict[str, Tensor]


@runtime_checkable
class ServerOptimizer(Protocol):
    """What a server optimizer offers."""

    def init(self, row: Tensor) -> State:
        """State before the first round, for a global row ``[P]``."""
        ...

    def step(self, row: Tensor, delta: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the next global row ``[P]`` and state, given the combined delta ``[P]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """``row + lr * delta``; FedAvg at lr 1 (Reddi 2021, section 2)."""

    lr: float = 1.0

    def __post_init__(self) -> None:
        check_above(self, 0, "lr")

    def init(self, row: Tensor) -> State:
        """No state."""
        return {}

    def step(self, row: Tensor, delta: Tensor, state: State) -> tuple[Tensor, State]:
        """Add the scaled delta."""
        return row + self.lr * delta, state


@dataclass(frozen=True, kw_only=True)
class Momentum:
    """FedAvgM (Hsu 2019, section 4.3): ``v = beta * v + delta``; ``row + lr * v``."""

    lr: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        check_above(self, 0, "lr")
        check_between(self, 0, 1, "beta", open_high=True)

    def init(self, row: Tensor) -> State:
        """A velocity of zeros."""
        return {"velocity": torch.zeros_like(row)}

    def step(self, row: Tensor, delta: Tensor, state: State) -> tuple[Tensor, State]:
        """Accumulate, then add."""
        velocity = self.beta * state["velocity"] + delta
        return row + self.lr * velocity, {"velocity": velocity}


@dataclass(frozen=True, kw_only=True)
class Adam:
    """FedAdam (Reddi 2021, Algorithm 2), without bias correction.

    ``m = beta1 * m + (1 - beta1) * delta``; ``v = beta2 * v + (1 - beta2) * delta^2``;
    ``row + lr * m / (sqrt(v) + tau)``, from ``m = 0`` and ``v = tau^2`` (the least that Algorithm 2 admits).
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 0.001

    def __post_init__(self) -> None:
        check_above(self, 0, "lr", "tau")
        check_between(self, 0, 1, "beta1", "beta2", open_high=True)

    def init(self, row: Tensor) -> State:
        """Both moments."""
        return {"mean": torch.zeros_like(row), "square": torch.full_like(row, self.tau**2)}

    def step(self, row: Tensor, delta: Tensor, state: State) -> tuple[Tensor, State]:
        """Algorithm 2, lines 10 to 13."""
        mean = self.beta1 * state["mean"] + (1 - self.beta1) * delta
        square = self.beta2 * state["square"] + (1 - self.beta2) * delta**2
        return row + self.lr * mean / (square.sqrt() + self.tau), {"mean": mean, "square": square}
