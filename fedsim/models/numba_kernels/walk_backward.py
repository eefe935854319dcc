"""The walk back over a client's steps; see `walk_forward`."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.items import add, first_row, plan, take_step
from fedsim.models.numba_kernels.pointers import advance, as_table, at_address, clear, copy, njit, prefetch, take_ticket
from fedsim.models.numba_kernels.product import pack, product, transpose
from fedsim.models.numba_kernels.table import (
    AT_BIAS,
    AT_CELL,
    AT_D_HH,
    AT_D_HR,
    AT_D_IH,
    AT_D_STATES,
    AT_D_X,
    AT_EXTRA,
    AT_GATES,
    AT_H,
    AT_PACKED_HH,
    AT_PACKED_HR,
    AT_PACKED_IH,
    AT_PLAN,
    AT_PREVIOUS,
    AT_UNITS,
    AT_WORK,
    AT_X,
    B_IH,
    BLOCK,
    D_B_HH,
    D_B_HH_STRIDE,
    D_B_IH,
    D_B_IH_STRIDE,
    D_HH_LD,
    D_W_HH,
    D_W_HH_STRIDE,
    D_W_HR,
    D_W_HR_STRIDE,
    D_W_IH,
    D_W_IH_STRIDE,
    D_X,
    D_X_LD,
    EVERY,
    GATES,
    GATES_LD,
    HIDDEN,
    INPUTS,
    ITEM,
    ITEMS,
    LAST,
    LAST_LENGTHS,
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


def run_backward(data: Any) -> None:
    """Process items until none is left; `data` as in `run_forward`."""
    table = as_table(data)
    worker = take_ticket(advance(table, WORKER))
    scratch = advance(at_address(data, table[SCRATCH]), worker * table[SCRATCH_STRIDE])
    while True:
        item = take_ticket(advance(table, ITEM))
        if item >= table[ITEMS]:
            return
        _backward_item(data, scratch, item)


@njit
def _backward_item(data: Any, scratch: Any, item: int) -> None:
    table = as_table(data)
    gates, x_first, roll, split = table[GATES], table[X_FIRST], table[ROLL], table[SPLIT]
    step, multiply = table[STEP], table[MULTIPLY]
    steps, b, d, hidden = table[STEPS], table[SAMPLES], table[INPUTS], table[HIDDEN]
    ld, ldh, ldg, rows_g = table[SAVED_LD], table[STATE_LD], table[GATES_LD], gates * hidden
    state, ld_hh = table[STATE], table[D_HH_LD]
    client, share = item // table[SHARES], item % table[SHARES]
    active = as_table(advance(scratch, table[AT_PLAN]))
    order = advance(active, steps + 1)
    m0 = plan(table, client, share, order, active)

    packed_ih = advance(scratch, table[AT_PACKED_IH])
    if table[D_X] != 0:
        pack(packed_ih, advance(at_address(data, table[W_IH]), client * table[W_IH_STRIDE]), 0, rows_g, d, 0, rows_g)
    packed_hh = advance(scratch, table[AT_PACKED_HH])
    w_hh = advance(at_address(data, table[W_HH]), client * table[W_HH_STRIDE])
    size = pack(packed_hh, w_hh, 0, split * hidden, state, roll * hidden, rows_g)
    packed_rest = advance(packed_hh, size)
    if split < gates:
        pack(packed_rest, w_hh, split * hidden, rows_g - split * hidden, state, 0, rows_g)
    packed_hr = advance(scratch, table[AT_PACKED_HR])
    if table[W_HR] != 0:
        w_hr = advance(at_address(data, table[W_HR]), client * table[W_HR_STRIDE])
        pack(packed_hr, w_hr, 0, state, hidden, 0, state)

    x = advance(at_address(data, table[X]), client * table[X_STRIDE])
    states = advance(at_address(data, table[STATES]), client * (steps + 1) * b * state)
    every = advance(at_address(data, table[EVERY]), client * steps * b * state)
    last_d = advance(at_address(data, table[LAST]), client * b * state)
    last_lengths = advance(at_address(table, table[LAST_LENGTHS]), client * b)
    d_x = advance(at_address(data, table[D_X]), client * steps * b * d)
    d_h, d_cell = advance(scratch, table[AT_H]), advance(scratch, table[AT_CELL])
    rows_x, previous_h = advance(scratch, table[AT_X]), advance(scratch, table[AT_PREVIOUS])
    extra, work = advance(scratch, table[AT_EXTRA]), advance(scratch, table[AT_WORK])
    d_gates, rows_dx = advance(scratch, table[AT_GATES]), advance(scratch, table[AT_D_X])
    d_ih, d_hh = advance(scratch, table[AT_D_IH]), advance(scratch, table[AT_D_HH])
    units = d_h if table[W_HR] == 0 else advance(scratch, table[AT_UNITS])
    d_states, d_hr = advance(scratch, table[AT_D_STATES]), advance(scratch, table[AT_D_HR])
    d_bias = advance(scratch, table[AT_BIAS])
    one = advance(d_bias, ldg)  # a single 1: its product with the gate gradients sums them over samples and steps
    one[0] = 1.0
    clear(d_bias, ldg)
    clear(d_h, m0 * ldh)
    clear(d_cell, m0 * ldh)

    end, rows = 0, 0
    for t in range(steps):
        rows += active[t]
        if active[t] > 0:
            end = t + 1
    if table[D_X] != 0:
        for t in range(end):
            for i in range(active[t], m0):
                clear(advance(d_x, (t * b + order[i]) * d), d)
        for t in range(end, steps):
            for i in range(m0):
                clear(advance(d_x, (t * b + order[i]) * d), d)
    saved = advance(at_address(data, table[SAVED]), (first_row(table, client, share) + rows) * ld)
    zeros = advance(one, 1)
    clear(zeros, ld)
    if end == 0:  # else the first block begins with zeros
        clear(d_ih, d * ldg)
        clear(d_hh, rows_g * ld_hh)
        clear(d_hr, state * ldh if table[W_HR] != 0 else 0)
    sum_ih, ld_sum_ih, sum_hh, ld_sum_hh, sum_hr, ld_sum_hr = zeros, 0, zeros, 0, zeros, 0
    while end > 0:
        first = max(0, end - table[BLOCK])
        rows = 0
        for t in range(first, end):
            for i in range(active[t]):
                copy(advance(rows_x, rows * d), advance(x, (t * b + order[i]) * d), d)
                copy(advance(previous_h, rows * ldh), advance(states, (t * b + order[i]) * state), state)
                rows += 1
        row = rows
        for t in range(end - 1, first - 1, -1):
            m = active[t]
            row -= m
            saved = advance(saved, -m * ld)
            for i in range(m):
                at = advance(d_h, i * ldh)
                if table[EVERY] != 0:
                    add((at, advance(every, (t * b + order[i]) * state)), state)
                if table[LAST] != 0 and last_lengths[order[i]] == t + 1:
                    add((at, advance(last_d, order[i] * state)), state)
                if table[W_HR] != 0:
                    copy(advance(d_states, (row + i) * ld_hh), at, state)
            if table[W_HR] != 0:
                product(multiply, (units, ldh, zeros, 0, d_h, ldh, 1, packed_hr, 0, m, hidden, state))
            before, before_ld = zeros, 0
            if t > 0:
                before, before_ld = advance(saved, -active[t - 1] * ld), ld
                prefetch(before, active[t - 1] * ld)  # going backwards defeats the hardware's own guesses
            take_step(
                step,
                (
                    saved,
                    ld,
                    before,
                    before_ld,
                    advance(previous_h, row * ldh),
                    advance(extra, row * ldh),
                    d_h,
                    d_cell,
                    ldh,
                    work,
                    units,
                    advance(d_gates, row * ldg),
                    ldg,
                    m,
                    hidden,
                    state,
                    packed_hh,
                    packed_rest,
                    multiply,
                ),
            )
        d_gates_x = advance(d_gates, x_first * hidden)
        product(multiply, (d_bias, ldg, d_bias, ldg, one, 0, 0, d_gates, ldg, 1, x_first * hidden + rows_g, rows))
        product(multiply, (d_ih, ldg, sum_ih, ld_sum_ih, rows_x, 1, d, d_gates_x, ldg, d, rows_g, rows))
        product(
            multiply,
            (d_hh, ld_hh, sum_hh, ld_sum_hh, d_gates, 1, ldg, previous_h, ldh, split * hidden, state, rows),
        )
        if table[W_HR] != 0:
            product(multiply, (d_hr, ldh, sum_hr, ld_sum_hr, d_states, 1, ld_hh, extra, ldh, state, hidden, rows))
        if split < gates:
            product(
                multiply,
                (
                    advance(d_hh, split * hidden * ld_hh),
                    ld_hh,
                    advance(sum_hh, split * hidden * ld_sum_hh),
                    ld_sum_hh,
                    advance(d_gates, split * hidden),
                    1,
                    ldg,
                    extra,
                    ldh,
                    rows_g - split * hidden,
                    state,
                    rows,
                ),
            )
        sum_ih, ld_sum_ih, sum_hh, ld_sum_hh, sum_hr, ld_sum_hr = d_ih, ldg, d_hh, ld_hh, d_hr, ldh
        if table[D_X] != 0:
            ldx = table[D_X_LD]
            product(multiply, (rows_dx, ldx, zeros, 0, d_gates_x, ldg, 1, packed_ih, 0, rows, d, rows_g))
            row = 0
            for t in range(first, end):
                for i in range(active[t]):
                    copy(advance(d_x, (t * b + order[i]) * d), advance(rows_dx, row * ldx), d)
                    row += 1
        end = first
    _write_gradients(data, item, d_ih, d_hh, d_hr, d_bias, rows_g, x_first * hidden, roll * hidden)


@njit
def _write_gradients(
    data: Any, item: int, d_ih: Any, d_hh: Any, d_hr: Any, d_bias: Any, rows_g: int, x_first: int, roll: int
) -> None:
    """Copy an item's sums into the result, transposed and with the rows rolled back."""
    table = as_table(data)
    d, hidden, state, ldg = table[INPUTS], table[HIDDEN], table[STATE], table[GATES_LD]
    out_ih = advance(at_address(data, table[D_W_IH]), item * table[D_W_IH_STRIDE])
    transpose(out_ih, d, d_ih, ldg, d, rows_g)
    out_hh = advance(at_address(data, table[D_W_HH]), item * table[D_W_HH_STRIDE])
    for g in range(rows_g):
        old = g + roll if g + roll < rows_g else g + roll - rows_g
        copy(advance(out_hh, old * state), advance(d_hh, g * table[D_HH_LD]), state)
    if table[W_HR] != 0:
        out_hr = advance(at_address(data, table[D_W_HR]), item * table[D_W_HR_STRIDE])
        for i in range(state):
            copy(advance(out_hr, i * hidden), advance(d_hr, i * table[STATE_LD]), hidden)
    if table[B_IH] != 0:
        copy(advance(at_address(data, table[D_B_IH]), item * table[D_B_IH_STRIDE]), advance(d_bias, x_first), rows_g)
        out = advance(at_address(data, table[D_B_HH]), item * table[D_B_HH_STRIDE])
        copy(advance(out, roll), d_bias, rows_g - roll)
        copy(out, advance(d_bias, rows_g - roll), roll)
