"""One vector of all steps of a sequence, ``model.pooling``, and the gradient back, for many clients at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def forward(pooling: str, x: Tensor, lengths: Tensor, query: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Pool states over the valid steps.

    Args:
        pooling: ``mean``, ``max`` or ``attention``.
        x: ``[C, T, b, S]``, the states.
        lengths: ``[C, b]`` int64, valid steps; a sample with none has the state of its first step, which nobody uses.
        query: ``[C, 1, S]``, what states are multiplied with for their attention, only for that.

    Returns:
        ``[C, b, S]``, and each step's share ``[C, T, b]`` in it, or None for ``max``.
    """
    valid = _valid(x, lengths)
    if pooling == "max":
        return x.masked_fill(~valid[..., None], -torch.inf).amax(1), None
    if pooling == "mean":
        shares = valid / lengths[:, None].clamp(min=1).to(x.dtype)
    else:
        assert query is not None
        scores = torch.bmm(x.flatten(1, 2), query.transpose(1, 2)).view(valid.shape)
        shares = scores.masked_fill(~valid, -torch.inf).softmax(1)
    return (shares[..., None] * x).sum(1), shares


def backward(
    x: Tensor, lengths: Tensor, query: Tensor | None, pooled: Tensor, shares: Tensor | None, gradient: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Go back from the gradient ``[C, b, S]`` of what `forward` returned as `pooled` and `shares`.

    Returns:
        the gradients of `x` and of `query` (None without one). Of steps that share a maximum, each gets an equal part.
    """
    if shares is None:
        largest = (x == pooled[:, None]) & _valid(x, lengths)[..., None]
        return largest * (gradient / largest.sum(1))[:, None], None
    d_x = shares[..., None] * gradient[:, None]
    if query is None:
        return d_x, None
    d_shares = (x * gradient[:, None]).sum(3)
    d_scores = shares * (d_shares - (shares * d_shares).sum(1, keepdim=True))
    d_x += d_scores[..., None] * query[:, None]
    return d_x, torch.bmm(d_scores.flatten(1)[:, None], x.flatten(1, 2))


def _valid(x: Tensor, lengths: Tensor) -> Tensor:
    """``[C, T, b]`` bool, which steps count: at least the first."""
    steps = torch.arange(x.shape[1], device=x.device)
    return steps[:, None] < lengths[:, None].clamp(min=1)
