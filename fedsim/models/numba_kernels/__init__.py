"""Fused recurrent layers for CPUs: the functions of `torch_kernels`, a client at a time in the core's cache.

Every thread takes a client, packs its weights once, and runs all steps, gates and gradients while they are in its
cache: `walk_forward` and `walk_backward`. They call the cell's step (`rnn`, `lstm`, ...) and the matrix product
(`product`) through addresses, so that each is compiled once for a dtype: seconds for the first cell, less for others.
The result is kept on disk.

The same bits come out from run to run: which thread takes which item is left to chance, but each item is computed in
a fixed order, and how clients are cut into items depends on shapes and the number of threads only. Call these
functions from one thread of Python at a time: they share scratch memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedsim.caches import place_for_kernels
from fedsim.models.numba_kernels import head, machine_code, optimizers, scratch, table, threads
from fedsim.models.numba_kernels.kernels import name_of
from fedsim.models.numba_kernels.plans import CELLS as CELLS  # for those who ask which there are
from fedsim.models.numba_kernels.plans import Plan, backward_plan, forward_plan, functions, sizes_of
from fedsim.models.torch_kernels import Gradients, StateGradient, Weights

if TYPE_CHECKING:
    from torch import Tensor

_threads = 0


def set_threads(n: int) -> None:
    """Use `n` threads from now on (until then as many as torch does)."""
    global _threads
    _threads = n


def most_threads() -> int:
    """How many threads a call may take."""
    return _threads or torch.get_num_threads()


def compiled(cell: str, dtype: torch.dtype) -> bool:
    """Whether the kernels of a cell and dtype are on disk, so that the first call need not compile."""
    files = [machine_code.file_of(name_of(module, function, dtype)) for module, function, _ in functions(cell)]
    return all(file is not None and file.exists() for file in files)


def cache_place() -> Path | None:
    """The folder of the kernels on disk, or None if there is none that can be written to."""
    return place_for_kernels(Path(__file__).parent)


class _Call:
    """A plan with the addresses of one call in its table."""

    def __init__(self, plan: Plan, x: Tensor, weights: Weights) -> None:
        self.plan = plan
        self.held: list[Any] = []
        t = self.values = plan.values.copy()
        if x.stride()[1:] != (plan.b * plan.d, plan.d, 1):
            x = self.keep(x.contiguous())
        t[table.X], t[table.X_STRIDE] = x.data_ptr(), x.stride(0)
        places = (table.W_IH, table.W_HH, table.B_IH, table.B_HH, table.W_HR)
        for place, value, shape in zip(places, weights, plan.weight_shapes, strict=True):
            if value is not None:
                self.check(value, shape)
                if not value[0].is_contiguous():
                    value = self.keep(value.contiguous())
                t[place], t[place + 1] = value.data_ptr(), value.stride(0)

    def keep(self, tensor: Tensor) -> Tensor:
        """Keep a temporary copy until the call is over."""
        self.held.append(tensor)
        return tensor

    def check(self, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
        """Refuse a wrong shape: the kernels see addresses only and would read or write elsewhere."""
        expected = dtype or self.plan.dtype
        if tensor.shape != shape or tensor.dtype != expected or tensor.device.type != "cpu":
            raise ValueError(
                f"expected {list(shape)} {expected} on the CPU, not {list(tensor.shape)} {tensor.dtype} "
                f"on {tensor.device}"
            )

    def address(self, tensor: Tensor, *shape: int, dtype: torch.dtype | None = None) -> int:
        """The address of a tensor, or of a contiguous copy."""
        self.check(tensor, shape, dtype)
        return self.keep(tensor.contiguous()).data_ptr()

    def run(self) -> None:
        """Give every worker its scratch memory and start the walk."""
        self.values[table.SCRATCH] = scratch.memory(self.plan.scratch_bytes)
        threads.run(self.plan.kernel, self.values.ctypes.data, self.plan.workers)


def forward(
    cell: str, x: Tensor, weights: Weights, lengths: Tensor | None = None, keep: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Run one layer over all steps.

    Args:
        cell: ``rnn_tanh, rnn_relu, lstm, cifg, gru`` or ``gru_reset_before``.
        x: ``[C, T, b, D]``.
        weights: the layer's parameters.
        lengths: ``[C, b]`` int64; if given, steps beyond a sample's length are skipped: its states there are zero, and
            so is the gradient of its inputs, whatever the gradient of those states.
        keep: whether a backward pass follows.

    Returns:
        states ``[C, T + 1, b, S]`` (``states[:, 0]`` is zero, ``states[:, 1:]`` the outputs) and what `backward` needs.
    """
    plan = forward_plan(cell, sizes_of(cell, x, weights), x.dtype, most_threads(), keep)
    call, c, steps, b = _Call(plan, x, weights), plan.c, plan.steps, plan.b
    states = x.new_empty((c, steps + 1, b, plan.state))
    saved = x.new_empty((c * b * steps if keep else 0, plan.saved_ld))
    t = call.values
    t[table.STATES], t[table.SAVED] = states.data_ptr(), saved.data_ptr()
    if lengths is not None:
        t[table.LENGTHS] = call.address(lengths, c, b, dtype=torch.int64)
    call.run()
    return states, [saved] if lengths is None else [saved, lengths]


def backward(
    cell: str,
    x: Tensor,
    weights: Weights,
    states: Tensor,
    saved: list[Tensor],
    gradient: StateGradient,
    need_x: bool,
    into: Weights | None = None,
) -> Gradients:
    """Back-propagate through one layer's steps.

    Args:
        cell: as in `forward`.
        x: the layer's input ``[C, T, b, D]``.
        weights: the layer's parameters.
        states: from `forward`.
        saved: from `forward`.
        gradient: of the loss with respect to the states.
        need_x: whether the gradient of `x` is wanted.
        into: where to write the gradients of the weights, instead of new tensors; every client's part contiguous.
    """
    plan = backward_plan(cell, sizes_of(cell, x, weights), x.dtype, most_threads())
    call, c, steps, b, state = _Call(plan, x, weights), plan.c, plan.steps, plan.b, plan.state
    t = call.values
    t[table.STATES], t[table.SAVED] = states.data_ptr(), saved[0].data_ptr()
    if len(saved) > 1:
        t[table.LENGTHS] = call.address(saved[1], c, b, dtype=torch.int64)
    if gradient.every is not None:
        t[table.EVERY] = call.address(gradient.every, c, steps, b, state)
    if gradient.last is not None:
        t[table.LAST] = call.address(gradient.last, c, b, state)
        t[table.LAST_LENGTHS] = call.address(gradient.lengths, c, b, dtype=torch.int64)
    d_weights = into if into is not None and plan.shares == 1 else _per_item(weights, c * plan.shares)
    places = (table.D_W_IH, table.D_W_HH, table.D_B_IH, table.D_B_HH, table.D_W_HR)
    for place, value in zip(places, d_weights, strict=True):
        if value is not None:
            t[place], t[place + 1] = value.data_ptr(), value.stride(0)
    d_x = None
    if need_x:
        d_x = x.new_empty((c, steps, b, plan.d))
        t[table.D_X] = d_x.data_ptr()
    call.run()
    if plan.shares > 1:
        d_weights = _sum_shares(d_weights, c, into)
    return Gradients(d_x, d_weights)


def _per_item(weights: Weights, items: int) -> Weights:
    """New tensors of the shapes of `weights`, with a row for every item instead of every client."""
    new = (None if value is None else value.new_empty((items, *value.shape[1:])) for value in weights)
    return Weights(*new)  # type: ignore[arg-type]  # the first two are never None


def _sum_shares(d_weights: Weights, c: int, into: Weights | None) -> Weights:
    """Add up the gradients of each client's items in their order, ``[C * shares, ...] -> [C, ...]``."""
    target = into or _per_item(d_weights, c)
    for value, total in zip(d_weights, target, strict=True):
        if value is not None and total is not None:
            shares = value.view(c, -1, *value.shape[1:])
            if shares.shape[1] == 2:  # the usual case, and half the time of a sum
                torch.add(shares[:, 0], shares[:, 1], out=total)
            else:
                torch.sum(shares, 1, out=total)
    return target


def head_fits(width: int, dtype: torch.dtype) -> bool:
    """Whether `head_loss` takes a head of outputs from `width` numbers."""
    return head.fits(width, dtype)


def scores_fit(width: int, tokens: int, dtype: torch.dtype) -> bool:
    """Whether `head_scores` takes a head of `tokens` outputs from `width` numbers, and is worth compiling for it."""
    return head.fits(width, dtype) and tokens >= head.FEWEST_SCORED


def head_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    shares: Tensor,
    into: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """See `head.loss_and_gradient`."""
    return head.loss_and_gradient(features, weight, bias, targets, shares, most_threads(), into)


def head_scores(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `head.scores`."""
    return head.scores(features, weight, bias, targets, most_threads())


def adam_step(
    moments: tuple[Tensor, Tensor, Tensor, Tensor], scales: Tensor, numbers: tuple[float, float, float, float]
) -> None:
    """See `optimizers.adam`."""
    optimizers.adam(moments, scales, numbers, most_threads())
