"""Elman's network with tanh or ReLU. Rows of ``saved``: the state after the step."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.formulas import Vector, elementwise, tanh
from fedsim.models.numba_kernels.pointers import advance
from fedsim.models.numba_kernels.product import product

Formula = tuple[Vector | None, ...]


def _tanh_state(a: Vector, h: Vector) -> Formula:
    a = tanh(a)
    return a, a


def _relu_state(a: Vector, h: Vector) -> Formula:
    a = a.where_less(0.0, 0.0)
    return a, a


def _tanh_gradient(a: Vector, d_h: Vector, to_a: Vector) -> Formula:
    return None, d_h.zero(), d_h * (1.0 - a * a)


def _relu_gradient(a: Vector, d_h: Vector, to_a: Vector) -> Formula:
    return None, d_h.zero(), d_h * a.positive()


_tanh_row, _relu_row = elementwise(_tanh_state), elementwise(_relu_state)
_tanh_gradient_row, _relu_gradient_row = elementwise(_tanh_gradient), elementwise(_relu_gradient)


def tanh_step(
    saved: Any,
    ld: int,
    previous: Any,
    previous_ld: int,
    h: Any,
    extra: Any,
    d_h: Any,
    d_cell: Any,
    ldh: int,
    work: Any,
    units: Any,
    d_gates: Any,
    ldg: int,
    m: int,
    hidden: int,
    state: int,
    w: Any,
    w_rest: Any,
    multiply: int,
) -> None:
    """One forward step; arguments as in `walk_forward`."""
    product(multiply, (saved, ld, saved, ld, h, ldh, 1, w, 0, m, hidden, hidden))
    for i in range(m):
        _tanh_row((advance(saved, i * ld), advance(h, i * ldh)), hidden)


def relu_step(
    saved: Any,
    ld: int,
    previous: Any,
    previous_ld: int,
    h: Any,
    extra: Any,
    d_h: Any,
    d_cell: Any,
    ldh: int,
    work: Any,
    units: Any,
    d_gates: Any,
    ldg: int,
    m: int,
    hidden: int,
    state: int,
    w: Any,
    w_rest: Any,
    multiply: int,
) -> None:
    """One forward step."""
    product(multiply, (saved, ld, saved, ld, h, ldh, 1, w, 0, m, hidden, hidden))
    for i in range(m):
        _relu_row((advance(saved, i * ld), advance(h, i * ldh)), hidden)


def tanh_step_back(
    saved: Any,
    ld: int,
    previous: Any,
    previous_ld: int,
    h: Any,
    extra: Any,
    d_h: Any,
    d_cell: Any,
    ldh: int,
    work: Any,
    units: Any,
    d_gates: Any,
    ldg: int,
    m: int,
    hidden: int,
    state: int,
    w: Any,
    w_rest: Any,
    multiply: int,
) -> None:
    """One backward step; arguments as in `walk_forward`."""
    for i in range(m):
        _tanh_gradient_row((advance(saved, i * ld), advance(d_h, i * ldh), advance(d_gates, i * ldg)), hidden)
    product(multiply, (d_h, ldh, d_h, ldh, d_gates, ldg, 1, w, 0, m, hidden, hidden))


def relu_step_back(
    saved: Any,
    ld: int,
    previous: Any,
    previous_ld: int,
    h: Any,
    extra: Any,
    d_h: Any,
    d_cell: Any,
    ldh: int,
    work: Any,
    units: Any,
    d_gates: Any,
    ldg: int,
    m: int,
    hidden: int,
    state: int,
    w: Any,
    w_rest: Any,
    multiply: int,
) -> None:
    """One backward step; arguments as in `walk_forward`."""
    for i in range(m):
        _relu_gradient_row((advance(saved, i * ld), advance(d_h, i * ldh), advance(d_gates, i * ldg)), hidden)
    product(multiply, (d_h, ldh, d_h, ldh, d_gates, ldg, 1, w, 0, m, hidden, hidden))
