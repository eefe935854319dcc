"""From the states of the last recurrent layer to the outputs, and the gradient back, for many clients at once.

In their order: each state, or one for a sequence by ``model.pooling``; the dense layer of ``model.head_projection``;
and the head, whose weights are those of the embedding with ``model.tied_embeddings``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from fedsim.data.batches import Batch
from fedsim.data.dataset import Task
from fedsim.models import pooling
from fedsim.models.recurrent import Architecture
from fedsim.models.torch_kernels import StateGradient

if TYPE_CHECKING:
    from torch import Tensor


class HeadTape(NamedTuple):
    """What the backward pass needs: R predictions of a client, from S numbers, and F after the dense layer.

    Attributes:
        pooled: ``[C, R, S]``, what comes out of the recurrent layers.
        features: ``[C, R, F]``, what the head's weights are multiplied with.
        states: ``[C, T, b, S]`` of which `pooled` was made, or None if it is some of them.
        shares: ``[C, T, b]``, those of the steps in it, or None.
    """

    pooled: Tensor
    features: Tensor
    states: Tensor | None
    shares: Tensor | None


def forward(
    arch: Architecture, views: dict[str, Tensor], x: Tensor, states: list[Tensor], batch: Batch
) -> tuple[Tensor, HeadTape]:
    """Return the outputs ``[C, R, K]`` and the tape; R is b, or T * b (step-major) for a target at every step.

    Args:
        arch: the model.
        views: its parameters by name, ``[C, ...]``.
        x: ``[C, T, b, S]``, what comes out of the last recurrent layer.
        states: its states, the initial one included: ``[C, T + 1, b, S]``, or half as wide, one of either direction, in
            the order in which it reads.
        batch: the samples.
    """
    every = shares = None
    if arch.task is Task.SEQUENCE_LABELLING:
        pooled = x.reshape(x.shape[0], -1, x.shape[3])  # [C, T * b, S]
    elif arch.model.pooling == "last":
        ends = [_last(each, batch) for each in states]
        pooled = ends[0] if len(ends) == 1 else torch.cat(ends, dim=2)  # [C, b, S]
    else:
        every = x
        pooled, shares = pooling.forward(arch.model.pooling, every, batch.lengths, views.get("pooling.weight"))
    features = pooled
    if arch.model.head_projection is not None:
        features = _dense(pooled, views["projection.weight"], views.get("projection.bias"))
        if arch.model.head_activation == "tanh":
            features.tanh_()
    outputs = _dense(features, views[arch.head_weight], views.get("head.bias"))
    return outputs, HeadTape(pooled, features, every, shares)


def backward(
    arch: Architecture,
    views: dict[str, Tensor],
    tape: HeadTape,
    d_outputs: Tensor,
    batch: Batch,
    grads: dict[str, Tensor],
) -> tuple[StateGradient, Tensor | None]:
    """Write the gradients of projection and head, and return that of the states.

    Args:
        arch: the model.
        views: its parameters by name.
        tape: from `forward`.
        d_outputs: ``[C, R, K]``, gradient of the outputs.
        batch: the samples.
        grads: where the gradients go, by name.

    Returns:
        the gradient with respect to the states, and, where the head's weights are the embedding, their part of its
        gradient ``[C, V, E]``, which is in no place of `grads` yet.
    """
    d_weight = torch.bmm(d_outputs.transpose(1, 2), tape.features)
    if not arch.model.tied_embeddings:
        grads["head.weight"].copy_(d_weight)
    if arch.model.bias:
        torch.sum(d_outputs, dim=1, out=grads["head.bias"])
    d_states = torch.bmm(d_outputs, views[arch.head_weight])
    if arch.model.head_projection is not None:
        if arch.model.head_activation == "tanh":
            d_states.mul_(1 - tape.features.square())
        grads["projection.weight"].copy_(torch.bmm(d_states.transpose(1, 2), tape.pooled))
        if arch.model.bias:
            torch.sum(d_states, dim=1, out=grads["projection.bias"])
        d_states = torch.bmm(d_states, views["projection.weight"])
    tied = d_weight if arch.model.tied_embeddings else None
    if arch.task is Task.SEQUENCE_LABELLING:
        c, b = batch.lengths.shape
        return StateGradient(d_states.view(c, -1, b, d_states.shape[2]), None, batch.lengths), tied
    if tape.states is not None:
        query = views.get("pooling.weight")
        every, d_query = pooling.backward(tape.states, batch.lengths, query, tape.pooled, tape.shares, d_states)
        if d_query is not None:
            grads["pooling.weight"].copy_(d_query)
        return StateGradient(every, None, batch.lengths), tied
    return StateGradient(None, d_states, batch.lengths), tied


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b`` of every client: ``[C, R, in]``, ``[C, out, in]`` and ``[C, out]`` (or None) to ``[C, R, out]``."""
    result = torch.bmm(x, weight.transpose(1, 2))
    if bias is not None:
        result += bias[:, None]
    return result


def _last(states: Tensor, batch: Batch) -> Tensor:
    """The state after each sample's last valid step, ``[C, b, S]`` out of ``[C, T + 1, b, S]``."""
    if not batch.padded:
        return states[:, -1]
    index = batch.lengths[:, None, :, None].expand(-1, 1, -1, states.shape[3])
    return states.gather(1, index)[:, 0]
