"""Loss and hits of a head, for evaluation: `softmax` without gradients.

The outputs of a block of predictions are reduced to three numbers each while they are in the cache.
"""

from __future__ import annotations

import math
from typing import Any

from fedsim.models.numba_kernels.formulas import Vector, elementwise
from fedsim.models.numba_kernels.head_table import (
    AHEAD,
    AT_ACROSS,
    AT_BIAS,
    AT_LOGITS,
    AT_REDUCED,
    BIAS,
    BIAS_STRIDE,
    BLOCK,
    CHUNK,
    FEATURES,
    HITS,
    ITEM,
    ITEMS,
    LD,
    LOSS,
    MULTIPLY,
    PARTS,
    ROWS,
    SCRATCH,
    SCRATCH_STRIDE,
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
from fedsim.models.numba_kernels.product import pack_transposed
from fedsim.models.numba_kernels.product import product as multiply_by
from fedsim.models.numba_kernels.softmax import softmax


def _larger(row: Vector, right: Vector, count: Vector) -> tuple[Vector | None, ...]:
    return None, None, count + (row - right).positive()


_larger_row = elementwise(_larger)


@njit
def _count_larger(row: Any, ld: int, chunk: int, right: float, reduced: Any) -> float:
    """How many of a row are larger than `right`."""
    count = advance(reduced, chunk)
    fill(reduced, chunk, right)
    clear(count, chunk)
    for j in range(0, ld, chunk):
        _larger_row((advance(row, j), reduced, count), chunk)
    for j in range(1, chunk):
        count[0] += count[j]
    total: float = count[0]
    return total


@njit
def _is_first(row: Any, tokens: int, target: int) -> bool:
    """Whether the target, which no output exceeds, is the first of the largest; NaN is larger than all numbers."""
    right = row[target]
    for j in range(tokens):
        nan = row[j] != row[j]
        if (j < target and (nan or row[j] == right)) or (nan and right == right):
            return False
    return True


@njit
def _item(data: Any, region: Any, item: int) -> None:
    table = as_table(data)
    all_rows, width, tokens, parts = table[ROWS], table[WIDTH], table[TOKENS], table[PARTS]
    ld, chunk = table[LD], table[CHUNK]
    client, part = item // parts, item % parts
    start = part * all_rows // parts
    rows = (part + 1) * all_rows // parts - start
    place = client * all_rows + start
    features = advance(at_address(data, table[FEATURES]), place * width)
    targets = advance(at_address(table, table[TARGETS]), place)
    loss, hits = advance(at_address(data, table[LOSS]), place), advance(at_address(data, table[HITS]), place)
    ahead = advance(at_address(data, table[AHEAD]), place)
    outputs, across = advance(region, table[AT_LOGITS]), advance(region, table[AT_ACROSS])
    bias, reduced = advance(region, table[AT_BIAS]), advance(region, table[AT_REDUCED])
    w = advance(at_address(data, table[W]), client * table[W_STRIDE])
    pack_transposed(across, w, 0, tokens, width, 0, tokens)
    clear(bias, ld)
    if table[BIAS] != 0:
        copy(bias, advance(at_address(data, table[BIAS]), client * table[BIAS_STRIDE]), tokens)
    for first in range(0, rows, table[BLOCK]):
        m = min(table[BLOCK], rows - first)
        block = advance(features, first * width)
        multiply_by(table[MULTIPLY], (outputs, ld, bias, 0, block, width, 1, across, 0, m, tokens, width))
        for i in range(m):
            row, target = advance(outputs, i * ld), targets[first + i]
            if target < 0:
                loss[first + i], hits[first + i], ahead[first + i] = 0.0, 0.0, tokens
                continue
            fill(advance(row, tokens), ld - tokens, -math.inf)  # the columns that fill up the last chunk
            right = row[target]
            larger = _count_larger(row, ld, chunk, right, reduced)
            hits[first + i] = 1.0 if larger == 0.0 and _is_first(row, tokens, target) else 0.0
            ahead[first + i] = larger
            loss[first + i] = softmax(row, ld, chunk, reduced) - right


def run_scores(data: Any) -> None:
    """Process items until none is left; `data` is the table, typed as a pointer to the numbers' type."""
    table = as_table(data)
    worker = take_ticket(advance(table, WORKER))
    region = advance(at_address(data, table[SCRATCH]), worker * table[SCRATCH_STRIDE])
    while True:
        item = take_ticket(advance(table, ITEM))
        if item >= table[ITEMS]:
            return
        _item(data, region, item)
