"""A step of Adam of many clients, in one pass over rows, gradients and moments instead of eight."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.adam_table import (
    COUNT,
    GRADIENT,
    ITEM,
    ITEMS,
    MEAN,
    NUMBERS,
    PART,
    PARTS,
    ROWS,
    SCALES,
    SQUARE,
)
from fedsim.models.numba_kernels.formulas import Vector, elementwise_with, sqrt
from fedsim.models.numba_kernels.pointers import advance, as_table, at_address, njit, take_ticket


def _formula(
    row: Vector,
    gradient: Vector,
    mean: Vector,
    square: Vector,
    rate: Vector,
    scale: Vector,
    fresh: Vector,
    kept_square: Vector,
    fresh_square: Vector,
    eps: Vector,
) -> tuple[Vector | None, ...]:
    mean = mean + (gradient - mean) * fresh
    square = square * kept_square + gradient * gradient * fresh_square
    return row - rate * (mean / (sqrt(square) / scale + eps)), None, mean, square


_step = elementwise_with(_formula)


@njit
def _item(data: Any, item: int) -> None:
    table = as_table(data)
    client, part = item // table[PARTS], item % table[PARTS]
    first = part * table[PART]
    count = min(table[PART], table[COUNT] - first)
    row = advance(at_address(data, table[ROWS]), client * table[ROWS + 1] + first)
    gradient = advance(at_address(data, table[GRADIENT]), client * table[GRADIENT + 1] + first)
    mean = advance(at_address(data, table[MEAN]), client * table[MEAN + 1] + first)
    square = advance(at_address(data, table[SQUARE]), client * table[SQUARE + 1] + first)
    scales, numbers = at_address(data, table[SCALES]), at_address(data, table[NUMBERS])
    own = scales[2 * client], scales[2 * client + 1], numbers[0], numbers[1], numbers[2], numbers[3]
    _step((row, gradient, mean, square), count, own)


def run_adam(data: Any) -> None:
    """Process items until none is left; `data` is the table, typed as a pointer to the numbers' type."""
    table = as_table(data)
    while True:
        item = take_ticket(advance(table, ITEM))
        if item >= table[ITEMS]:
            return
        _item(data, item)
