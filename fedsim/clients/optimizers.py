"""Local optimizers, acting on the rows of many clients at once.

Each is a configuration with three functions: `state`, the initial state; `step`, on rows, in place; and `reference`,
the equivalent `torch.optim` class and its arguments for a single client. State tensors have one row per client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

import torch

from fedsim.errors import FieldError, check_above, check_at_least, check_between

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor

OptimizerState: TypeAlias = "dict[str, Tensor]"
"""Named optimizer state: ``[C, P]`` per parameter, or ``[C, 1]`` per client."""


@runtime_checkable
class LocalOptimizer(Protocol):
    """The interface of a local optimizer."""

    @property
    def lr(self) -> float:
        """The learning rate of round 1."""
        ...

    def state(self, rows: Tensor) -> OptimizerState:
        """Return fresh state for rows ``[C, P]``."""
        ...

    def step(self, rows: Tensor, gradient: Tensor, state: OptimizerState, lr: float) -> None:
        """Take one step in place, for ``[A, P]`` rows and gradients and A rows of state; may overwrite `gradient`."""
        ...

    def reference(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        """The `torch.optim` class that does the same for one model, and its arguments except ``lr``."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, as `torch.optim.SGD` without dampening."""

    lr: float = 0.3
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_above(self, 0, "lr")
        check_between(self, 0, 1, "momentum", open_high=True)
        check_at_least(self, 0, "weight_decay")
        if self.nesterov and self.momentum == 0:
            raise FieldError("nesterov", self.nesterov, "needs momentum greater than 0")

    def state(self, rows: Tensor) -> OptimizerState:
        """A momentum buffer of zeros, or nothing without momentum."""
        return {"momentum": torch.zeros_like(rows)} if self.momentum else {}

    def step(self, rows: Tensor, gradient: Tensor, state: OptimizerState, lr: float) -> None:
        """``v = momentum * v + g``; ``row -= lr * v`` (with Nesterov: ``g + momentum * v``)."""
        if self.weight_decay:
            gradient.add_(rows, alpha=self.weight_decay)
        if self.momentum:
            buffer = state["momentum"].mul_(self.momentum).add_(gradient)
            gradient = gradient.add_(buffer, alpha=self.momentum) if self.nesterov else buffer
        rows.add_(gradient, alpha=-lr)

    def reference(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        """`torch.optim.SGD`."""
        return torch.optim.SGD, {
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "nesterov": self.nesterov,
        }


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, Algorithm 1) and L2 weight decay, as `torch.optim.Adam`."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_above(self, 0, "lr", "eps")
        check_between(self, 0, 1, "beta1", "beta2", open_high=True)
        check_at_least(self, 0, "weight_decay")

    def state(self, rows: Tensor) -> OptimizerState:
        """First and second moment ``[C, P]`` and the number of steps taken ``[C, 1]``."""
        steps = torch.zeros(len(rows), 1, dtype=rows.dtype, device=rows.device)
        return {"mean": torch.zeros_like(rows), "square": torch.zeros_like(rows), "steps": steps}

    def _decay(self, rows: Tensor, gradient: Tensor, lr: float) -> None:
        if self.weight_decay:
            gradient.add_(rows, alpha=self.weight_decay)

    def step(self, rows: Tensor, gradient: Tensor, state: OptimizerState, lr: float) -> None:
        """Algorithm 1; each row has its own step count, since clients take different numbers of steps."""
        self._decay(rows, gradient, lr)
        correction1, correction2 = self._corrections(state)
        mean = state["mean"].lerp_(gradient, 1 - self.beta1)
        square = state["square"].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        correction1, correction2 = correction1.to(rows.dtype), correction2.to(rows.dtype)
        denominator = torch.sqrt(square, out=gradient).div_(correction2).add_(self.eps).mul_(correction1)
        rows.addcdiv_(mean, denominator, value=-lr)

    def step_by(self, kernels: ModuleType, rows: Tensor, gradient: Tensor, state: OptimizerState, lr: float) -> None:
        """The same by the kernels, in one pass."""
        self._decay(rows, gradient, lr)
        correction1, correction2 = self._corrections(state)
        scales = torch.cat([lr / correction1, correction2], dim=1).to(rows.dtype)
        numbers = (1 - self.beta1, self.beta2, 1 - self.beta2, self.eps)
        kernels.adam_step((rows, gradient, state["mean"], state["square"]), scales, numbers)

    def _corrections(self, state: OptimizerState) -> tuple[Tensor, Tensor]:
        """Count the step; return the bias of the first moment and the root of the second one's, ``[C, 1]``.

        In float64: with a float32 ``beta2**steps``, the first steps would lose several digits.
        """
        steps = state["steps"].add_(1).double()
        return 1 - self.beta1**steps, (1 - self.beta2**steps).sqrt()

    def _reference_arguments(self) -> dict[str, Any]:
        return {"betas": (self.beta1, self.beta2), "eps": self.eps, "weight_decay": self.weight_decay}

    def reference(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        """`torch.optim.Adam`."""
        return torch.optim.Adam, self._reference_arguments()


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as `torch.optim.AdamW`."""

    weight_decay: float = 0.01

    def _decay(self, rows: Tensor, gradient: Tensor, lr: float) -> None:
        rows.mul_(1 - lr * self.weight_decay)

    def reference(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        """`torch.optim.AdamW`."""
        return torch.optim.AdamW, self._reference_arguments()


def step_of(optimizer: LocalOptimizer, kernels: ModuleType) -> Callable[[Tensor, Tensor, OptimizerState, float], None]:
    """An optimizer's `step`, by the kernels where they have one for it."""
    if type(optimizer) in (Adam, AdamW) and hasattr(kernels, "adam_step"):  # not what inherits: its step may be its own
        return partial(cast("Adam", optimizer).step_by, kernels)
    return optimizer.step
