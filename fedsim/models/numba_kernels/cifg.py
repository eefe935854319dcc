"""LSTM with coupled gates. Rows of ``saved``: the gates ``f, g, o`` and the cell state after the step."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.formulas import Vector, elementwise, sigmoid, tanh, units_row
from fedsim.models.numba_kernels.pointers import advance
from fedsim.models.numba_kernels.product import product

Formula = tuple[Vector | None, ...]


def _gates(f: Vector, g: Vector, o: Vector, cell: Vector, previous: Vector, h: Vector) -> Formula:
    f, g, o = sigmoid(f), tanh(g), sigmoid(o)
    cell = f * previous + (1.0 - f) * g
    return f, g, o, cell, None, o * tanh(cell)


def _gate_gradients(
    f: Vector,
    g: Vector,
    o: Vector,
    cell: Vector,
    previous: Vector,
    d_h: Vector,
    d_cell: Vector,
    to_f: Vector,
    to_g: Vector,
    to_o: Vector,
) -> Formula:
    squashed = tanh(cell)  # cheaper to compute again than to write and read
    d_cell = d_cell + d_h * o * (1.0 - squashed * squashed)
    d_f = d_cell * (previous - g) * f * (1.0 - f)
    d_g = d_cell * (1.0 - f) * (1.0 - g * g)
    d_o = d_h * squashed * o * (1.0 - o)
    return None, None, None, None, None, d_h.zero(), d_cell * f, d_f, d_g, d_o


_gates_row, _gate_gradients_row = elementwise(_gates), elementwise(_gate_gradients)


def step(
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
    product(multiply, (saved, ld, saved, ld, h, ldh, 1, w, 0, m, 3 * hidden, state))
    for row in range(m):
        f = advance(saved, row * ld)
        g = advance(f, hidden)
        o = advance(g, hidden)
        before = advance(previous, row * previous_ld + 3 * hidden)
        _gates_row((f, g, o, advance(o, hidden), before, advance(units, row * ldh)), hidden)


def step_back(
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
    if state < hidden:
        for row in range(m):
            o = advance(saved, row * ld + 2 * hidden)
            units_row((advance(extra, row * ldh), o, advance(o, hidden)), hidden)
    for row in range(m):
        f = advance(saved, row * ld)
        g = advance(f, hidden)
        o = advance(g, hidden)
        to_f = advance(d_gates, row * ldg)
        to_g = advance(to_f, hidden)
        _gate_gradients_row(
            (
                f,
                g,
                o,
                advance(o, hidden),
                advance(previous, row * previous_ld + 3 * hidden),
                advance(units, row * ldh),
                advance(d_cell, row * ldh),
                to_f,
                to_g,
                advance(to_g, hidden),
            ),
            hidden,
        )
    product(multiply, (d_h, ldh, units, ldh, d_gates, ldg, 1, w, 0, m, state, 3 * hidden))
