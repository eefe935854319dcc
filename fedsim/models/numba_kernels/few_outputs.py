"""The head over a few outputs, its loss and gradients, a client at a time: of a softmax, or of squared errors.

As `softmax`, with the outputs the other way round: a row of them holds one output of many predictions, so that maxima,
sums and logarithms of all predictions are taken side by side, however few outputs there are.
"""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.formulas import Vector, elementwise, log
from fedsim.models.numba_kernels.head_table import (
    AT_D_BIAS,
    AT_FEATURES,
    AT_LOGITS,
    AT_LOSS,
    AT_MOST,
    AT_ONES,
    AT_OWN,
    AT_RIGHT,
    AT_SHARES,
    AT_TOTAL,
    AT_ZEROS,
    BIAS,
    BIAS_STRIDE,
    BLOCK,
    D_BIAS,
    D_BIAS_STRIDE,
    D_FEATURES,
    D_W,
    D_W_STRIDE,
    FEATURES,
    ITEM,
    ITEMS,
    LD,
    LOSS,
    MULTIPLY,
    ROWS,
    SCRATCH,
    SCRATCH_STRIDE,
    SHARES,
    SQUARES,
    TARGETS,
    TOKENS,
    W_STRIDE,
    WIDTH,
    WORKER,
    W,
)
from fedsim.models.numba_kernels.pointers import (
    advance,
    as_table,
    at_address,
    clear,
    copy,
    fill,
    lanes,
    njit,
    take_ticket,
)
from fedsim.models.numba_kernels.product import pack_transposed
from fedsim.models.numba_kernels.product import product as multiply_by
from fedsim.models.numba_kernels.softmax import exp_row, largest_row, scaled_row


def _loss_and_factor(
    total: Vector, most: Vector, right: Vector, share: Vector, loss: Vector
) -> tuple[Vector | None, ...]:
    return share / total, None, None, None, loss + share * (log(total) + (most - right))


def _square_and_slope(row: Vector, right: Vector, share: Vector, loss: Vector) -> tuple[Vector | None, ...]:
    error = row - right
    slope = error * share
    return slope + slope, None, None, loss + slope * error


_loss_row, _square_row = elementwise(_loss_and_factor), elementwise(_square_and_slope)


@njit
def _squares(table: Any, region: Any, targets: Any, m: int) -> None:
    """Turn the outputs of `m` predictions into the gradient of the squared errors, and add these up."""
    tokens, ld = table[TOKENS], table[LD]
    right, share = advance(region, table[AT_RIGHT]), advance(region, table[AT_SHARES])
    for k in range(tokens):
        for j in range(m):
            right[j] = targets[j * tokens + k]
        row = advance(advance(region, table[AT_LOGITS]), k * ld)
        _square_row((row, right, share, advance(region, table[AT_LOSS])), ld)


@njit
def _softmax(table: Any, region: Any, targets: Any, shares: Any, m: int) -> None:
    """Turn the logits of `m` predictions into the gradient of the loss, and add up the loss."""
    tokens, ld = table[TOKENS], table[LD]
    logits, most, total = (
        advance(region, table[AT_LOGITS]),
        advance(region, table[AT_MOST]),
        advance(region, table[AT_TOTAL]),
    )
    right, share = advance(region, table[AT_RIGHT]), advance(region, table[AT_SHARES])
    for j in range(m):
        right[j] = logits[targets[j] * ld + j]
    copy(most, logits, ld)
    for k in range(1, tokens):
        largest_row((advance(logits, k * ld), most), ld)
    clear(total, ld)
    for k in range(tokens):
        exp_row((advance(logits, k * ld), most, total), ld)
    _loss_row((total, most, right, share, advance(region, table[AT_LOSS])), ld)
    for k in range(tokens):
        scaled_row((advance(logits, k * ld), total), ld)
    for j in range(m):
        logits[targets[j] * ld + j] -= shares[j]


@njit
def _item(data: Any, region: Any, client: int) -> None:
    table = as_table(data)
    rows, width, tokens, ld = table[ROWS], table[WIDTH], table[TOKENS], table[LD]
    call, lane = table[MULTIPLY], lanes(data)
    features = advance(at_address(data, table[FEATURES]), client * rows * width)
    d_features = advance(at_address(data, table[D_FEATURES]), client * rows * width)
    shares = advance(at_address(data, table[SHARES]), client * rows)
    classes = advance(at_address(table, table[TARGETS]), client * rows)
    numbers = advance(at_address(data, table[TARGETS]), client * rows * tokens)
    w = advance(at_address(data, table[W]), client * table[W_STRIDE])
    d_w = advance(at_address(data, table[D_W]), client * table[D_W_STRIDE])
    logits, across = advance(region, table[AT_LOGITS]), advance(region, table[AT_FEATURES])
    loss, d_bias = advance(region, table[AT_LOSS]), advance(region, table[AT_D_BIAS])
    zeros, ones = advance(region, table[AT_ZEROS]), advance(region, table[AT_ONES])
    right, share = advance(region, table[AT_RIGHT]), advance(region, table[AT_SHARES])
    clear(zeros, width)
    clear(loss, ld)
    clear(d_bias, tokens * lane)
    fill(ones, table[BLOCK] * lane, 1.0)
    for first in range(0, rows, table[BLOCK]):
        m = min(table[BLOCK], rows - first)
        block = advance(features, first * width)
        for k in range(tokens):
            bias = 0.0
            if table[BIAS] != 0:
                bias = advance(at_address(data, table[BIAS]), client * table[BIAS_STRIDE] + k)[0]
            fill(advance(logits, k * ld), ld, bias)
        whole = block
        if m < ld:  # whole tiles are transposed faster than what sticks out of them
            whole = advance(region, table[AT_OWN])
            copy(whole, block, m * width)
            clear(advance(whole, m * width), (ld - m) * width)
        pack_transposed(across, whole, 0, ld, width, 0, ld)
        multiply_by(call, (logits, ld, logits, ld, w, width, 1, across, 0, tokens, m, width))
        copy(share, advance(shares, first), m)
        clear(advance(share, m), ld - m)  # what fills up a vector is computed too, and counts nothing
        clear(advance(right, m), ld - m)
        if table[SQUARES] != 0:
            _squares(table, region, advance(numbers, first * tokens), m)
        else:
            _softmax(table, region, advance(classes, first), advance(shares, first), m)
        d_block = advance(d_features, first * width)
        multiply_by(call, (d_block, width, zeros, 0, logits, 1, ld, w, width, m, width, tokens))
        before, before_ld = (zeros, 0) if first == 0 else (d_w, width)
        multiply_by(call, (d_w, width, before, before_ld, logits, ld, 1, block, width, tokens, width, m))
        multiply_by(call, (d_bias, lane, d_bias, lane, logits, ld, 1, ones, lane, tokens, 1, m))
    total = 0.0
    for j in range(ld):
        total += loss[j]
    advance(at_address(data, table[LOSS]), client)[0] = total
    if table[BIAS] != 0:
        written = advance(at_address(data, table[D_BIAS]), client * table[D_BIAS_STRIDE])
        for k in range(tokens):
            written[k] = d_bias[k * lane]


def run_few_outputs(data: Any) -> None:
    """Process clients until none is left; `data` is the table, typed as a pointer to the numbers' type."""
    table = as_table(data)
    worker = take_ticket(advance(table, WORKER))
    region = advance(at_address(data, table[SCRATCH]), worker * table[SCRATCH_STRIDE])
    while True:
        client = take_ticket(advance(table, ITEM))
        if client >= table[ITEMS]:
            return
        _item(data, region, client)
