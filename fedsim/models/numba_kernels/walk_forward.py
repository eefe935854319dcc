"""The walk over a client's steps that all cells share, around the cell's own step.

A *work item* is one client, or a share of one client's samples. Its samples are ordered by descending length, so
those still running at a step are the first ``active[t]`` of them, and their rows of all steps are contiguous:
padded steps cost nothing. The weights are packed once per item, and what the steps touch again and again stays in the
core's cache: the products with the input are made for a block of steps at a time, and so are the weight gradients,
while the block's gate gradients are still there. Without a backward pass (``KEEP`` is 0), ``saved`` is room for two
blocks of steps, which stays in the cache as well.

Columns are counted in blocks of H. A row of ``saved`` holds what the cell's step leaves there: first the
pre-activations (products and biases), then, in the same place, the gates. The products with the state start at column
0, those with the input at block ``X_FIRST``. The GRU needs the two apart for its candidate only: there they overlap
in r and z, and the rows of the state's weights are rolled by ``ROLL`` blocks, so that both remain one product. A cell
whose last blocks take another left factor (the GRU of Cho 2014) gets them packed apart, from block ``SPLIT`` on.

The state has ``STATE`` numbers, H of them unless ``W_HR`` projects an LSTM's units to fewer. That product is the walk's
own: after the cell's step forwards, before it backwards.

A cell's step is a C function, the same for both directions (the forward step has no use for most gradients)::

    step(saved, ld, previous, previous_ld, h, extra, d_h, d_cell, ldh, work, units, d_gates, ldg, m, hidden, state,
         w, w_rest, multiply)

    saved [m, ld]              this step's rows; forward turns pre-activations into gates
    previous [m, previous_ld]  the rows of the step before (a row of zeros with stride 0 before the first)
    h [m, ldh]                 the state: forward replaces the old by the new one, backward reads the old one
    extra [m, ldh]             backward: what the blocks from ``SPLIT`` on were multiplied with, or the projection
    d_h, d_cell [m, ldh]       backward: gradients of the state after the step, replaced by those of the one before
    work [m, ldh]              scratch
    units [m, ldh]             an LSTM's H units, which are the state, unless it is a projection of them: forward
                               writes them, backward replaces their gradient by zeros
    d_gates [m, ldg]           backward: gradients of the pre-activations, in the columns that `saved` had for them
    hidden, state              H, and the width of the state: less than H where it is a projection
    w, w_rest                  the state's packed weights
    multiply                   the address of `product.multiply`
"""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.items import add, first_row, plan, take_step
from fedsim.models.numba_kernels.pointers import advance, as_table, at_address, clear, copy, njit, take_ticket
from fedsim.models.numba_kernels.product import pack_transposed, product
from fedsim.models.numba_kernels.table import (
    AT_BIAS,
    AT_CELL,
    AT_H,
    AT_PACKED_HH,
    AT_PACKED_HR,
    AT_PACKED_IH,
    AT_PLAN,
    AT_SAVED,
    AT_UNITS,
    AT_WORK,
    AT_X,
    B_HH,
    B_HH_STRIDE,
    B_IH,
    B_IH_STRIDE,
    BLOCK,
    GATES,
    HIDDEN,
    INPUTS,
    ITEM,
    ITEMS,
    KEEP,
    MULTIPLY,
    ROLL,
    SAMPLES,
    SAVED,
    SAVED_LD,
    SCRATCH,
    SCRATCH_STRIDE,
    SHARES,
    SPLIT,
    STATE,
    STATE_LD,
    STATES,
    STEP,
    STEPS,
    W_HH,
    W_HH_STRIDE,
    W_HR,
    W_HR_STRIDE,
    W_IH,
    W_IH_STRIDE,
    WORKER,
    X_FIRST,
    X_STRIDE,
    X,
)


def run_forward(data: Any) -> None:
    """Process items until none is left; `data` is the table, typed as a pointer to the numbers' type."""
    table = as_table(data)
    worker = take_ticket(advance(table, WORKER))
    scratch = advance(at_address(data, table[SCRATCH]), worker * table[SCRATCH_STRIDE])
    while True:
        item = take_ticket(advance(table, ITEM))
        if item >= table[ITEMS]:
            return
        _forward_item(data, scratch, item)


@njit
def _forward_item(data: Any, scratch: Any, item: int) -> None:
    table = as_table(data)
    gates, x_first, roll, split = table[GATES], table[X_FIRST], table[ROLL], table[SPLIT]
    step, multiply = table[STEP], table[MULTIPLY]
    steps, b, d, hidden = table[STEPS], table[SAMPLES], table[INPUTS], table[HIDDEN]
    ld, ldh, rows_g, state = table[SAVED_LD], table[STATE_LD], gates * hidden, table[STATE]
    client, share = item // table[SHARES], item % table[SHARES]
    active = as_table(advance(scratch, table[AT_PLAN]))
    order = advance(active, steps + 1)
    m0 = plan(table, client, share, order, active)

    packed_ih = advance(scratch, table[AT_PACKED_IH])
    w_ih = advance(at_address(data, table[W_IH]), client * table[W_IH_STRIDE])
    pack_transposed(packed_ih, w_ih, 0, rows_g, d, 0, rows_g)
    packed_hh = advance(scratch, table[AT_PACKED_HH])
    w_hh = advance(at_address(data, table[W_HH]), client * table[W_HH_STRIDE])
    size = pack_transposed(packed_hh, w_hh, 0, split * hidden, state, roll * hidden, rows_g)
    packed_rest = advance(packed_hh, size)
    if split < gates:
        pack_transposed(packed_rest, w_hh, split * hidden, rows_g - split * hidden, state, 0, rows_g)
    packed_hr = advance(scratch, table[AT_PACKED_HR])
    if table[W_HR] != 0:
        w_hr = advance(at_address(data, table[W_HR]), client * table[W_HR_STRIDE])
        pack_transposed(packed_hr, w_hr, 0, state, hidden, 0, state)
    bias = advance(scratch, table[AT_BIAS])  # what a row of pre-activations starts from
    clear(bias, ld)
    if table[B_IH] != 0:
        b_ih = advance(at_address(data, table[B_IH]), client * table[B_IH_STRIDE])
        copy(advance(bias, x_first * hidden), b_ih, rows_g)
        b_hh = advance(at_address(data, table[B_HH]), client * table[B_HH_STRIDE])
        add((bias, advance(b_hh, roll * hidden)), rows_g - roll * hidden)
        add((advance(bias, rows_g - roll * hidden), b_hh), roll * hidden)

    x = advance(at_address(data, table[X]), client * table[X_STRIDE])
    states = advance(at_address(data, table[STATES]), client * (steps + 1) * b * state)
    saved = advance(at_address(data, table[SAVED]), first_row(table, client, share) * ld)
    halves = advance(scratch, table[AT_SAVED])  # of two blocks: a step still reads the rows of the step before
    h, work = advance(scratch, table[AT_H]), advance(scratch, table[AT_WORK])
    units = h if table[W_HR] == 0 else advance(scratch, table[AT_UNITS])
    rows_x = advance(scratch, table[AT_X])
    zeros = advance(scratch, table[AT_CELL])
    clear(zeros, ld)
    previous, previous_ld = zeros, 0  # one row for every sample
    clear(h, m0 * ldh)
    for i in range(m0):
        clear(advance(states, order[i] * state), state)
    for first in range(0, steps, table[BLOCK]):
        last = min(first + table[BLOCK], steps)
        if table[KEEP] == 0:
            saved = advance(halves, first // table[BLOCK] % 2 * table[BLOCK] * m0 * ld)
        rows = 0
        for t in range(first, last):
            for i in range(active[t]):
                copy(advance(rows_x, rows * d), advance(x, (t * b + order[i]) * d), d)
                if x_first > 0:
                    copy(advance(saved, rows * ld), bias, x_first * hidden)
                rows += 1
        if rows > 0:
            product(
                multiply,
                (
                    advance(saved, x_first * hidden),
                    ld,
                    advance(bias, x_first * hidden),
                    0,
                    rows_x,
                    d,
                    1,
                    packed_ih,
                    0,
                    rows,
                    rows_g,
                    d,
                ),
            )
        for t in range(first, last):
            m = active[t]
            if m > 0:
                take_step(
                    step,
                    (
                        saved,
                        ld,
                        previous,
                        previous_ld,
                        h,
                        h,
                        h,
                        h,
                        ldh,
                        work,
                        units,
                        h,
                        ldh,
                        m,
                        hidden,
                        state,
                        packed_hh,
                        packed_rest,
                        multiply,
                    ),
                )
                if table[W_HR] != 0:
                    product(multiply, (h, ldh, zeros, 0, units, ldh, 1, packed_hr, 0, m, state, hidden))
            out = advance(states, (t + 1) * b * state)
            for i in range(m):
                copy(advance(out, order[i] * state), advance(h, i * ldh), state)
            for i in range(m, m0):
                clear(advance(out, order[i] * state), state)
            previous, previous_ld = saved, ld
            saved = advance(saved, m * ld)
