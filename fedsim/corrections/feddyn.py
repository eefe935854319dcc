"""FedDyn: a regulariser that moves with the clients' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.step import Step
from fedsim.corrections.remembering import Remembering
from fedsim.errors import check_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FedDyn(Remembering):
    """FedDyn (Acar 2021, Algorithm 1): dynamic regularisation.

    A client's memory ``g_i`` is the gradient of its loss at its last local model. It minimises
    ``L_i(y) - <g_i, y> + alpha / 2 * ||y - x||^2`` and then keeps ``g_i - alpha * (y_i - x)``. The server's ``h`` is
    the mean of these rows over all clients; its model is the mean of the local ones minus ``h / alpha``.
    """

    option: ClassVar[str] = "feddyn"

    alpha: float = 0.01

    def __post_init__(self) -> None:
        check_above(self, 0, "alpha")

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Add ``-g_i + alpha * (row - anchor)``."""
        assert step.memory is not None
        gradient.sub_(step.memory.own["own"]).add_(step.drift(), alpha=self.alpha)

    def remember(self, own: Tensor, mean: Tensor, rows: Tensor, steps: Tensor, lr: float) -> Tensor:
        """Return ``g_i - alpha * delta`` ``[c, n]``."""
        return own - self.alpha * rows

    def adjust(self, delta: Tensor, mean: Tensor) -> Tensor:
        """Return ``delta - h / alpha`` ``[P]``."""
        return delta - mean / self.alpha
