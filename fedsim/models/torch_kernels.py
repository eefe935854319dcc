"""Recurrent layers with a leading client axis, forward and backward by hand, in batched torch operations.

This is the path for GPUs and the check of the fused CPU kernels; both offer the same two functions:

``forward(cell, x, weights) -> states, saved`` and ``backward(cell, x, weights, states, saved, ...) -> gradients``.

Shapes: ``C`` clients, ``T`` steps, ``b`` samples, ``D`` inputs, ``H`` units, ``G = gates * H``. Arrays lie
``[C, T, b, ...]``, so that all steps of a client form one matrix for the products that need no recurrence. The
initial state is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Weights(NamedTuple):
    """One layer's parameters.

    ``w_ih [C, G, D]``, ``w_hh [C, G, S]``, ``b_ih [C, G]`` and ``b_hh [C, G]`` (or None). The state has S = H numbers,
    or fewer if an LSTM or CIFG makes it of its H units by ``w_hr [C, S, H]``.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None = None


class StateGradient(NamedTuple):
    """The loss gradient with respect to a layer's states: of every step or of the last one.

    Attributes:
        every: ``[C, T, b, H]``, gradient of each step's state, or None.
        last: ``[C, b, H]``, gradient of each sample's last valid state, or None.
        lengths: ``[C, b]`` int64, valid steps of each sample (where `last` belongs).
    """

    every: Tensor | None
    last: Tensor | None
    lengths: Tensor


class Gradients(NamedTuple):
    """Gradients of one layer: its input ``[C, T, b, D]`` (or None if not asked for) and its `Weights`."""

    x: Tensor | None
    weights: Weights


def forward(
    cell: str, x: Tensor, weights: Weights, lengths: Tensor | None = None, keep: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Run one layer over all steps.

    Args:
        cell: ``rnn_tanh, rnn_relu, lstm, cifg, gru`` or ``gru_reset_before``.
        x: ``[C, T, b, D]``.
        weights: the layer's parameters.
        lengths: ``[C, b]`` int64 valid steps, 0 for a sample that does not count. Kernels may skip the steps beyond;
            these do not: in batched operations that costs more than it saves.
        keep: whether a backward pass follows; here it makes no difference.

    Returns:
        states ``[C, T + 1, b, H]`` (``states[:, 0]`` is zero, ``states[:, 1:]`` the outputs) and what `backward` needs.
    """
    c, t_max, b, _ = x.shape
    hidden = weights.w_hh.shape[2]
    if cell in ("lstm", "cifg"):
        return _forward_cells(cell, x, weights)
    gx = _project(x, weights.w_ih, weights.b_ih)
    # [C, H, G] made contiguous once per layer: products with the transposed view run at half the speed.
    u = weights.w_hh.transpose(1, 2).contiguous()
    bias = None if weights.b_hh is None else weights.b_hh[:, None]
    states = x.new_zeros(c, t_max + 1, b, hidden)
    h = states[:, 0].contiguous()

    if cell in ("rnn_tanh", "rnn_relu"):
        squash = torch.tanh if cell == "rnn_tanh" else torch.relu
        for t in range(t_max):
            h = squash(gx[:, t] + _affine(h, u, bias))
            states[:, t + 1] = h
        return states, []

    gates = torch.empty_like(gx)
    extra = torch.empty_like(states[:, 1:])  # gru: U h + c of the candidate; gru_reset_before: r * h
    for t in range(t_max):
        g = gates[:, t]
        if cell == "gru":
            a = _affine(h, u, bias)
            rz = torch.sigmoid(gx[:, t, :, : 2 * hidden] + a[..., : 2 * hidden])
            q = a[..., 2 * hidden :]
            n = torch.tanh(gx[:, t, :, 2 * hidden :] + rz[..., :hidden] * q)
            h = torch.lerp(n, h, rz[..., hidden:])
        else:
            rz = torch.sigmoid(gx[:, t, :, : 2 * hidden] + _affine(h, u[..., : 2 * hidden], _head(bias, 2 * hidden)))
            q = rz[..., :hidden] * h
            n = torch.tanh(gx[:, t, :, 2 * hidden :] + _affine(q, u[..., 2 * hidden :], _tail(bias, 2 * hidden)))
            h = torch.lerp(h, n, rz[..., hidden:])
        g[..., : 2 * hidden], g[..., 2 * hidden :], extra[:, t], states[:, t + 1] = rz, n, q, h
    return states, [gates, extra]


def _forward_cells(cell: str, x: Tensor, weights: Weights) -> tuple[Tensor, list[Tensor]]:
    """`forward` of the cells that have a state of their own beside h."""
    c, t_max, b, _ = x.shape
    gx = _project(x, weights.w_ih, weights.b_ih)
    u = weights.w_hh.transpose(1, 2).contiguous()
    down = None if weights.w_hr is None else weights.w_hr.transpose(1, 2).contiguous()
    bias = None if weights.b_hh is None else weights.b_hh[:, None]
    states = x.new_zeros(c, t_max + 1, b, u.shape[1])
    h = states[:, 0].contiguous()
    cells = x.new_zeros(c, t_max + 1, b, gx.shape[3] // (4 if cell == "lstm" else 3))
    state = cells[:, 0].contiguous()
    gates = torch.empty_like(gx)
    for t in range(t_max):
        a = gx[:, t] + _affine(h, u, bias)
        if cell == "lstm":
            i, f, g, o = a.chunk(4, dim=2)
            i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
            state = f * state + i * g
        else:
            f, g, o = a.chunk(3, dim=2)
            f.sigmoid_(), g.tanh_(), o.sigmoid_()
            state = torch.lerp(g, state, f)
        h = o * state.tanh()
        if down is not None:
            h = torch.bmm(h, down)
        gates[:, t], cells[:, t + 1], states[:, t + 1] = a, state, h
    return states, [gates, cells]


def backward(
    cell: str,
    x: Tensor,
    weights: Weights,
    states: Tensor,
    saved: list[Tensor],
    gradient: StateGradient,
    need_x: bool,
    into: Weights | None = None,
) -> Gradients:
    """Back-propagate through one layer's steps.

    Args:
        cell: as in `forward`.
        x: the layer's input ``[C, T, b, D]``.
        weights: the layer's parameters.
        states: from `forward`.
        saved: from `forward`.
        gradient: of the loss with respect to the states.
        need_x: whether the gradient of `x` is wanted.
        into: where to write the gradients of the weights, instead of new tensors.
    """
    c, t_max, b, d = x.shape
    hidden, w = weights.w_hh.shape[2], weights.w_hh
    d_gx = x.new_empty(c, t_max, b, w.shape[1])  # gradient of the pre-activations as the input's product sees them
    d_gh = d_gx if cell != "gru" else torch.empty_like(d_gx)  # ... and as the state's product sees them
    dh = x.new_zeros(c, b, hidden)
    d_cell, w_hr = torch.zeros_like(dh), weights.w_hr
    d_projected = None if w_hr is None else x.new_empty(c, t_max, b, hidden)
    if w_hr is not None:
        d_cell = x.new_zeros(c, b, w_hr.shape[2])
    for t in range(t_max - 1, -1, -1):
        if gradient.every is not None:
            dh = dh + gradient.every[:, t]
        if gradient.last is not None:
            dh = dh + gradient.last * (gradient.lengths == t + 1)[..., None]
        h = states[:, t]
        if cell == "rnn_tanh":
            d_gx[:, t] = dh * (1 - states[:, t + 1] ** 2)
        elif cell == "rnn_relu":
            d_gx[:, t] = dh * (states[:, t + 1] > 0)
        elif cell in ("lstm", "cifg"):
            gates, cells = saved
            if w_hr is not None and d_projected is not None:
                d_projected[:, t] = dh
                dh = torch.bmm(dh, w_hr)
            *i, f, g, o = gates[:, t].chunk(4 if cell == "lstm" else 3, dim=2)
            squashed = cells[:, t + 1].tanh()
            d_cell = d_cell + dh * o * (1 - squashed**2)
            if cell == "lstm":
                d_inner = [d_cell * g * i[0] * (1 - i[0]), d_cell * cells[:, t] * f * (1 - f), d_cell * i[0]]
            else:
                d_inner = [d_cell * (cells[:, t] - g) * f * (1 - f), d_cell * (1 - f)]
            d_inner[-1] = d_inner[-1] * (1 - g**2)
            d_gx[:, t] = torch.cat([*d_inner, dh * squashed * o * (1 - o)], dim=2)
            d_cell = d_cell * f
        else:
            gates, extra = saved
            r, z, n = gates[:, t].chunk(3, dim=2)
            q = extra[:, t]
            if cell == "gru":
                dn = dh * (1 - z) * (1 - n**2)
                dz = dh * (h - n) * z * (1 - z)
                dr = dn * q * r * (1 - r)
                d_gx[:, t] = torch.cat([dr, dz, dn], dim=2)
                d_gh[:, t] = torch.cat([dr, dz, dn * r], dim=2)
                dh = torch.baddbmm(dh * z, d_gh[:, t], w)
            else:
                dn = dh * z * (1 - n**2)
                dz = dh * (n - h) * z * (1 - z)
                dq = torch.bmm(dn, w[:, 2 * hidden :])
                dr = dq * h * r * (1 - r)
                d_gx[:, t] = torch.cat([dr, dz, dn], dim=2)
                dh = torch.baddbmm(dh * (1 - z) + dq * r, d_gx[:, t, :, : 2 * hidden], w[:, : 2 * hidden])
            continue
        dh = torch.bmm(d_gx[:, t], w)

    # Weight gradients need no recurrence: one product per parameter over all steps and samples.
    rows_x, rows_h = d_gx.view(c, t_max * b, -1), d_gh.view(c, t_max * b, -1)
    previous = states[:, :t_max].reshape(c, t_max * b, hidden)
    if cell == "gru_reset_before":
        reset = saved[1].reshape(c, t_max * b, hidden)
        d_w_hh = torch.cat(
            [
                torch.bmm(rows_h[..., : 2 * hidden].transpose(1, 2), previous),
                torch.bmm(rows_h[..., 2 * hidden :].transpose(1, 2), reset),
            ],
            dim=1,
        )
    else:
        d_w_hh = torch.bmm(rows_h.transpose(1, 2), previous)
    bias = weights.b_ih is not None
    d_weights = Weights(
        torch.bmm(rows_x.transpose(1, 2), x.reshape(c, t_max * b, d)),
        d_w_hh,
        rows_x.sum(1) if bias else None,
        rows_h.sum(1) if bias else None,
        None if d_projected is None else _projection_gradient(d_projected, *saved),
    )
    for target, value in zip(into or (), d_weights, strict=False):
        if target is not None and value is not None:
            target.copy_(value)
    dx = torch.bmm(rows_x, weights.w_ih).view(c, t_max, b, d) if need_x else None
    return Gradients(dx, into or d_weights)


def _projection_gradient(d_states: Tensor, gates: Tensor, cells: Tensor) -> Tensor:
    """The gradient ``[C, S, H]`` of ``w_hr``, whose input was ``o * tanh(c)``, from those of the states it made."""
    units = gates[..., -cells.shape[3] :] * cells[:, 1:].tanh()
    return torch.bmm(d_states.flatten(1, 2).transpose(1, 2), units.flatten(1, 2))


def _project(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """The input's share of the pre-activations of all steps at once, ``[C, T, b, G]``."""
    c, t_max, b, d = x.shape
    flat = x.reshape(c, t_max * b, d)
    return _affine(flat, w.transpose(1, 2), None if bias is None else bias[:, None]).view(c, t_max, b, -1)


def _affine(h: Tensor, u: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(h, u) if bias is None else torch.baddbmm(bias, h, u)


def _head(bias: Tensor | None, size: int) -> Tensor | None:
    return None if bias is None else bias[..., :size]


def _tail(bias: Tensor | None, size: int) -> Tensor | None:
    return None if bias is None else bias[..., size:]
