"""Loss, gradient and predictions of many clients' models at once.

Rows ``[C, P]`` and a batch per client go in, a loss per client and gradient rows ``[C, P]`` come out. PyTorch cannot
`vmap` over its recurrent modules, so the layers bring their own backward pass (`torch_kernels`, `numba_kernels`); the
embedding, head and loss around them are simple enough to be differentiated by hand too, which leaves no autograd
graph to build at every local step.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch

from fedsim.data.batches import Batch
from fedsim.data.dataset import IGNORE, Task
from fedsim.models.recurrent import Architecture, DropoutMask
from fedsim.models.scores import Sums, pinball, word_counts
from fedsim.models.torch_kernels import StateGradient, Weights

if TYPE_CHECKING:
    from torch import Tensor


class _Tape(NamedTuple):
    """Inputs, states, saved values and dropout mask of each layer, and the head's input, for the backward pass."""

    inputs: list[Tensor]
    states: list[Tensor]
    saved: list[list[Tensor]]
    masks: list[Tensor]
    features: Tensor


def _layer_weights(views: dict[str, Tensor], layer: int) -> Weights:
    return Weights(
        views[f"recurrent.weight_ih_l{layer}"],
        views[f"recurrent.weight_hh_l{layer}"],
        views.get(f"recurrent.bias_ih_l{layer}"),
        views.get(f"recurrent.bias_hh_l{layer}"),
    )


def _last(states: Tensor, batch: Batch) -> Tensor:
    """The state after each sample's last valid step, ``[C, b, H]`` out of ``[C, T + 1, b, H]``."""
    if not batch.padded:
        return states[:, -1]
    index = batch.lengths[:, None, :, None].expand(-1, 1, -1, states.shape[3])
    return states.gather(1, index)[:, 0]


def _forward(
    arch: Architecture, views: dict[str, Tensor], batch: Batch, kernels: ModuleType, dropout: DropoutMask | None
) -> tuple[Tensor, _Tape]:
    """Return the outputs ``[C, R, K]`` and the tape; R is b, or T * b (step-major) for a target at every step."""
    if arch.vocabulary_size is None:
        x = batch.inputs.transpose(1, 2).contiguous()  # [C, T, b, D]
    else:
        table = views["embedding.weight"].flatten(0, 1)  # [C * V, E], a copy of the rows' embeddings
        flat = _flat_tokens(batch, arch.vocabulary_size)
        c, b, t_max = batch.inputs.shape
        x = table.index_select(0, flat).view(c, t_max, b, -1)
    inputs, states, saved, masks = [], [], [], []
    lengths = batch.lengths if batch.padded else None
    for layer in range(arch.model.num_layers):
        inputs.append(x)
        layer_states, layer_saved = kernels.forward(arch.model.cell, x, _layer_weights(views, layer), lengths)
        states.append(layer_states)
        saved.append(layer_saved)
        x = layer_states[:, 1:]
        if dropout is not None and layer + 1 < arch.model.num_layers:
            masks.append(dropout(layer, x.shape[1], x.shape[2]))
            x = x * masks[-1]
    if arch.task is Task.SEQUENCE_LABELLING:
        features = x.reshape(x.shape[0], -1, x.shape[3])  # [C, T * b, H]
    else:
        features = _last(states[-1], batch)  # [C, b, H]
    outputs = torch.bmm(features, views["head.weight"].transpose(1, 2))
    if arch.model.bias:
        outputs += views["head.bias"][:, None]
    return outputs, _Tape(inputs, states, saved, masks, features)


def loss_and_gradient(
    arch: Architecture,
    views: dict[str, Tensor],
    batch: Batch,
    kernels: ModuleType,
    dropout: DropoutMask | None,
    grads: dict[str, Tensor],
) -> Tensor:
    """Compute each client's minibatch loss and its gradient.

    Args:
        arch: the model.
        views: ``ParameterLayout.views`` of the rows ``[C, P]``.
        batch: one minibatch per client; samples that are not real do not count.
        kernels: `torch_kernels` or `numba_kernels`.
        dropout: keyed masks, or None.
        grads: views of rows ``[C, P]``, overwritten with the gradient of each client's mean loss.

    Returns:
        ``[C]`` loss, the mean over the real samples of a client's batch (over its valid steps for sequence labelling).
    """
    outputs, tape = _forward(arch, views, batch, kernels, dropout)
    loss, d_outputs = _loss(arch, outputs, batch)

    grads["head.weight"].copy_(torch.bmm(d_outputs.transpose(1, 2), tape.features))
    if arch.model.bias:
        torch.sum(d_outputs, dim=1, out=grads["head.bias"])
    d_features = torch.bmm(d_outputs, views["head.weight"])

    c, t_max, b = tape.inputs[0].shape[:3]
    if arch.task is Task.SEQUENCE_LABELLING:
        incoming = StateGradient(d_features.view(c, t_max, b, -1), None, batch.lengths)
    else:
        incoming = StateGradient(None, d_features, batch.lengths)
    tokens = arch.vocabulary_size is not None
    for layer in range(arch.model.num_layers - 1, -1, -1):
        result = kernels.backward(
            arch.model.cell,
            tape.inputs[layer],
            _layer_weights(views, layer),
            tape.states[layer],
            tape.saved[layer],
            incoming,
            need_x=layer > 0 or tokens,
            into=_layer_weights(grads, layer),
        )
        if layer > 0:
            dx = result.x * tape.masks[layer - 1] if tape.masks else result.x
            incoming = StateGradient(dx, None, batch.lengths)
    if tokens:
        assert arch.vocabulary_size is not None
        flat = _flat_tokens(batch, arch.vocabulary_size)
        table = torch.zeros(c * arch.vocabulary_size, arch.embedding_size, dtype=result.x.dtype, device=result.x.device)
        table.index_add_(0, flat, result.x.reshape(len(flat), -1))
        grads["embedding.weight"].copy_(table.view(c, arch.vocabulary_size, -1))
    return loss


def _flat_tokens(batch: Batch, vocabulary_size: int) -> Tensor:
    """Rows of the clients' embeddings laid under one another, ``[C * T * b]``, for tokens ``[C, b, T]``."""
    offset = torch.arange(len(batch.inputs), device=batch.inputs.device)[:, None, None] * vocabulary_size
    return (batch.inputs.transpose(1, 2) + offset).reshape(-1)


def _loss(arch: Architecture, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the mean loss ``[C]`` and its gradient with respect to the outputs ``[C, R, K]``."""
    if arch.task is Task.REGRESSION:
        error = outputs - batch.targets
        count = batch.num_samples.to(outputs.dtype) * outputs.shape[2]
        if (levels := arch.levels(outputs)) is not None:
            loss, slope = pinball(error, levels)
            if batch.real is not None:
                loss, slope = loss * batch.real[..., None], slope * batch.real[..., None]
            return loss.sum((1, 2)) / count, slope / count[:, None, None]
        if batch.real is not None:
            error = error * batch.real[..., None]
        return error.square().sum((1, 2)) / count, error * (2 / count)[:, None, None]
    targets, valid = _valid_targets(arch.task, batch)
    count = valid.sum(1).clamp(min=1).to(outputs.dtype)
    log_probabilities = outputs.log_softmax(2)
    picked = log_probabilities.gather(2, targets[..., None])[..., 0]
    weight = valid / count[:, None]
    loss = -(picked * weight).sum(1)
    d_outputs = log_probabilities.exp_()
    d_outputs.scatter_add_(2, targets[..., None], torch.full_like(picked, -1.0)[..., None])
    return loss, d_outputs.mul_(weight[..., None])


def _valid_targets(task: Task, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return targets ``[C, R]`` (0 where there is none) and which of them count, in the order of the outputs."""
    c = batch.lengths.shape[0]
    if task is Task.CLASSIFICATION:
        targets = batch.targets
        valid = torch.ones_like(targets, dtype=torch.bool) if batch.real is None else batch.real
    else:
        targets = batch.targets.transpose(1, 2)  # [C, T, b]
        valid = targets != IGNORE
        if batch.real is not None:
            valid = valid & batch.real[:, None]
    return torch.where(valid, targets, 0).reshape(c, -1), valid.reshape(c, -1)


def count_targets(task: Task, batch: Batch) -> Tensor:
    """``[C]`` int64, how many targets each client's mean loss is over (samples, for regression)."""
    return batch.num_samples if task is Task.REGRESSION else _valid_targets(task, batch)[1].sum(1)


def score(arch: Architecture, rows: Tensor, batch: Batch, kernels: ModuleType) -> Sums:
    """Evaluate a batch per client without dropout; `rows` is ``[C, P]``, sums are ``[C, b]``."""
    outputs, _ = _forward(arch, arch.layout.views(rows), batch, kernels, None)
    return score_outputs(arch, outputs, batch)


def score_outputs(arch: Architecture, outputs: Tensor, batch: Batch) -> Sums:
    """Turn outputs ``[C, R, K]`` (as `_forward` orders them) into sums per sample, ``[C, b]``."""
    c, b = batch.lengths.shape
    real = torch.ones((c, b), dtype=torch.bool, device=outputs.device) if batch.real is None else batch.real
    if arch.task is Task.REGRESSION:
        error = outputs.double() - batch.targets.double()
        levels = arch.levels(error)
        loss = error.square() if levels is None else pinball(error, levels)[0]
        width = torch.full((c, b), outputs.shape[2], dtype=torch.float64, device=outputs.device)
        return Sums(loss.sum(2) * real, torch.zeros_like(width), width * real, outputs)
    targets, valid = _valid_targets(arch.task, batch)
    picked = outputs.log_softmax(2).gather(2, targets[..., None])[..., 0].double()
    correct = (outputs.argmax(2) == targets) & valid
    shape = (c, -1, b)
    return Sums(
        -(picked * valid).view(shape).sum(1),
        correct.view(shape).sum(1).double(),
        valid.view(shape).sum(1).double(),
        _kept(arch, outputs, targets, valid, shape),
    )


def _kept(arch: Architecture, outputs: Tensor, targets: Tensor, valid: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`word_counts` of each sample, ``[C, b, 5]``, where next words are predicted, else ``[C, b, 0]``."""
    if arch.words is None:
        return outputs.new_empty((shape[0], shape[2], 0))
    counts = word_counts(outputs, targets, valid, arch.words)
    return counts.view(*shape, counts.shape[-1]).sum(1).to(outputs.dtype)
