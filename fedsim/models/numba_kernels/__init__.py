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

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numba import types
from numba.core.registry import cpu_target

from fedsim.models.numba_kernels import (
    cifg,
    gru,
    lstm,
    product,
    rnn,
    scratch,
    softmax,
    table,
    threads,
    walk_backward,
    walk_forward,
)
from fedsim.models.numba_kernels.compiling import compiled_function, disk_cache
from fedsim.models.numba_kernels.pointers import VECTOR_BYTES, c_type
from fedsim.models.torch_kernels import Gradients, StateGradient, Weights

if TYPE_CHECKING:
    from torch import Tensor


class _Cell(NamedTuple):
    """A cell's two steps, and where its columns are (see `walk_forward`)."""

    step: Callable[..., None]
    step_back: Callable[..., None]
    gates: int
    saved_blocks: int
    x_first: int = 0
    roll: int = 0
    rest: int = 0


CELLS = {
    "rnn_tanh": _Cell(rnn.tanh_step, rnn.tanh_step_back, 1, 1),
    "rnn_relu": _Cell(rnn.relu_step, rnn.relu_step_back, 1, 1),
    "lstm": _Cell(lstm.step, lstm.step_back, 4, 5),
    "cifg": _Cell(cifg.step, cifg.step_back, 3, 4),
    "gru": _Cell(gru.step, gru.step_back, 3, 4, x_first=1, roll=2),
    "gru_reset_before": _Cell(gru.reset_before_step, gru.reset_before_step_back, 3, 3, rest=1),
}
_FORWARD_ROWS, _BACKWARD_ROWS = 128, 128
"""Rows (steps times samples) of a block of steps: enough to be worth fetching the weights again."""
_MOST_SAMPLES = 64
"""Most samples of an item: with more, what a step touches does not stay in the cache."""
_SMALL = 2_000_000
"""Multiply-adds below which waking other threads costs more than it saves."""
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
    codegen = cpu_target.target_context.codegen()
    for function, signature in _functions(cell, dtype):
        disk = disk_cache(function)
        if disk is None:
            return False
        try:
            if disk._index_key(signature, codegen) not in disk._cache_file._load_index():
                return False
        except Exception:  # unreadable, damaged, or another Numba inside
            return False
    return True


def cache_place() -> Path | None:
    """The folder of the kernels on disk, or None if there is none that can be written to."""
    disk = disk_cache(walk_forward.run_forward)
    return None if disk is None else Path(disk.cache_path)


def _functions(cell: str, dtype: torch.dtype) -> list[tuple[Callable[..., None], Any]]:
    """What has to be compiled, with signatures: the two walks, the matrix product, and the cell's steps."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"fused kernels are for float32 and float64, not {dtype}")
    pointer = types.CPointer(types.float32 if dtype == torch.float32 else types.float64)
    walk, step = c_type("p", pointer), c_type(table.STEP_KINDS, pointer)
    return [
        (walk_forward.run_forward, walk),
        (walk_backward.run_backward, walk),
        (product.multiply, c_type(product.MULTIPLY_KINDS, pointer)),
        (CELLS[cell].step, step),
        (CELLS[cell].step_back, step),
    ]


@cache
def _kernels(cell: str, dtype: torch.dtype) -> list[Any]:
    return [compiled_function(function, signature) for function, signature in _functions(cell, dtype)]


_Sizes: TypeAlias = tuple[tuple[int, ...], int, int | None]
"""The shape of the input, H, and the width of the projected state or None."""


def _sizes(cell: str, x: Tensor, weights: Weights) -> _Sizes:
    projection = None if weights.w_hr is None else weights.w_hr.shape[1]
    return tuple(x.shape), weights.w_ih.shape[1] // CELLS[cell].gates, projection


class _Plan:
    """What depends on a call's shapes alone: the table without addresses, and the layout of the scratch memory."""

    def __init__(self, cell: str, sizes: _Sizes, dtype: torch.dtype, most: int) -> None:
        (self.c, self.steps, self.b, self.d), hidden, projection = sizes
        self.hidden, self.dtype, self.projection = hidden, dtype, projection or 0
        self.state = projection or hidden
        self.size = dtype.itemsize
        self.lanes = VECTOR_BYTES // self.size
        layout = CELLS[cell]
        self.gates = layout.gates
        if not self.state <= hidden - bool(projection):
            raise ValueError(f"a projection to {projection} of {hidden} units")
        work = self.c * self.steps * self.b * (self.d + self.state) * self.gates * hidden
        self.shares = _shares(self.c, self.b, most)
        self.workers = min(most if work > _SMALL else 1, self.c * self.shares)
        self.share_samples = -(-self.b // self.shares)
        self.kernels = _kernels(cell, dtype)
        self.saved_ld = self.padded(layout.saved_blocks * hidden)
        self.state_ld = -(-hidden // self.lanes) * self.lanes
        self.scratch_end = 0
        rows = self.gates * hidden
        self.weight_shapes = (
            (self.c, rows, self.d),
            (self.c, rows, self.state),
            (self.c, rows),
            (self.c, rows),
            (self.c, self.projection, hidden),
        )
        t = self.values = np.zeros(table.TABLE_SIZE, np.int64)
        t[table.ITEMS] = self.c * self.shares
        t[table.STEPS], t[table.SAMPLES], t[table.INPUTS], t[table.HIDDEN] = self.steps, self.b, self.d, hidden
        t[table.STATE] = self.state
        t[table.GATES], t[table.X_FIRST], t[table.ROLL] = self.gates, layout.x_first, layout.roll
        t[table.SPLIT] = self.gates - layout.rest
        t[table.MULTIPLY] = self.kernels[2].address
        t[table.SHARES] = self.shares
        t[table.SAVED_LD], t[table.STATE_LD] = self.saved_ld, self.state_ld

    def padded(self, count: int) -> int:
        """Room for `count` numbers and a vector beyond, an odd number of vectors, so that rows differ in cache set."""
        vectors = -(-count // self.lanes) + 1
        return (vectors | 1) * self.lanes

    def region(self, place: int, count: int) -> None:
        """Reserve `count` numbers of every worker's scratch memory."""
        self.values[place] = self.scratch_end
        self.scratch_end += -(-count * self.size // 64) * (64 // self.size) + 64 // self.size

    def blocks(self, rows: int) -> int:
        """Reserve what both directions need; return the most rows of a block of steps."""
        block = min(self.steps, max(1, rows // self.share_samples))
        self.values[table.BLOCK] = block
        self.region(table.AT_PLAN, (self.steps + 1 + self.share_samples) * 8 // self.size)
        self.region(table.AT_X, block * self.share_samples * self.d)
        self.region(table.AT_H, self.share_samples * self.state_ld)
        self.region(table.AT_WORK, self.share_samples * self.state_ld)
        self.region(table.AT_UNITS, self.share_samples * self.state_ld if self.projection else 0)
        return block * self.share_samples

    def finish(self, which: int) -> _Plan:
        """Fix the direction, forward (0) or backward (1), and the size of the scratch memory."""
        self.kernel = self.kernels[which]
        stride = -(-self.scratch_end * self.size // 4096) * (4096 // self.size) + 64 // self.size
        self.values[table.STEP] = self.kernels[3 + which].address
        self.values[table.SCRATCH_STRIDE] = stride
        self.scratch_bytes = self.workers * stride * self.size
        return self


@lru_cache(maxsize=256)
def _plan_forward(cell: str, sizes: _Sizes, dtype: torch.dtype, most: int, keep: bool) -> _Plan:
    plan = _Plan(cell, sizes, dtype, most)
    rows = plan.blocks(_FORWARD_ROWS)
    plan.values[table.KEEP] = keep
    plan.region(table.AT_SAVED, 0 if keep else 2 * rows * plan.saved_ld)
    wide = plan.gates * plan.hidden + 4 * plan.lanes
    plan.region(table.AT_CELL, plan.saved_ld)
    plan.region(table.AT_BIAS, plan.saved_ld)
    plan.region(table.AT_PACKED_IH, plan.d * wide)
    plan.region(table.AT_PACKED_HH, plan.state * wide)
    plan.region(table.AT_PACKED_HR, plan.hidden * (plan.projection + 4 * plan.lanes) if plan.projection else 0)
    return plan.finish(0)


@lru_cache(maxsize=256)
def _plan_backward(cell: str, sizes: _Sizes, dtype: torch.dtype, most: int) -> _Plan:
    plan = _Plan(cell, sizes, dtype, most)
    hidden, state, projection = plan.hidden, plan.state, plan.projection
    rows, rows_g = plan.blocks(_BACKWARD_ROWS), plan.gates * hidden
    gates_ld = plan.values[table.GATES_LD] = plan.padded(max(4, plan.gates) * hidden)
    d_x_ld = plan.values[table.D_X_LD] = plan.padded(plan.d)
    plan.region(table.AT_CELL, plan.share_samples * plan.state_ld)
    plan.region(table.AT_BIAS, gates_ld + 1 + max(plan.saved_ld, d_x_ld))
    plan.region(table.AT_PACKED_IH, rows_g * (plan.d + 4 * plan.lanes))
    ld_hh = plan.values[table.D_HH_LD] = -(-state // plan.lanes) * plan.lanes
    plan.region(table.AT_PACKED_HH, rows_g * (state + 4 * plan.lanes))
    plan.region(table.AT_PACKED_HR, projection * (hidden + 4 * plan.lanes))
    plan.region(table.AT_PREVIOUS, rows * plan.state_ld)
    plan.region(table.AT_EXTRA, rows * plan.state_ld)
    plan.region(table.AT_GATES, rows * gates_ld)
    plan.region(table.AT_D_IH, plan.d * gates_ld)
    plan.region(table.AT_D_HH, rows_g * ld_hh)
    plan.region(table.AT_D_HR, projection * plan.state_ld)
    plan.region(table.AT_D_STATES, rows * ld_hh if projection else 0)
    plan.region(table.AT_D_X, rows * d_x_ld)
    return plan.finish(1)


class _Call:
    """A plan with the addresses of one call in its table."""

    def __init__(self, plan: _Plan, x: Tensor, weights: Weights) -> None:
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


def _shares(c: int, b: int, count: int) -> int:
    """Items to cut each client's samples into so that no thread idles for long; none has fewer than four samples."""
    shares = -(-b // _MOST_SAMPLES)
    while b // (shares + 1) >= 4:
        items = c * shares
        if -(-items // count) * count <= 1.15 * items:
            break
        shares += 1
    return shares


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
    plan = _plan_forward(cell, _sizes(cell, x, weights), x.dtype, most_threads(), keep)
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
    plan = _plan_backward(cell, _sizes(cell, x, weights), x.dtype, most_threads())
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
    sums = [None if value is None else value.view(c, -1, *value.shape[1:]).sum(1) for value in d_weights]
    for target, value in zip(into or (), sums, strict=False):
        if target is not None and value is not None:
            target.copy_(value)
    return into or Weights(*sums)  # type: ignore[arg-type]  # the first two are never None


def head_fits(width: int, tokens: int, dtype: torch.dtype) -> bool:
    """Whether `head_loss` takes a head of `tokens` outputs from `width` numbers."""
    return softmax.fits(width, tokens, dtype)


def head_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    shares: Tensor,
    into: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """See `softmax.loss_and_gradient`."""
    return softmax.loss_and_gradient(features, weight, bias, targets, shares, most_threads(), into)
