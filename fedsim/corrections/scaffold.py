"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.optimizers import SGD
from fedsim.clients.step import Step
from fedsim.core.cohort import Traffic
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound
from fedsim.core.setting import Setting
from fedsim.core.state import State
from fedsim.corrections.remembering import Remembering
from fedsim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scaffold(Remembering):
    """SCAFFOLD (Karimireddy 2020, Algorithm 1, option II).

    A client's memory is its control variate ``c_i``, the server's mean is ``c``. A local step follows
    ``g - c_i + c``; afterwards ``c_i`` becomes ``c_i - c + (x - y_i) / (K * lr)`` with the K steps that it took
    (line 12). ``c`` grows by the sum of the changes over the number of all clients (line 17). The control variates
    travel too: two rows each way.
    """

    facts: ClassVar[Facts] = frozenset({Fact.REMEMBERS, Fact.BENDS, Fact.TELLS})

    def check(self, setting: Setting) -> None:
        """Refuse all but plain SGD, for which alone ``(x - y_i) / (K * lr)`` is the mean of the client's gradients."""
        optimizer = setting.client.optimizer
        plain = isinstance(optimizer, SGD) and optimizer.momentum == 0 and optimizer.weight_decay == 0
        if not plain or setting.client.clip_norm is not None:
            raise UserError(
                "aggregator/correction=scaffold: its control variates are means of gradients, which only plain steps "
                "give back; use client/optimizer=sgd without momentum, weight_decay and client.clip_norm"
            )

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Add ``c - c_i`` (line 10)."""
        assert step.memory is not None
        gradient.sub_(step.memory.own["own"]).add_(step.memory.shared["mean"])

    def remember(self, own: Tensor, mean: Tensor, rows: Tensor, steps: Tensor, lr: float) -> Tensor:
        """Option II of line 12, with ``x - y_i = -delta``."""
        return own - mean - rows / (steps[:, None].to(rows) * lr)

    def bind(self, bound: Bound) -> ScaffoldInRun:
        """Return the correction with the size of its control variates."""
        return ScaffoldInRun(bound.blocks.size * bound.itemsize)


@dataclass(frozen=True)
class ScaffoldInRun(Scaffold):
    """SCAFFOLD, bound to a model of known size.

    Attributes:
        row_bytes: size of one control variate in bytes.
    """

    row_bytes: int

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Add one control variate each way."""
        return traffic._replace(down=traffic.down + self.row_bytes, after=traffic.after + self.row_bytes)
