"""Statistics and sums over the clients, block by block, so that no float64 copy of a whole cohort is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from fedsim.core.cohort import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_NUMBERS = 2**21
"""Values per block of parameters: sorting one takes a float64 copy and an index per value."""


def over_clients(deltas: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a statistic to every column.

    Args:
        deltas: ``[C, P]``.
        statistic: takes ``[p, C]`` float64, each parameter's values in ascending order, and returns ``[p]``.

    Returns:
        ``[P]`` float64.
    """
    width = max(1, BLOCK_NUMBERS // len(deltas))
    blocks = (block.T.double().contiguous().sort(1).values for block in deltas.split(width, dim=1))
    return torch.cat([statistic(block) for block in blocks])


def median_of_sorted(values: Tensor) -> Tensor:
    """The median ``[p]`` of ascending rows ``[p, C]``: the mean of the middle two where C is even."""
    count = values.shape[1]
    return (values[:, (count - 1) // 2] + values[:, count // 2]) / 2


def weighted_sum(deltas: Tensor, weights: Tensor) -> Tensor:
    """``sum(weights_k * delta_k)`` ``[P]`` in float64, block by block."""
    total = torch.zeros(deltas.shape[1], dtype=torch.float64, device=deltas.device)
    for block, part in zip(deltas.split(BLOCK), weights.split(BLOCK), strict=True):
        total += part @ block.double()
    return total
