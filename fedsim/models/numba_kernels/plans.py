"""What depends on a call's shapes alone: its kernels, their table without addresses, and the scratch memory."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from fedsim.models.numba_kernels import table
from fedsim.models.numba_kernels.kernels import Kernel, kernel
from fedsim.models.numba_kernels.machine import VECTOR_BYTES
from fedsim.models.torch_kernels import Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Cell(NamedTuple):
    """A cell's module and its two steps in it, and where its columns are (see `walk_forward`)."""

    module: str
    step: str
    step_back: str
    gates: int
    saved_blocks: int
    x_first: int = 0
    roll: int = 0
    rest: int = 0


CELLS = {
    "rnn_tanh": _Cell("rnn", "tanh_step", "tanh_step_back", 1, 1),
    "rnn_relu": _Cell("rnn", "relu_step", "relu_step_back", 1, 1),
    "lstm": _Cell("lstm", "step", "step_back", 4, 5),
    "cifg": _Cell("cifg", "step", "step_back", 3, 4),
    "gru": _Cell("gru", "step", "step_back", 3, 4, x_first=1, roll=2),
    "gru_reset_before": _Cell("gru", "reset_before_step", "reset_before_step_back", 3, 3, rest=1),
}
_FORWARD_ROWS, _BACKWARD_ROWS, _MANY_ROWS = 128, 128, 320
"""Rows (steps times samples) of a block of steps: enough to be worth fetching the weights again, or their gradients,
of which more than `_LARGE` do not stay in the core's own cache."""
_LARGE = 500_000
_MOST_SAMPLES = 64
"""Most samples of an item: with more, what a step touches does not stay in the cache."""
_SMALL = 2_000_000
"""Multiply-adds below which waking other threads costs more than it saves."""


def functions(cell: str) -> list[tuple[str, str, str]]:
    """What has to be compiled, by module, name and arguments: the two walks, the matrix product, the cell's steps."""
    module, step, step_back, *_ = CELLS[cell]
    return [
        ("walk_forward", "run_forward", table.WALK_KINDS),
        ("walk_backward", "run_backward", table.WALK_KINDS),
        ("product", "multiply", table.MULTIPLY_KINDS),
        (module, step, table.STEP_KINDS),
        (module, step_back, table.STEP_KINDS),
    ]


@cache
def _kernels(cell: str, dtype: torch.dtype) -> list[Kernel]:
    return [kernel(*function, dtype) for function in functions(cell)]


Sizes: TypeAlias = tuple[tuple[int, ...], int, int | None]
"""The shape of the input, H, and the width of the projected state or None."""


def sizes_of(cell: str, x: Tensor, weights: Weights) -> Sizes:
    """The sizes that a call's tensors have."""
    projection = None if weights.w_hr is None else weights.w_hr.shape[1]
    return tuple(x.shape), weights.w_ih.shape[1] // CELLS[cell].gates, projection


class Plan:
    """What depends on a call's shapes alone: the table without addresses, and the layout of the scratch memory."""

    def __init__(self, cell: str, sizes: Sizes, dtype: torch.dtype, most: int) -> None:
        (self.c, self.steps, self.b, self.d), hidden, projection = sizes
        self.hidden, self.dtype, self.projection = hidden, dtype, projection or 0
        self.state = projection or hidden
        self.size = dtype.itemsize
        self.lanes = VECTOR_BYTES // self.size
        layout = CELLS[cell]
        self.gates = layout.gates
        if projection is not None and projection >= hidden:
            raise ValueError(f"expected fewer than the {hidden} units after a projection, not {projection}")
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

    def finish(self, which: int) -> Plan:
        """Fix the direction, forward (0) or backward (1), and the size of the scratch memory."""
        self.kernel = self.kernels[which]
        stride = -(-self.scratch_end * self.size // 4096) * (4096 // self.size) + 64 // self.size
        self.values[table.STEP] = self.kernels[3 + which].address
        self.values[table.SCRATCH_STRIDE] = stride
        self.scratch_bytes = self.workers * stride * self.size
        return self


@lru_cache(maxsize=256)
def forward_plan(cell: str, sizes: Sizes, dtype: torch.dtype, most: int, keep: bool) -> Plan:
    """The plan of a forward pass on at most so many threads; `keep` as in `fedsim.models.numba_kernels.forward`."""
    plan = Plan(cell, sizes, dtype, most)
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
def backward_plan(cell: str, sizes: Sizes, dtype: torch.dtype, most: int) -> Plan:
    """The plan of a backward pass."""
    plan = Plan(cell, sizes, dtype, most)
    hidden, state, projection = plan.hidden, plan.state, plan.projection
    rows_g = plan.gates * hidden
    rows = plan.blocks(_MANY_ROWS if rows_g * state > _LARGE else _BACKWARD_ROWS)
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


def _shares(c: int, b: int, count: int) -> int:
    """Items to cut each client's samples into so that no thread idles for long; none has fewer than four samples."""
    shares = -(-b // _MOST_SAMPLES)
    while b // (shares + 1) >= 4:
        items = c * shares
        if -(-items // count) * count <= 1.15 * items:
            break
        shares += 1
    return shares
