"""Server optimizers: how the combined delta moves the global row.

The delta points where the clients went, so every step *adds*; with `SGD` at learning rate 1 the weighted mean of
deltas gives FedAvg. State goes in and comes out as a dictionary of tensors, which is the server's drawer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch

from fedsim.core.facts import Fact, Facts
from fedsim.core.state import Drawer
from fedsim.errors import check_above, check_between
from fedsim.server.schedules import CONSTANT, Schedule

if TYPE_CHECKING:
    from torch import Tensor


MOST_SQUARE = 1e30
"""Largest initial accumulator, so that it is finite in float32."""


@runtime_checkable
class ServerOptimizer(Protocol):
    """The interface of a server optimizer."""

    @property
    def lr(self) -> float:
        """The learning rate before the schedule."""
        ...

    @property
    def schedule(self) -> Schedule:
        """How the learning rate changes over rounds."""
        ...

    def init(self, row: Tensor) -> Drawer:
        """State before the first round, for a global row ``[P]``."""
        ...

    def step(self, row: Tensor, delta: Tensor, state: Drawer, lr: float) -> tuple[Tensor, Drawer]:
        """Return the next global row ``[P]`` and state, given the combined delta ``[P]`` and this round's `lr`."""
        ...


def learning_rate(optimizer: ServerOptimizer, round_number: int, rounds: int) -> float:
    """The server learning rate in round `round_number` (1, 2, ...) of a run of at most `rounds` rounds."""
    return optimizer.lr * optimizer.schedule.at(round_number, rounds)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """``row + lr * delta``; FedAvg at lr 1 (Reddi 2021, section 2)."""

    lr: float = 1.0
    schedule: Schedule = CONSTANT

    facts: ClassVar[Facts] = frozenset()

    def __post_init__(self) -> None:
        check_above(self, 0, "lr")

    def conditional_facts(self) -> Mapping[Fact, str]:
        """`Fact.SCALES_STEP` unless the learning rate is 1."""
        return {Fact.SCALES_STEP: f"aggregator.server_optimizer.lr={self.lr:g}"} if self.lr != 1 else {}

    def init(self, row: Tensor) -> Drawer:
        """Return an empty state."""
        return {}

    def step(self, row: Tensor, delta: Tensor, state: Drawer, lr: float) -> tuple[Tensor, Drawer]:
        """Add the scaled delta."""
        return row + lr * delta, state


@dataclass(frozen=True, kw_only=True)
class Momentum:
    """FedAvgM (Hsu 2019, section 4.3): ``v = beta * v + delta``; ``row + lr * v``."""

    lr: float = 1.0
    beta: float = 0.9
    schedule: Schedule = CONSTANT

    facts: ClassVar[Facts] = frozenset({Fact.OWN_STEP})

    def __post_init__(self) -> None:
        check_above(self, 0, "lr")
        check_between(self, 0, 1, "beta", open_high=True)

    def init(self, row: Tensor) -> Drawer:
        """Return a ``velocity`` ``[P]`` of zeros."""
        return {"velocity": torch.zeros_like(row)}

    def step(self, row: Tensor, delta: Tensor, state: Drawer, lr: float) -> tuple[Tensor, Drawer]:
        """Update the velocity, then add it."""
        velocity = self.beta * state["velocity"] + delta
        return row + lr * velocity, {"velocity": velocity}


# ---------------------------------------------------------------------------------------------------------------------
# Reddi 2021, Algorithm 2: ``m = beta1 * m + (1 - beta1) * delta``; a rule for v; ``row + lr * m / (sqrt(v) + tau)``,
# from ``m = 0`` and ``v = tau^2`` (the least that the algorithm admits) or ``initial_square``, without bias correction.


def _moments(row: Tensor, tau: float, initial_square: float | None) -> Drawer:
    square = tau**2 if initial_square is None else initial_square
    return {"mean": torch.zeros_like(row), "square": torch.full_like(row, square)}


@dataclass(frozen=True, kw_only=True)
class Adagrad:
    """FedAdagrad (Reddi 2021, Algorithm 2): ``v = v + delta^2``, without momentum unless `beta1` says so."""

    lr: float = 0.1
    beta1: float = 0.0
    tau: float = 0.001
    initial_square: float | None = None
    schedule: Schedule = CONSTANT

    facts: ClassVar[Facts] = frozenset({Fact.OWN_STEP})

    def __post_init__(self) -> None:
        check_above(self, 0, "lr", "tau")
        check_between(self, 0, MOST_SQUARE, "initial_square")
        check_between(self, 0, 1, "beta1", open_high=True)

    def init(self, row: Tensor) -> Drawer:
        """Return ``mean`` ``[P]`` of zeros and ``square`` ``[P]`` of `initial_square`, or ``tau^2``."""
        return _moments(row, self.tau, self.initial_square)

    def step(self, row: Tensor, delta: Tensor, state: Drawer, lr: float) -> tuple[Tensor, Drawer]:
        """Take a step of Algorithm 2, with line 12 for FedAdagrad."""
        mean = self.beta1 * state["mean"] + (1 - self.beta1) * delta
        square = state["square"] + delta**2
        return row + lr * mean / (square.sqrt() + self.tau), {"mean": mean, "square": square}


@dataclass(frozen=True, kw_only=True)
class Adam:
    """FedAdam (Reddi 2021, Algorithm 2), without bias correction: ``v = beta2 * v + (1 - beta2) * delta^2``."""

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 0.001
    initial_square: float | None = None
    schedule: Schedule = CONSTANT

    facts: ClassVar[Facts] = frozenset({Fact.OWN_STEP})

    def __post_init__(self) -> None:
        check_above(self, 0, "lr", "tau")
        check_between(self, 0, MOST_SQUARE, "initial_square")
        check_between(self, 0, 1, "beta1", "beta2", open_high=True)

    def init(self, row: Tensor) -> Drawer:
        """Return ``mean`` ``[P]`` of zeros and ``square`` ``[P]`` of `initial_square`, or ``tau^2``."""
        return _moments(row, self.tau, self.initial_square)

    def step(self, row: Tensor, delta: Tensor, state: Drawer, lr: float) -> tuple[Tensor, Drawer]:
        """Take a step of Algorithm 2, with line 12 for FedAdam."""
        mean = self.beta1 * state["mean"] + (1 - self.beta1) * delta
        square = self.beta2 * state["square"] + (1 - self.beta2) * delta**2
        return row + lr * mean / (square.sqrt() + self.tau), {"mean": mean, "square": square}


@dataclass(frozen=True, kw_only=True)
class Yogi:
    """FedYogi (Reddi 2021, Algorithm 2): ``v = v - (1 - beta2) * delta^2 * sign(v - delta^2)``."""

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 0.001
    initial_square: float | None = None
    schedule: Schedule = CONSTANT

    facts: ClassVar[Facts] = frozenset({Fact.OWN_STEP})

    def __post_init__(self) -> None:
        check_above(self, 0, "lr", "tau")
        check_between(self, 0, MOST_SQUARE, "initial_square")
        check_between(self, 0, 1, "beta1", "beta2", open_high=True)

    def init(self, row: Tensor) -> Drawer:
        """Return ``mean`` ``[P]`` of zeros and ``square`` ``[P]`` of `initial_square`, or ``tau^2``."""
        return _moments(row, self.tau, self.initial_square)

    def step(self, row: Tensor, delta: Tensor, state: Drawer, lr: float) -> tuple[Tensor, Drawer]:
        """Take a step of Algorithm 2, with line 12 for FedYogi."""
        mean = self.beta1 * state["mean"] + (1 - self.beta1) * delta
        new = delta**2
        square = state["square"] - (1 - self.beta2) * new * torch.sign(state["square"] - new)
        return row + lr * mean / (square.sqrt() + self.tau), {"mean": mean, "square": square}


@dataclass(frozen=True, kw_only=True)
class AdamCorrected:
    """Adam as in Kingma and Ba 2015, Algorithm 1: with bias correction, and from ``v = 0``.

    The same numbers as `torch.optim.Adam` on the gradient ``-delta`` with ``eps = tau``. This is not FedAdam (`Adam`),
    although some code bases call it that.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 0.001
    schedule: Schedule = CONSTANT

    facts: ClassVar[Facts] = frozenset({Fact.OWN_STEP})

    def __post_init__(self) -> None:
        check_above(self, 0, "lr", "tau")
        check_between(self, 0, 1, "beta1", "beta2", open_high=True)

    def init(self, row: Tensor) -> Drawer:
        """Return both moments, ``mean`` and ``square`` ``[P]``, and the number of ``steps`` taken, all zero."""
        steps = torch.zeros((), dtype=torch.float64, device=row.device)
        return {"mean": torch.zeros_like(row), "square": torch.zeros_like(row), "steps": steps}

    def step(self, row: Tensor, delta: Tensor, state: Drawer, lr: float) -> tuple[Tensor, Drawer]:
        """Take a step of Algorithm 1."""
        steps = state["steps"] + 1
        mean = self.beta1 * state["mean"] + (1 - self.beta1) * delta
        square = self.beta2 * state["square"] + (1 - self.beta2) * delta**2
        corrected = (square / (1 - self.beta2 ** float(steps))).sqrt()
        row = row + lr * (mean / (1 - self.beta1 ** float(steps))) / (corrected + self.tau)
        return row, {"mean": mean, "square": square, "steps": steps}
