"""Steps of local optimizers by a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.models.numba_kernels import adam_table as place
from fedsim.models.numba_kernels import threads
from fedsim.models.numba_kernels.kernels import kernel
from fedsim.models.numba_kernels.table import WALK_KINDS

if TYPE_CHECKING:
    from torch import Tensor

_PART = 1 << 13
"""Numbers of an item: rows, gradients and moments of as many lie in the core's own cache."""
_NUMBERS_OF_A_THREAD = 1 << 16
"""Numbers that take some times as long as it takes to wake a thread and to wait for it."""


def adam(
    moments: tuple[Tensor, Tensor, Tensor, Tensor],
    scales: Tensor,
    numbers: tuple[float, float, float, float],
    most: int,
) -> None:
    """Update rows and moments in place.

    Args:
        moments: rows, gradients, first and second moments, each ``[C, P]`` with every client's part contiguous.
        scales: ``[C, 2]``, the learning rate over the first moment's bias, and the root of the second one's.
        numbers: ``1 - beta1``, ``beta2``, ``1 - beta2`` and epsilon.
        most: threads; the numbers do not depend on them.
    """
    rows = moments[0]
    clients, count = rows.shape
    table = np.zeros(place.TABLE_SIZE, np.int64)
    parts = -(-count // _PART)
    table[place.ITEMS], table[place.PARTS], table[place.PART], table[place.COUNT] = clients * parts, parts, _PART, count
    given = torch.tensor(numbers, dtype=rows.dtype)
    scales = scales.contiguous()
    table[place.SCALES], table[place.NUMBERS] = scales.data_ptr(), given.data_ptr()
    for at, one in zip((place.ROWS, place.GRADIENT, place.MEAN, place.SQUARE), moments, strict=True):
        if one.shape != rows.shape or one.dtype != rows.dtype or one.stride(1) != 1:
            raise ValueError(f"expected rows {list(rows.shape)} {rows.dtype}, not {list(one.shape)} {one.dtype}")
        table[at], table[at + 1] = one.data_ptr(), one.stride(0)
    workers = min(most, 1 + clients * count // _NUMBERS_OF_A_THREAD)
    threads.run(kernel("adam", "run_adam", WALK_KINDS, rows.dtype), table.ctypes.data, workers)
