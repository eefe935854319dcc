"""Mime and MimeLite: clients step with the server's momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.clients.report import Memory
from fedsim.clients.step import Step
from fedsim.core.cohort import Traffic
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.part import Bound, Correction, Round
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.corrections.plain_steps import check_plain_steps
from fedsim.errors import check_between

if TYPE_CHECKING:
    from torch import Tensor

MOMENTUM, GRADIENT = "momentum", "gradient"
"""The drawer entry of the server's momentum, and the mean gradient of a round's cohort."""


@dataclass(frozen=True, kw_only=True)
class MimeLite(Correction):
    """MimeLite with momentum (Karimireddy 2021, Algorithm 1).

    The server keeps a momentum m, which clients use and do not change: a local step follows
    ``(1 - beta) * g(y) + beta * m``. Afterwards m becomes ``(1 - beta) * c + beta * m`` with
    ``c = mean(grad F_i(x))``, the gradients that the clients of the cohort take at the server's model x, over all of
    their samples. m travels down with the model, and the gradient up with the delta: two rows each way.

    All clients of a cohort count the same for c, as in the paper; there the plain mean of the local models is the next
    model (``aggregator/combine=mean``). Private parameters follow their own gradients alone, without momentum.

    Of the paper's base algorithms this is SGD with momentum. The pass over all samples that the gradient at x takes is
    not in the virtual seconds of ``system``.

    Attributes:
        beta: share of the momentum in a step; at 0 it is FedAvg.
    """

    beta: float = 0.9

    facts: ClassVar[Facts] = frozenset({Fact.REMEMBERS, Fact.BENDS, Fact.TELLS})
    held_rows: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_between(self, 0, 1, "beta", open_high=True)

    def check(self, setting: Setting) -> None:
        """Refuse all but plain SGD: its step is that of the base algorithm, whose momentum is the server's."""
        check_plain_steps(setting, option_name(self), "since the only momentum is the server's")

    def start(self, row: Tensor) -> Drawer:
        """Return a momentum ``[P]`` of zeros."""
        return {MOMENTUM: torch.zeros_like(row)}

    def open(self, round: Round) -> None:
        """Take the mean of the cohort's full gradients, in float64."""
        total = torch.zeros_like(round.state.row, dtype=torch.float64)
        for part in round.own.chunks(round.federation.chunk_size):
            anchors = round.federation.schedule.anchors(part, round)
            total += round.trainer.full_gradients(anchors, part.clients).double().sum(0)
        mean = round.division.add_up(total) / max(1, len(round.cohort.clients))
        mean = round.federation.blocks.only_shared(mean)
        round.notes[f"{self.group}.{GRADIENT}"] = mean.to(round.state.row.dtype)

    def recall(self, clients: Tensor, round: Round) -> Memory:
        """Return the momentum, and the cohort's gradient."""
        shared = {MOMENTUM: round.drawer(self)[MOMENTUM], GRADIENT: round.notes[f"{self.group}.{GRADIENT}"]}
        return Memory({}, shared)

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Mix the momentum into the gradient."""
        self._mix(gradient, gradient.clone(), step)

    def _mix(self, gradient: Tensor, direction: Tensor, step: Step) -> None:
        """Replace all but the private parameters of `gradient` by `direction` with its share of momentum."""
        assert step.memory is not None
        mixed = direction.mul_(1 - self.beta).add_(step.memory.shared[MOMENTUM], alpha=self.beta)
        private = step.blocks.private
        if private is not None:
            mixed[:, private] = gradient[:, private]
        gradient.copy_(mixed)

    def settle(self, delta: Tensor, round: Round) -> Tensor:
        """Update the momentum; the delta stays as it is."""
        drawer, gradient = round.drawer(self), round.notes[f"{self.group}.{GRADIENT}"]
        drawer[MOMENTUM] = (1 - self.beta) * gradient + self.beta * drawer[MOMENTUM]
        return delta

    def bind(self, bound: Bound) -> MimeLite:
        """Return the correction with the size of what travels."""
        return MimeLiteInRun(beta=self.beta, row_bytes=bound.blocks.size * bound.itemsize)


@dataclass(frozen=True, kw_only=True)
class MimeLiteInRun(MimeLite):
    """MimeLite, bound to a model of known size.

    Attributes:
        row_bytes: size of a momentum or gradient in bytes.
    """

    option: ClassVar[str] = "mime_lite"

    row_bytes: int

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Add the momentum on the way down, and a gradient on the way up."""
        return traffic._replace(down=traffic.down + self.row_bytes, after=traffic.after + self.row_bytes)


@dataclass(frozen=True, kw_only=True)
class Mime(MimeLite):
    """Mime with momentum (Karimireddy 2021, Algorithm 1).

    As `MimeLite`, with the correction of SVRG in each local step: it follows
    ``(1 - beta) * (g(y) - g(x) + c) + beta * m``, with the gradient g(x) of the same minibatch at the server's model. c
    is known before anybody trains, so that clients send their gradients first and get c: three rows down and two up.
    """

    gradients: ClassVar[int] = 2
    held_rows: ClassVar[int] = 2

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Correct the gradient, and mix the momentum into it."""
        assert step.memory is not None
        direction = gradient - step.at(step.anchors) + step.memory.shared[GRADIENT]
        self._mix(gradient, direction, step)

    def bind(self, bound: Bound) -> Mime:
        """Return the correction with the size of what travels."""
        return MimeInRun(beta=self.beta, row_bytes=bound.blocks.size * bound.itemsize)


@dataclass(frozen=True, kw_only=True)
class MimeInRun(Mime):
    """Mime, bound to a model of known size.

    Attributes:
        row_bytes: size of a momentum or gradient in bytes.
    """

    option: ClassVar[str] = "mime"

    row_bytes: int

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Add momentum and mean gradient on the way down, and a gradient on the way up, before training."""
        return traffic._replace(down=traffic.down + 2 * self.row_bytes, before=traffic.before + self.row_bytes)
