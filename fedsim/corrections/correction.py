"""Local corrections: what a federated algorithm adds to each client's gradient, and what is remembered for it.

A correction is a few functions on rows. One that needs a memory keeps one row ``[P]`` per client, zero before the
client first takes part; the server keeps the mean of these rows over the whole population.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fedsim.clients.optimizers import SGD
from fedsim.clients.report import Memory
from fedsim.errors import UserError, check_above, check_at_least

if TYPE_CHECKING:
    from fedsim.clients.settings import ClientConfig


@runtime_checkable
class Correction(Protocol):
    """A term added to the local gradient. Inherit from this one: only `correct` has to be written."""

    remembers: ClassVar[bool] = False
    """Whether clients and server keep a `Memory`; without one, the functions below get None."""
    extra_down: ClassVar[int] = 0
    """Rows that a client receives beside the model."""
    extra_up: ClassVar[int] = 0
    """Rows that a client sends beside its delta."""
    gradients: ClassVar[int] = 1
    """Gradients that a local step computes."""

    def check(self, client: ClientConfig) -> None:
        """Raise `UserError` for client settings that the algorithm is not made for."""
        return None

    def perturb(self, gradient: Tensor) -> Tensor | None:
        """Return ``[A, P]``, how far from the rows the step's gradient is taken, given the gradient at the rows.

        None, the usual answer, takes it at the rows themselves.
        """
        return None

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor, memory: Memory | None) -> None:
        """Add the correction to `gradient` in place.

        Args:
            gradient: ``[A, P]`` minibatch gradients.
            rows: ``[A, P]`` local parameters at which they were taken.
            anchors: ``[A, P]`` or ``[P]``, the model that the server sent.
            memory: of these clients.
        """
        ...

    def remember(self, memory: Memory, deltas: Tensor, steps: Tensor, lr: float) -> Tensor:
        """Return the clients' rows ``[C, P]`` after local training that gave `deltas` ``[C, P]`` in `steps` ``[C]``."""
        return memory.own

    def adjust(self, delta: Tensor, mean: Tensor) -> Tensor:
        """Return what the server optimizer gets, for the combined `delta` ``[P]`` and the new mean of the memories."""
        return delta


@dataclass(frozen=True)
class NoCorrection(Correction):
    """Plain local training, as in FedAvg (McMahan 2017, Algorithm 1)."""

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor, memory: Memory | None) -> None:
        """Leave the gradient as it is."""


@dataclass(frozen=True, kw_only=True)
class Prox(Correction):
    """The proximal term of FedProx (Li 2020, eq. 2): the gradient of ``mu / 2 * ||row - anchor||^2``."""

    mu: float = 0.01

    def __post_init__(self) -> None:
        check_at_least(self, 0, "mu")

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor, memory: Memory | None) -> None:
        """Add ``mu * (row - anchor)``."""
        gradient.add_(rows - anchors, alpha=self.mu)


@dataclass(frozen=True, kw_only=True)
class SharpnessAware(Correction):
    """FedSAM (Qu 2022, Algorithm 1; Caldarola 2022): each local step follows the gradient at a worse place nearby.

    That place is ``row + rho * g / |g|`` for the minibatch gradient g (Foret 2021, eq. 2): every step computes two
    gradients of the same minibatch. The loss that is recorded is the one at the row.
    """

    rho: float = 0.05
    gradients: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_above(self, 0, "rho")

    def perturb(self, gradient: Tensor) -> Tensor | None:
        """``rho * g / |g|``; nowhere for a gradient of zero."""
        norm = gradient.norm(dim=1, keepdim=True)
        shift: Tensor = gradient * (self.rho / norm.clamp(min=1e-12))
        return shift

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor, memory: Memory | None) -> None:
        """Leave the gradient as it is."""


@dataclass(frozen=True)
class Scaffold(Correction):
    """SCAFFOLD (Karimireddy 2020, Algorithm 1, option II).

    A client's memory is its control variate ``c_i``, the server's mean is ``c``. A local step follows
    ``g - c_i + c``; afterwards ``c_i`` becomes ``c_i - c + (x - y_i) / (K * lr)`` with the K steps that it took
    (line 12). ``c`` grows by the sum of the changes over the number of all clients (line 17). The control variates
    travel too: two rows each way.
    """

    remembers: ClassVar[bool] = True
    extra_down: ClassVar[int] = 1
    extra_up: ClassVar[int] = 1

    def check(self, client: ClientConfig) -> None:
        """Only for plain SGD is ``(x - y_i) / (K * lr)`` the mean of the gradients that the client saw."""
        o = client.optimizer
        plain = isinstance(o, SGD) and o.momentum == 0 and o.weight_decay == 0
        if not plain or client.clip_norm is not None:
            raise UserError(
                "aggregator/correction=scaffold: its control variates are means of gradients, which only plain steps "
                "give back; use client/optimizer=sgd without momentum, weight_decay and client.clip_norm"
            )

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor, memory: Memory | None) -> None:
        """Add ``c - c_i`` (line 10)."""
        assert memory is not None
        gradient.sub_(memory.own).add_(memory.mean)

    def remember(self, memory: Memory, deltas: Tensor, steps: Tensor, lr: float) -> Tensor:
        """Option II of line 12, with ``x - y_i = -delta``."""
        return memory.own - memory.mean - deltas / (steps[:, None].to(deltas) * lr)


@dataclass(frozen=True, kw_only=True)
class FedDyn(Correction):
    """FedDyn (Acar 2021, Algorithm 1): dynamic regularisation.

    A client's memory ``g_i`` is the gradient of its loss at its last local model. It minimises
    ``L_i(y) - <g_i, y> + alpha / 2 * ||y - x||^2`` and then keeps ``g_i - alpha * (y_i - x)``. The server's ``h`` is
    the mean of these rows over all clients; its model is the mean of the local ones minus ``h / alpha``.
    """

    alpha: float = 0.01
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_above(self, 0, "alpha")

    def correct(self, gradient: Tensor, rows: Tensor, anchors: Tensor, memory: Memory | None) -> None:
        """Add ``-g_i + alpha * (row - anchor)``."""
        assert memory is not None
        gradient.sub_(memory.own).add_(rows - anchors, alpha=self.alpha)

    def remember(self, memory: Memory, deltas: Tensor, steps: Tensor, lr: float) -> Tensor:
        """``g_i - alpha * delta``."""
        return memory.own - self.alpha * deltas

    def adjust(self, delta: Tensor, mean: Tensor) -> Tensor:
        """``delta - h / alpha``."""
        return delta - mean / self.alpha
