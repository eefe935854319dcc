"""Distances between the rows of a cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.aggregation.columns import median_of_sorted, over_clients

if TYPE_CHECKING:
    from torch import Tensor


def squared_distances(deltas: Tensor) -> Tensor:
    """Return ``[C, C]`` float64 squared Euclidean distances between rows ``[C, P]``.

    They are ``|a|^2 + |b|^2 - 2ab``, one matrix product per block of parameters. This loses digits to cancellation
    where rows are long and near each other, so their median is subtracted first: most rows are near it, however far
    away outliers may be. Distances too large for float64 are infinite.
    """
    centre = over_clients(deltas, median_of_sorted)
    products = torch.zeros(len(deltas), len(deltas), dtype=torch.float64, device=deltas.device)
    width = max(1, 2**21 // len(deltas))
    for block, middle in zip(deltas.split(width, dim=1), centre.split(width), strict=True):
        shifted = block.double() - middle
        products += shifted @ shifted.T
    squares = products.diagonal()
    distances = squares[:, None] + squares - 2 * products
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf).clamp(min=0).fill_diagonal_(0)
