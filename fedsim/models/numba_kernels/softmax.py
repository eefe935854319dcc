"""The head over many tokens, its softmax, loss and gradients, a client at a time.

For thousands of tokens the head is most of the work. Its products are those of the recurrent kernels here, which run
faster on these shapes than the library's, and the logits of a block of predictions go through product, softmax and both
gradients while they are in the cache: the matrix of all predictions by all tokens is never made.
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
from fedsim.models.numba_kernels.formulas import Vector, elementwise, exp
from fedsim.models.numba_kernels.pointers import (
    VECTOR_BYTES,
    advance,
    as_table,
    at_address,
    c_type,
    clear,
    copy,
    njit,
    take_ticket,
)
from fedsim.models.numba_kernels.product import pack, pack_transposed
from fedsim.models.numba_kernels.product import product as multiply_by

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_TOKENS = 256
"""Below as many outputs, torch's operations are as good."""
_BLOCK_ROWS = 128
CHUNK = 64
"""Numbers of a row that are reduced side by side, whatever a vector of the machine has."""

# Places in the int64 table: counters shared by the threads, sizes, addresses and strides, and regions of the scratch.
(
    WORKER,
    ITEM,
    ITEMS,
    MULTIPLY,
    ROWS,
    WIDTH,
    TOKENS,
    LD,
    BLOCK,
    FEATURES,
    TARGETS,
    SHARES,
    LOSS,
    D_FEATURES,
    W,
    W_STRIDE,
    BIAS,
    BIAS_STRIDE,
    D_W,
    D_W_STRIDE,
    D_BIAS,
    D_BIAS_STRIDE,
    SCRATCH,
    SCRATCH_STRIDE,
    AT_LOGITS,
    AT_ACROSS,
    AT_DOWN,
    AT_FEATURES,
    AT_BIAS,
    AT_D_BIAS,
    AT_REDUCED,
    TABLE_SIZE,
) = range(32)


def _largest(row: Vector, most: Vector) -> tuple[Vector | None, ...]:
    return None, most.or_larger(row)


def _exp_and_sum(row: Vector, most: Vector, total: Vector) -> tuple[Vector | None, ...]:
    value = exp(row - most)
    return value, None, total + value


def _scaled(row: Vector, factor: Vector) -> tuple[Vector | None, ...]:
    return row * factor, None


_largest_row, _exp_row, _scaled_row = elementwise(_largest), elementwise(_exp_and_sum), elementwise(_scaled)


@njit
def fill(target: Any, count: int, value: float) -> None:
    """Write a number `count` times."""
    for j in range(count):
        target[j] = value


@njit
def softmax(row: Any, ld: int, reduced: Any) -> float:
    """Turn a row of `ld` logits into their exponentials below the largest; return the logarithm of their sum."""
    most, total = reduced, advance(reduced, CHUNK)
    copy(most, row, CHUNK)
    for j in range(CHUNK, ld, CHUNK):
        _largest_row((advance(row, j), most), CHUNK)
    largest = most[0]
    for j in range(1, CHUNK):
        largest = most[j] if most[j] > largest else largest
    fill(most, CHUNK, largest)
    clear(total, CHUNK)
    for j in range(0, ld, CHUNK):
        _exp_row((advance(row, j), most, total), CHUNK)
    for j in range(1, CHUNK):
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
    zeros, one = advance(reduced, 2 * CHUNK), advance(reduced, 2 * CHUNK + width)
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
            log_sum = softmax(row, ld, reduced)
            loss += share * (log_sum - right)
            fill(reduced, CHUNK, share / advance(reduced, CHUNK)[0])
            for j in range(0, ld, CHUNK):
                _scaled_row((advance(row, j), reduced), CHUNK)
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


@cache
def _kernels(dtype: torch.dtype) -> tuple[Any, Any]:
    pointer = types.CPointer(types.float32 if dtype == torch.float32 else types.float64)
    walk, step = c_type("p", pointer), c_type(product.MULTIPLY_KINDS, pointer)
    return compiled_function(run_softmax, walk), compiled_function(product.multiply, step)


def fits(width: int, tokens: int, dtype: torch.dtype) -> bool:
    """Whether `loss_and_gradient` takes a head of this shape: enough tokens, and rows of whole vectors."""
    return tokens >= FEWEST_TOKENS and width % (VECTOR_BYTES // dtype.itemsize) == 0


@lru_cache(maxsize=64)
def _plan(shape: tuple[int, int, int], tokens: int, dtype: torch.dtype) -> tuple[Any, int]:
    """The table without addresses, and the bytes of a worker's scratch memory."""
    clients, rows, width = shape
    table = np.zeros(TABLE_SIZE, np.int64)
    ld = -(-tokens // CHUNK) * CHUNK
    blocks = -(-rows // _BLOCK_ROWS)
    block = -(-rows // blocks)
    lanes = VECTOR_BYTES // dtype.itemsize
    table[ITEMS], table[ROWS], table[WIDTH], table[TOKENS] = clients, rows, width, tokens
    table[LD], table[BLOCK], table[MULTIPLY] = ld, block, _kernels(dtype)[1].address
    end = 0
    for place, count in (
        (AT_LOGITS, block * ld),
        (AT_ACROSS, width * (ld + 4 * lanes)),
        (AT_DOWN, tokens * (width + 4 * lanes)),
        (AT_FEATURES, block * (width + 4 * lanes)),
        (AT_BIAS, ld),
        (AT_D_BIAS, ld),
        (AT_REDUCED, 2 * CHUNK + width + 1),
    ):
        table[place] = end
        end += -(-count // 64) * 64 + 64
    table[SCRATCH_STRIDE] = end
    return table, end * dtype.itemsize


def loss_and_gradient(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    shares: Tensor,
    most: int,
    into: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """The loss of a softmax over the outputs of a linear head, and its gradients.

    Args:
        features: ``[C, R, F]``.
        weight: ``[C, K, F]``, every client's part contiguous.
        bias: ``[C, K]``, or None.
        targets: ``[C, R]`` int64.
        shares: ``[C, R]``, the weight of each prediction in the client's loss; 0 for one that does not count.
        most: threads.
        into: where to write the gradients of weight and bias; every client's part contiguous.

    Returns:
        ``[C]`` loss, and the gradient of the features ``[C, R, F]``.
    """
    clients = len(features)
    features, shares, targets = features.contiguous(), shares.contiguous(), targets.contiguous()
    values, scratch_bytes = _plan(tuple(features.shape), weight.shape[1], features.dtype)
    table = values.copy()
    loss, d_features = features.new_empty(clients), torch.empty_like(features)
    for place, tensor in ((FEATURES, features), (TARGETS, targets), (SHARES, shares), (LOSS, loss)):
        table[place] = tensor.data_ptr()
    table[D_FEATURES] = d_features.data_ptr()
    for place, one in ((W, weight), (BIAS, bias), (D_W, into[0]), (D_BIAS, into[1])):
        if one is not None:
            assert one[0].is_contiguous()
            table[place], table[place + 1] = one.data_ptr(), one.stride(0)
    workers = min(most, clients)
    table[SCRATCH] = scratch.memory(workers * scratch_bytes)
    threads.run(_kernels(features.dtype)[0], table.ctypes.data, workers)
    return loss, d_features
