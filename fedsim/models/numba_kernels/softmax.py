"""The head over many outputs, its softmax, loss and gradients, a client at a time.

For thousands of tokens the head is most of the work. Its products are those of the recurrent kernels here, which run
faster on these shapes than the library's, and the logits of a block of predictions go through product, softmax and both
gradients while they are in the cache: the matrix of all predictions by all tokens is never made.
"""

from __future__ import annotations

import math
from typing import Any

from fedsim.models.numba_kernels.formulas import Vector, elementwise, exp
from fedsim.models.numba_kernels.head_table import (
    AT_ACROSS,
    AT_BIAS,
    AT_D_BIAS,
    AT_DOWN,
    AT_FEATURES,
    AT_LOGITS,
    AT_REDUCED,
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
    LONG_CHUNK,
    LOSS,
    MULTIPLY,
    ROWS,
    SCRATCH,
    SCRATCH_STRIDE,
    SHARES,
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
    njit,
    take_ticket,
)
from fedsim.models.numba_kernels.product import pack, pack_transposed
from fedsim.models.numba_kernels.product import product as multiply_by


def _largest(row: Vector, most: Vector) -> tuple[Vector | None, ...]:
    return None, most.or_larger(row)


def _exp_and_sum(row: Vector, most: Vector, total: Vector) -> tuple[Vector | None, ...]:
    value = exp(row - most)
    return value, None, total + value


def _scaled(row: Vector, factor: Vector) -> tuple[Vector | None, ...]:
    return row * factor, None


largest_row, exp_row, scaled_row = elementwise(_largest), elementwise(_exp_and_sum), elementwise(_scaled)


@njit
def softmax(row: Any, ld: int, chunk: int, reduced: Any) -> float:
    """Turn a row of `ld` logits into their exponentials below the largest; return the logarithm of their sum.

    Of the row `chunk` numbers are reduced side by side, in `reduced`, which has room for twice as many.
    """
    most, total = reduced, advance(reduced, chunk)
    copy(most, row, chunk)
    for j in range(chunk, ld, chunk):
        largest_row((advance(row, j), most), chunk)
    largest = most[0]
    for j in range(1, chunk):
        largest = most[j] if most[j] > largest else largest
    fill(most, chunk, largest)
    clear(total, chunk)
    for j in range(0, ld, chunk):
        exp_row((advance(row, j), most, total), chunk)
    for j in range(1, chunk):
        total[0] += total[j]
    log_sum: float = math.log(total[0]) + largest
    return log_sum


@njit
def _item(data: Any, region: Any, client: int) -> None:
    table = as_table(data)
    rows, width, tokens, ld = table[ROWS], table[WIDTH], table[TOKENS], table[LD]
    call = table[MULTIPLY]
    features = advance(at_address(data, table[FEATURES]), client * rows * width)
    d_features = advance(at_address(data, table[D_FEATURES]), client * rows * width)
    shares = advance(at_address(data, table[SHARES]), client * rows)
    targets = advance(at_address(table, table[TARGETS]), client * rows)
    w = advance(at_address(data, table[W]), client * table[W_STRIDE])
    d_w = advance(at_address(data, table[D_W]), client * table[D_W_STRIDE])
    logits, reduced = advance(region, table[AT_LOGITS]), advance(region, table[AT_REDUCED])
    bias, d_bias = advance(region, table[AT_BIAS]), advance(region, table[AT_D_BIAS])
    across, down = advance(region, table[AT_ACROSS]), advance(region, table[AT_DOWN])
    own = advance(region, table[AT_FEATURES])
    zeros, one = advance(reduced, 2 * LONG_CHUNK), advance(reduced, 2 * LONG_CHUNK + width)
    clear(zeros, width)
    one[0] = 1.0
    pack_transposed(across, w, 0, tokens, width, 0, tokens)
    pack(down, w, 0, tokens, width, 0, tokens)
    clear(bias, ld)
    if table[BIAS] != 0:
        copy(bias, advance(at_address(data, table[BIAS]), client * table[BIAS_STRIDE]), tokens)
    clear(d_bias, ld)
    loss = 0.0
    for first in range(0, rows, table[BLOCK]):
        m = min(table[BLOCK], rows - first)
        block = advance(features, first * width)
        multiply_by(call, (logits, ld, bias, 0, block, width, 1, across, 0, m, tokens, width))
        for i in range(m):
            row, share = advance(logits, i * ld), shares[first + i]
            if share == 0.0:
                clear(row, ld)
                continue
            fill(advance(row, tokens), ld - tokens, -math.inf)  # the columns that fill up the last chunk
            target = targets[first + i]
            right = row[target]
            log_sum = softmax(row, ld, LONG_CHUNK, reduced)
            loss += share * (log_sum - right)
            fill(reduced, LONG_CHUNK, share / advance(reduced, LONG_CHUNK)[0])
            for j in range(0, ld, LONG_CHUNK):
                scaled_row((advance(row, j), reduced), LONG_CHUNK)
            row[target] -= share
        d_block = advance(d_features, first * width)
        multiply_by(call, (d_block, width, zeros, 0, logits, ld, 1, down, 0, m, width, tokens))
        pack(own, block, 0, m, width, 0, m)
        before, before_ld = (zeros, 0) if first == 0 else (d_w, width)
        multiply_by(call, (d_w, width, before, before_ld, logits, 1, ld, own, 0, tokens, width, m))
        multiply_by(call, (d_bias, ld, d_bias, ld, one, 0, 0, logits, ld, 1, tokens, m))
    advance(at_address(data, table[LOSS]), client)[0] = loss
    if table[BIAS] != 0:
        copy(advance(at_address(data, table[D_BIAS]), client * table[D_BIAS_STRIDE]), d_bias, tokens)


def run_softmax(data: Any) -> None:
    """Process clients until none is left; `data` is the table, typed as a pointer to the numbers' type."""
    table = as_table(data)
    worker = take_ticket(advance(table, WORKER))
    region = advance(at_address(data, table[SCRATCH]), worker * table[SCRATCH_STRIDE])
    while True:
        client = take_ticket(advance(table, ITEM))
        if client >= table[ITEMS]:
            return
        _item(data, region, client)
