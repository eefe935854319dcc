"""The two gated recurrent units. Rows of ``saved``: ``q, r, z, n`` (gru) and ``r, z, n`` (gru_reset_before)."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.formulas import Vector, elementwise, sigmoid, tanh
from fedsim.models.numba_kernels.pointers import advance, clear
from fedsim.models.numba_kernels.product import product

Formula = tuple[Vector | None, ...]


def _gates(q: Vector, r: Vector, z: Vector, n: Vector, h: Vector) -> Formula:
    r, z = sigmoid(r), sigmoid(z)
    n = tanh(n + r * q)
    return None, r, z, n, n + z * (h - n)


def _gate_gradients(
    q: Vector,
    r: Vector,
    z: Vector,
    n: Vector,
    h: Vector,
    d_h: Vector,
    to_q: Vector,
    to_r: Vector,
    to_z: Vector,
    to_n: Vector,
) -> Formula:
    d_n = d_h * (1.0 - z) * (1.0 - n * n)
    d_z = d_h * (h - n) * z * (1.0 - z)
    d_r = d_n * q * r * (1.0 - r)
    return None, None, None, None, None, d_h * z, d_n * r, d_r, d_z, d_n


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
    product(multiply, (saved, ld, saved, ld, h, ldh, 1, w, 0, m, 3 * hidden, hidden))
    for i in range(m):
        q = advance(saved, i * ld)
        r = advance(q, hidden)
        z = advance(r, hidden)
        _gates_row((q, r, z, advance(z, hidden), advance(h, i * ldh)), hidden)


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
    for i in range(m):
        q = advance(saved, i * ld)
        r = advance(q, hidden)
        z = advance(r, hidden)
        to_q = advance(d_gates, i * ldg)
        to_r = advance(to_q, hidden)
        to_z = advance(to_r, hidden)
        _gate_gradients_row(
            (
                q,
                r,
                z,
                advance(z, hidden),
                advance(h, i * ldh),
                advance(d_h, i * ldh),
                to_q,
                to_r,
                to_z,
                advance(to_z, hidden),
            ),
            hidden,
        )
    product(multiply, (d_h, ldh, d_h, ldh, d_gates, ldg, 1, w, 0, m, hidden, 3 * hidden))


def _first_gates(r: Vector, z: Vector, h: Vector, reset: Vector) -> Formula:
    r = sigmoid(r)
    return r, sigmoid(z), None, r * h


def _candidate(z: Vector, n: Vector, h: Vector) -> Formula:
    n = tanh(n)
    return None, n, h + z * (n - h)


def _candidate_gradients(z: Vector, n: Vector, h: Vector, d_h: Vector, to_z: Vector, to_n: Vector) -> Formula:
    return None, None, None, d_h * (1.0 - z), d_h * (n - h) * z * (1.0 - z), d_h * z * (1.0 - n * n)


def _reset_gradients(r: Vector, h: Vector, d_reset: Vector, d_h: Vector, to_r: Vector, reset: Vector) -> Formula:
    return None, None, None, d_h + d_reset * r, d_reset * h * r * (1.0 - r), r * h


_first_gates_row, _candidate_row = elementwise(_first_gates), elementwise(_candidate)
_candidate_gradients_row, _reset_gradients_row = elementwise(_candidate_gradients), elementwise(_reset_gradients)


def reset_before_step(
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
    """One forward step of the GRU of Cho 2014."""
    product(multiply, (saved, ld, saved, ld, h, ldh, 1, w, 0, m, 2 * hidden, hidden))
    for i in range(m):
        r = advance(saved, i * ld)
        _first_gates_row((r, advance(r, hidden), advance(h, i * ldh), advance(work, i * ldh)), hidden)
    product(
        multiply,
        (advance(saved, 2 * hidden), ld, advance(saved, 2 * hidden), ld, work, ldh, 1, w_rest, 0, m, hidden, hidden),
    )
    for i in range(m):
        z = advance(saved, i * ld + hidden)
        _candidate_row((z, advance(z, hidden), advance(h, i * ldh)), hidden)


def reset_before_step_back(
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
        z = advance(saved, i * ld + hidden)
        to_z = advance(d_gates, i * ldg + hidden)
        _candidate_gradients_row(
            (z, advance(z, hidden), advance(h, i * ldh), advance(d_h, i * ldh), to_z, advance(to_z, hidden)), hidden
        )
    clear(work, m * ldh)
    product(multiply, (work, ldh, work, ldh, advance(d_gates, 2 * hidden), ldg, 1, w_rest, 0, m, hidden, hidden))
    for i in range(m):
        at = i * ldh
        _reset_gradients_row(
            (
                advance(saved, i * ld),
                advance(h, at),
                advance(work, at),
                advance(d_h, at),
                advance(d_gates, i * ldg),
                advance(extra, at),
            ),
            hidden,
        )
    product(multiply, (d_h, ldh, d_h, ldh, d_gates, ldg, 1, w, 0, m, hidden, 2 * hidden))
