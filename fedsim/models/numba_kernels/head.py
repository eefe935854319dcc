"""The head, its softmax, loss and gradients: by `softmax_few` or `softmax`, as it has few outputs or many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.models.numba_kernels import scratch, softmax, softmax_few, threads
from fedsim.models.numba_kernels.pointers import VECTOR_BYTES

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_TOKENS = 256
"""From as many outputs on, `softmax` is as fast as `softmax_few`, and the more there are, the faster."""
_WORK_OF_A_THREAD = 1 << 20
"""Multiplications that take about as long as it takes to wake a thread and to wait for it, some times over."""


def fits(width: int, dtype: torch.dtype) -> bool:
    """Whether `loss_and_gradient` takes a head of this shape: one whose rows are whole vectors."""
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
    """The loss of a softmax over the outputs of a linear head, and its gradients.

    Args:
        features: ``[C, R, F]``.
        weight: ``[C, K, F]``, every client's part contiguous.
        bias: ``[C, K]``, or None.
        targets: ``[C, R]`` int64.
        shares: ``[C, R]``, the weight of each prediction in the client's loss; 0 for one that does not count.
        most: threads; the numbers do not depend on them.
        into: where to write the gradients of weight and bias; every client's part contiguous.

    Returns:
        ``[C]`` loss, and the gradient of the features ``[C, R, F]``.
    """
    clients, rows, width = features.shape
    tokens = weight.shape[1]
    features, shares, targets = features.contiguous(), shares.contiguous(), targets.contiguous()
    of = softmax if tokens >= FEWEST_TOKENS else softmax_few
    kernel, values, scratch_bytes = of.plan((clients, rows, width), tokens, features.dtype)
    table = values.copy()
    loss, d_features = features.new_empty(clients), torch.empty_like(features)
    table[softmax.FEATURES], table[softmax.D_FEATURES] = features.data_ptr(), d_features.data_ptr()
    table[softmax.TARGETS], table[softmax.SHARES] = targets.data_ptr(), shares.data_ptr()
    table[softmax.LOSS] = loss.data_ptr()
    places = (softmax.W, softmax.BIAS, softmax.D_W, softmax.D_BIAS)
    for place, one in zip(places, (weight, bias, *into), strict=True):
        if one is not None:
            assert one[0].is_contiguous()
            table[place], table[place + 1] = one.data_ptr(), one.stride(0)
    workers = min(most, clients, 1 + 3 * clients * rows * width * tokens // _WORK_OF_A_THREAD)
    table[softmax.SCRATCH] = scratch.memory(workers * scratch_bytes)
    threads.run(kernel, table.ctypes.data, workers)
    return loss, d_features
