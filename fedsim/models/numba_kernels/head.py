"""The head, its loss and gradients: by `few_outputs` or `softmax`, as it has few outputs or many.

And its losses and hits for evaluation, by `softmax_scores`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from fedsim.models.numba_kernels import head_table as place
from fedsim.models.numba_kernels import scratch, threads
from fedsim.models.numba_kernels.kernels import Kernel, kernel
from fedsim.models.numba_kernels.machine import VECTOR_BYTES
from fedsim.models.numba_kernels.table import MULTIPLY_KINDS, WALK_KINDS

if TYPE_CHECKING:
    from torch import Tensor

MANY = 256
"""From as many outputs on, `softmax` is as fast as `few_outputs`, and the more there are, the faster."""
FEWEST_SCORED = 64
"""Below as many outputs, torch's operations are nearly as fast as `softmax_scores`."""
_ROWS_OF_MANY, _ROWS_OF_FEW, _ROWS_SCORED = 128, 64, 64
"""Predictions at a time: enough to be worth fetching the weights again."""
_FEWEST_ROWS = 256
"""Predictions of an item of `softmax_scores`: enough to be worth packing the weights again."""
_WORK_OF_A_THREAD = 1 << 20
"""Multiplications that take some times as long as it takes to wake a thread and to wait for it."""

Plan: TypeAlias = tuple[Kernel, Any, int]
"""The kernel of a call, its table without addresses, and the bytes of a worker's scratch memory."""


def fits(width: int, dtype: torch.dtype) -> bool:
    """Whether the kernels take a head of this width: one whose rows are whole vectors."""
    return width % (VECTOR_BYTES // dtype.itemsize) == 0


def loss_and_gradient(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    shares: Tensor,
    most: int,
    into: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """The loss of a linear head's outputs, and its gradients: of a softmax over them, or of squared errors.

    Args:
        features: ``[C, R, F]``.
        weight: ``[C, K, F]``, every client's part contiguous.
        bias: ``[C, K]``, or None.
        targets: ``[C, R]`` int64, or ``[C, R, K]`` numbers, from which errors are taken.
        shares: ``[C, R]``, the weight of each prediction in the client's loss; 0 for one that does not count.
        most: threads; the numbers do not depend on them.
        into: where to write the gradients of weight and bias; every client's part contiguous.

    Returns:
        ``[C]`` loss, and the gradient of the features ``[C, R, F]``.

    Raises:
        IndexError: if a target is none of the outputs.
    """
    clients, rows, width = features.shape
    tokens = weight.shape[1]
    features, shares, targets = features.contiguous(), shares.contiguous(), targets.contiguous()
    squares = targets.dim() == 3
    if squares and (targets.shape != (clients, rows, tokens) or targets.dtype != features.dtype):
        raise ValueError(f"expected targets {[clients, rows, tokens]} {features.dtype}, not {list(targets.shape)}")
    if not squares:
        _check_targets(targets, 0, tokens)
    plan = _plan_of_many if tokens >= MANY and not squares else _plan_of_few
    walk, values, scratch_bytes = plan((clients, rows, width), tokens, features.dtype)
    table = values.copy()
    table[place.SQUARES] = squares
    loss, d_features = features.new_empty(clients), torch.empty_like(features)
    table[place.FEATURES], table[place.D_FEATURES] = features.data_ptr(), d_features.data_ptr()
    table[place.TARGETS], table[place.SHARES] = targets.data_ptr(), shares.data_ptr()
    table[place.LOSS] = loss.data_ptr()
    for at, one in ((place.W, weight), (place.BIAS, bias), (place.D_W, into[0]), (place.D_BIAS, into[1])):
        _point_to(table, at, one)
    workers = min(most, clients, 1 + 3 * clients * rows * width * tokens // _WORK_OF_A_THREAD)
    table[place.SCRATCH] = scratch.memory(workers * scratch_bytes)
    threads.run(walk, table.ctypes.data, workers)
    return loss, d_features


def scores(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a softmax over the outputs of a linear head, and where the outputs are right.

    Args:
        features: ``[C, R, F]``.
        weight: ``[C, K, F]``, every client's part contiguous.
        bias: ``[C, K]``, or None.
        targets: ``[C, R]`` int64, -1 for a prediction that does not count.
        most: threads; the numbers do not depend on them.

    Returns:
        the loss ``[C, R]``, 0 for what does not count; bool ``[C, R]``, whether the target has the largest output
        (the first of them); and ``[C, R]``, how many outputs are larger than the target's.
    """
    clients, rows, width = features.shape
    features, targets = features.contiguous(), targets.contiguous()
    _check_targets(targets, -1, weight.shape[1])
    walk, values, scratch_bytes = _plan_of_scores((clients, rows, width), weight.shape[1], features.dtype, most)
    table = values.copy()
    loss, hits, ahead = features.new_empty((3, clients, rows))
    table[place.FEATURES], table[place.TARGETS] = features.data_ptr(), targets.data_ptr()
    table[place.LOSS], table[place.HITS], table[place.AHEAD] = loss.data_ptr(), hits.data_ptr(), ahead.data_ptr()
    _point_to(table, place.W, weight)
    _point_to(table, place.BIAS, bias)
    workers = min(most, int(table[place.ITEMS]))
    table[place.SCRATCH] = scratch.memory(workers * scratch_bytes)
    threads.run(walk, table.ctypes.data, workers)
    return loss, hits.bool(), ahead


def _check_targets(targets: Tensor, lowest: int, tokens: int) -> None:
    """Refuse a target that is no output: the kernels would read and write elsewhere."""
    low, high = (int(bound) for bound in targets.aminmax())
    if low < lowest or high >= tokens:
        raise IndexError(f"targets from {low} to {high}, where there are {tokens} outputs")


def _point_to(table: Any, at: int, tensor: Tensor | None) -> None:
    """Write the address of the clients' parts of a tensor, and how far apart they are."""
    if tensor is not None:
        assert tensor[0].is_contiguous()
        table[at], table[at + 1] = tensor.data_ptr(), tensor.stride(0)


@lru_cache(maxsize=64)
def _plan_of_many(shape: tuple[int, int, int], tokens: int, dtype: torch.dtype) -> Plan:
    _, rows, width = shape
    chunk, lanes = place.LONG_CHUNK, VECTOR_BYTES // dtype.itemsize
    ld = -(-tokens // chunk) * chunk
    block = _even_blocks(rows, _ROWS_OF_MANY)
    table = _sizes(shape, tokens, ld, block, dtype)
    regions = {
        place.AT_LOGITS: block * ld,
        place.AT_ACROSS: width * (ld + 4 * lanes),
        place.AT_DOWN: tokens * (width + 4 * lanes),
        place.AT_FEATURES: block * (width + 4 * lanes),
        place.AT_BIAS: ld,
        place.AT_D_BIAS: ld,
        place.AT_REDUCED: 2 * chunk + width + 1,
    }
    return kernel("softmax", "run_softmax", WALK_KINDS, dtype), table, _reserve(table, regions, dtype)


@lru_cache(maxsize=64)
def _plan_of_few(shape: tuple[int, int, int], tokens: int, dtype: torch.dtype) -> Plan:
    _, rows, width = shape
    lanes = VECTOR_BYTES // dtype.itemsize
    block = _even_blocks(rows, _ROWS_OF_FEW)
    ld = -(-block // lanes) * lanes
    table = _sizes(shape, tokens, ld, block, dtype)
    regions = {
        place.AT_LOGITS: tokens * ld,
        place.AT_OWN: ld * width,
        place.AT_FEATURES: width * (ld + 3 * lanes),
        **dict.fromkeys((place.AT_MOST, place.AT_TOTAL, place.AT_RIGHT, place.AT_SHARES, place.AT_LOSS), ld),
        place.AT_D_BIAS: tokens * lanes,
        place.AT_ONES: block * lanes,
        place.AT_ZEROS: width,
    }
    return kernel("few_outputs", "run_few_outputs", WALK_KINDS, dtype), table, _reserve(table, regions, dtype)


@lru_cache(maxsize=64)
def _plan_of_scores(shape: tuple[int, int, int], tokens: int, dtype: torch.dtype, most: int) -> Plan:
    clients, rows, width = shape
    lanes = VECTOR_BYTES // dtype.itemsize
    chunk = place.LONG_CHUNK if tokens >= MANY else lanes
    ld = -(-tokens // chunk) * chunk
    block = min(rows, _ROWS_SCORED)
    table = _sizes(shape, tokens, ld, block, dtype)
    parts = max(1, min(-(-4 * most // clients), rows // _FEWEST_ROWS))  # so that no thread idles for long
    table[place.ITEMS], table[place.PARTS], table[place.CHUNK] = clients * parts, parts, chunk
    regions = {
        place.AT_LOGITS: block * ld,
        place.AT_ACROSS: width * (ld + 4 * lanes),
        place.AT_BIAS: ld,
        place.AT_REDUCED: 2 * chunk,
    }
    return kernel("softmax_scores", "run_scores", WALK_KINDS, dtype), table, _reserve(table, regions, dtype)


def _even_blocks(rows: int, most: int) -> int:
    """The predictions of a block, of blocks of about the same size."""
    return -(-rows // -(-rows // most))


def _sizes(shape: tuple[int, int, int], tokens: int, ld: int, block: int, dtype: torch.dtype) -> Any:
    """A table with the sizes of a call, one item per client."""
    table = np.zeros(place.TABLE_SIZE, np.int64)
    table[place.ITEMS], table[place.ROWS], table[place.WIDTH] = shape
    table[place.TOKENS], table[place.LD], table[place.BLOCK] = tokens, ld, block
    table[place.MULTIPLY] = kernel("product", "multiply", MULTIPLY_KINDS, dtype).address
    return table


def _reserve(table: Any, regions: dict[int, int], dtype: torch.dtype) -> int:
    """Lay a worker's regions out one after another, each of so many numbers; return the bytes of all of them."""
    end = 0
    for at, count in regions.items():
        table[at] = end
        end += -(-count // 64) * 64 + 64
    table[place.SCRATCH_STRIDE] = end
    return end * dtype.itemsize
