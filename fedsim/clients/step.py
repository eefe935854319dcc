"""One local step, as a correction of the gradient sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fedsim.clients.report import Memory
from fedsim.models.blocks import Blocks
from fedsim.models.parameters import ParameterLayout

if TYPE_CHECKING:
    from torch import Tensor


class Step(NamedTuple):
    """One local step of the A clients that still train.

    Attributes:
        rows: ``[A, P]``, the local models at which the gradient was taken.
        anchors: ``[A, P]`` or ``[P]``, the models that the server sent.
        memory: what the correction recalled for these clients, or None.
        number: index of the step, from 0.
        total: ``[A]`` int64, the local steps that each client takes in the round.
        layout: where each parameter lies in a row.
        blocks: which parameters are aggregated.
        at: returns the gradient ``[A, P]`` of the same minibatch, with the same dropout, at other rows ``[A, P]`` or
            ``[P]``.
    """

    rows: Tensor
    anchors: Tensor
    memory: Memory | None
    number: int
    total: Tensor
    layout: ParameterLayout
    blocks: Blocks
    at: Callable[[Tensor], Tensor]

    def drift(self) -> Tensor:
        """``rows - anchors`` ``[A, P]``, zero for private parameters, of which the server has no copy."""
        return self.blocks.only_shared(self.rows - self.anchors)


class Corrects(Protocol):
    """What local training needs of a correction (`fedsim.core.part.Correction`)."""

    @property
    def held_rows(self) -> int:
        """Rows that a client holds for the correction while it trains."""
        ...

    @property
    def pull(self) -> float:
        """Strength of a pull towards the anchor."""
        ...

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Change the gradients ``[A, P]`` in place."""
        ...
