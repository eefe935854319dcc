"""Loss and hits of a head, for evaluation: `softmax` without gradients.

The outputs of a block of predictions are reduced to three numbers each while they are in the cache.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import types

from fedsim.models.numba_kernels import product, scratch, threads
from fedsim.models.numba_kernels.compiling import compiled_function
from fedsim.models.numba_kernels.formulas import Vector, elementwise
from fedsim.models.numba_kernels.pointers import (
    VECTOR_BYTES,
    advance,
    as_table,
    at_address,
    c_type,
    clear,
    copy,
    fill,
    njit,
    take_ticket,
)
from fedsim.models.numba_kernels.product import pack_transposed
from fedsim.models.numba_kernels.product import product as multiply_by
from fedsim.models.numba_kernels.softmax import CHUNK as LONG_CHUNK
from fedsim.models.numba_kernels.softmax import softmax

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_TOKENS = 64
"""Below as many outputs, torch's operations are nearly as fast."""
_BLOCK_ROWS = 64
"""Predictions at a time: enough to be worth fetching the weights again."""
_FEWEST_ROWS = 256
"""Predictions of an item: enough to be worth packing the weights again."""

# Places in the int64 table: counters shared by the threads, sizes, addresses and strides, and regions of the scratch.
(
    WORKER,
    ITEM,
    ITEMS,
    MULTIPLY,
    ROWS,
    PARTS,
    WIDTH,
    TOKENS,
    LD,
    CHUNK,
    BLOCK,
    FEATURES,
    TARGETS,
    LOSS,
    HITS,
    AHEAD,
    W,
    W_STRIDE,
    BIAS,
    BIAS_STRIDE,
    SCRATCH,
    SCRATCH_STRIDE,
    AT_OUTPUTS,
    AT_ACROSS,
    AT_BIAS,
    AT_REDUCED,
    TABLE_SIZE,
) = range(27)


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
    outputs, across = advance(region, table[AT_OUTPUTS]), advance(region, table[AT_ACROSS])
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


@cache
def _kernels(dtype: torch.dtype) -> tuple[Any, Any]:
    pointer = types.CPointer(types.float32 if dtype == torch.float32 else types.float64)
    walk, step = c_type("p", pointer), c_type(product.MULTIPLY_KINDS, pointer)
    return compiled_function(run_scores, walk), compiled_function(product.multiply, step)


@lru_cache(maxsize=64)
def _plan(shape: tuple[int, int, int], tokens: int, dtype: torch.dtype, most: int) -> tuple[Any, int]:
    """The table without addresses, and the bytes of a worker's scratch memory."""
    clients, rows, width = shape
    table = np.zeros(TABLE_SIZE, np.int64)
    chunk = LONG_CHUNK if tokens >= 4 * LONG_CHUNK else VECTOR_BYTES // dtype.itemsize
    ld = -(-tokens // chunk) * chunk
    parts = max(1, min(-(-4 * most // clients), rows // _FEWEST_ROWS))  # so that no thread idles for long
    table[ITEMS], table[PARTS], table[ROWS], table[WIDTH], table[TOKENS] = clients * parts, parts, rows, width, tokens
    table[LD], table[CHUNK] = ld, chunk
    table[BLOCK], table[MULTIPLY] = min(rows, _BLOCK_ROWS), _kernels(dtype)[1].address
    end = 0
    for place, count in (
        (AT_OUTPUTS, min(rows, _BLOCK_ROWS) * ld),
        (AT_ACROSS, width * (ld + 4 * VECTOR_BYTES // dtype.itemsize)),
        (AT_BIAS, ld),
        (AT_REDUCED, 2 * chunk),
    ):
        table[place] = end
        end += -(-count // 64) * 64 + 64
    table[SCRATCH_STRIDE] = end
    return table, end * dtype.itemsize


def scores(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a softmax over the outputs of a linear head, and where the outputs are right.

    Args:
        features: ``[C, R, F]``.
        weight: ``[C, K, F]``, every client's part contiguous.
        bias: ``[C, K]``, or None.
        targets: ``[C, R]`` int64, negative for a prediction that does not count.
        most: threads; the numbers do not depend on them.

    Returns:
        the loss ``[C, R]``, 0 for what does not count; bool ``[C, R]``, whether the target has the largest output
        (the first of them); and ``[C, R]``, how many outputs are larger than the target's.
    """
    clients, rows, _ = features.shape
    features, targets = features.contiguous(), targets.contiguous()
    values, scratch_bytes = _plan(tuple(features.shape), weight.shape[1], features.dtype, most)
    table = values.copy()
    loss, hits, ahead = features.new_empty((3, clients, rows))
    for place, tensor in ((FEATURES, features), (TARGETS, targets), (LOSS, loss), (HITS, hits), (AHEAD, ahead)):
        table[place] = tensor.data_ptr()
    for place, one in ((W, weight), (BIAS, bias)):
        if one is not None:
            assert one[0].is_contiguous()
            table[place], table[place + 1] = one.data_ptr(), one.stride(0)
    workers = min(most, int(table[ITEMS]))
    table[SCRATCH] = scratch.memory(workers * scratch_bytes)
    threads.run(_kernels(features.dtype)[0], table.ctypes.data, workers)
    return loss, hits.bool(), ahead
