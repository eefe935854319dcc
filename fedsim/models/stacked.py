"""Loss, gradient and predictions of many clients' models at once.

Rows ``[C, P]`` and a batch per client go in, a loss per client and gradient rows ``[C, P]`` come out. PyTorch cannot
`vmap` over its recurrent modules, so the layers bring their own backward pass (`torch_kernels`, `numba_kernels`); the
embedding, head and loss around them are simple enough to be differentiated by hand too, which leaves no autograd
graph to build at every local step.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch

from fedsim.data.batches import Batch
from fedsim.data.dataset import IGNORE, Task
from fedsim.models import head
from fedsim.models.constants import constant
from fedsim.models.head import HeadTape
from fedsim.models.recurrent import Architecture, DropoutMask
from fedsim.models.scores import Sums, count_ahead, pinball, word_counts
from fedsim.models.torch_kernels import StateGradient, Weights

if TYPE_CHECKING:
    from torch import Tensor


class _Pass(NamedTuple):
    """A layer in one direction: its name in the layout, its input, its states, and what the kernels saved."""

    layer: str
    inputs: Tensor
    states: Tensor
    saved: list[Tensor]


class _Tape(NamedTuple):
    """The passes and the dropout mask of each layer, and what the head kept, for the backward pass."""

    layers: list[list[_Pass]]
    masks: list[Tensor]
    head: HeadTape


def _layer_weights(views: dict[str, Tensor], layer: str) -> Weights:
    """A layer's weights, or where their gradients go. Kernels have two biases per gate: with one, the other is zero."""
    one, other = (views.get(f"recurrent.bias_{side}_{layer}") for side in ("ih", "hh"))
    if one is not None and other is None:
        other = torch.zeros_like(one)
    w_ih, w_hh, w_hr = (views.get(f"recurrent.weight_{side}_{layer}") for side in ("ih", "hh", "hr"))
    assert w_ih is not None and w_hh is not None  # noqa: PT018  # for mypy: every layer has both
    return Weights(w_ih, w_hh, one, other, w_hr)


def _forward(
    arch: Architecture,
    views: dict[str, Tensor],
    batch: Batch,
    kernels: ModuleType,
    dropout: DropoutMask | None,
    keep: bool = True,
) -> _Tape:
    """Run the model up to its head."""
    if arch.vocabulary_size is None:
        x = batch.inputs.transpose(1, 2).contiguous()  # [C, T, b, D]
    else:
        x = _embedded(views["embedding.weight"], batch)
    layers: list[list[_Pass]] = []
    masks: list[Tensor] = []
    lengths = batch.lengths if batch.padded else None
    for layer in range(arch.model.num_layers):
        passes = []
        for direction in arch.directions:
            name, read = f"l{layer}{direction}", reverse(x, batch.lengths) if direction else x
            states, saved = kernels.forward(arch.model.cell, read, _layer_weights(views, name), lengths, keep)
            passes.append(_Pass(name, read, states, saved))
        layers.append(passes)
        x = passes[0].states[:, 1:]
        if len(passes) > 1:
            x = torch.cat([x, reverse(passes[1].states[:, 1:], batch.lengths)], dim=3)
        if dropout is not None and layer + 1 < arch.model.num_layers:
            masks.append(dropout(layer, x.shape[1], x.shape[2]))
            x = x * masks[-1]
    return _Tape(layers, masks, head.features(arch, views, x, [one.states for one in layers[-1]], batch))


def _embedded(weight: Tensor, batch: Batch) -> Tensor:
    """The embeddings ``[C, T, b, E]`` of a batch's tokens, from weights ``[C, V, E]``."""
    c, b, t_max = batch.inputs.shape
    tokens = batch.inputs.transpose(1, 2)
    if weight.shape[1] > t_max * b:  # a copy of all embeddings, one under another, would cost more than it saves
        return weight[torch.arange(c, device=weight.device)[:, None, None], tokens]
    return weight.flatten(0, 1).index_select(0, _flat_tokens(batch, weight.shape[1])).view(c, t_max, b, -1)


def _embedding_gradient(d_x: Tensor, tied: Tensor | None, batch: Batch, into: Tensor) -> None:
    """Write the gradient of the embedding.

    Args:
        d_x: ``[C, T, b, E]``, gradient of the embeddings of a batch's tokens.
        tied: ``[C, V, E]``, what comes from the head, if that has the same weights; or None.
        batch: the batch.
        into: ``[C, V, E]``.
    """
    c, size, width = into.shape
    flat, rows = _flat_tokens(batch, size), d_x.reshape(-1, width)
    if d_x.device.type != "cuda" and tied is None and size > len(rows) // c:
        clients = torch.arange(c)[:, None, None].expand(d_x.shape[:3])
        into.zero_().index_put_((clients, batch.inputs.transpose(1, 2)), d_x, accumulate=True)
        return
    table = d_x.new_zeros(c * size, width) if tied is None else tied.view(c * size, width)
    if table.device.type == "cuda":  # where index_add_ adds in the order in which its threads happen to come
        table.index_put_((flat,), rows, accumulate=True)
    else:
        table.index_add_(0, flat, rows)
    into.copy_(table.view(c, size, width))


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Read the valid steps of ``[C, T, b, D]`` backwards, those beyond ``lengths`` ``[C, b]`` as they are."""
    step = torch.arange(x.shape[1], device=x.device)[:, None]
    place = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)
    return x.gather(1, place[..., None].expand_as(x))


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
    tape = _forward(arch, views, batch, kernels, dropout)
    if _has_head(arch, batch, kernels, tape.head.features.dtype):
        loss, d_features, tied = _head_loss(arch, views, tape.head, batch, kernels, grads)
    else:
        loss, d_outputs = _loss(arch, head.outputs(arch, views, tape.head), batch)
        d_features, tied = head.backward(arch, views, tape.head, d_outputs, grads)
    incoming = head.to_states(arch, views, tape.head, d_features, batch, grads)
    tokens = arch.vocabulary_size is not None
    for layer in range(arch.model.num_layers - 1, -1, -1):
        passes = tape.layers[layer]
        d_x: Tensor | None = None
        for number, one in enumerate(passes):
            result = kernels.backward(
                arch.model.cell,
                one.inputs,
                _layer_weights(views, one.layer),
                one.states,
                one.saved,
                incoming if len(passes) == 1 else _half(incoming, number),
                need_x=layer > 0 or tokens,
                into=_layer_weights(grads, one.layer),
            )
            d_x = result.x if number == 0 or d_x is None else d_x + reverse(result.x, batch.lengths)
        if layer > 0 and d_x is not None:
            incoming = StateGradient(d_x * tape.masks[layer - 1] if tape.masks else d_x, None, batch.lengths)
    if tokens:
        assert d_x is not None
        _embedding_gradient(d_x, tied, batch, grads["embedding.weight"])
    return loss


def _has_head(arch: Architecture, batch: Batch, kernels: ModuleType, dtype: torch.dtype) -> bool:
    """Whether the kernels have one for the head, its loss and gradients: of a softmax or, on a batch, of squares."""
    fits = getattr(kernels, "head_fits", lambda *shape: False)
    other = arch.task is Task.REGRESSION and (bool(arch.quantiles) or batch.targets.dtype != dtype)
    return not other and fits(arch.head_size, dtype)


def _head_loss(
    arch: Architecture,
    views: dict[str, Tensor],
    tape: HeadTape,
    batch: Batch,
    kernels: ModuleType,
    grads: dict[str, Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `_loss` and `head.backward`, by the kernels: the loss, the gradient of the features, the embedding's part."""
    if arch.task is Task.REGRESSION:
        targets, shares = batch.targets, _shares_of_numbers(batch, tape.features)
    else:
        targets, shares = _shares_of_targets(arch, batch, tape.features)
    weight = views[arch.head_weight]
    d_weight = torch.empty_like(weight) if arch.model.tied_embeddings else grads["head.weight"]
    into = d_weight, grads.get("head.bias")
    loss, d_features = kernels.head_loss(tape.features, weight, views.get("head.bias"), targets, shares, into)
    return loss, d_features, d_weight if arch.model.tied_embeddings else None


def _half(gradient: StateGradient, number: int) -> StateGradient:
    """The part of the gradient of a layer's states that concerns its pass forwards (0) or backwards (1)."""
    every, last = (None if g is None else g.chunk(2, dim=-1)[number] for g in (gradient.every, gradient.last))
    if every is not None and number == 1:
        every = reverse(every, gradient.lengths)
    return StateGradient(every, last, gradient.lengths)


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
    targets, weight = _shares_of_targets(arch, batch, outputs)
    log_probabilities = outputs.log_softmax(2)
    picked = log_probabilities.gather(2, targets[..., None])[..., 0]
    loss = -(picked * weight).sum(1)
    d_outputs = log_probabilities.exp_()
    d_outputs.scatter_add_(2, targets[..., None], torch.full_like(picked, -1.0)[..., None])
    return loss, d_outputs.mul_(weight[..., None])


def _shares_of_targets(arch: Architecture, batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
    """The targets ``[C, R]``, and the weight of each in the mean loss of its client."""
    if arch.class_weights:
        targets, valid = _valid_targets(arch.task, batch)
        weight = constant(arch.class_weights, like)[targets] * valid
        return targets, weight / weight.sum(1).clamp(min=torch.finfo(like.dtype).tiny)[:, None]
    if arch.task is Task.CLASSIFICATION and batch.real is None and batch.targets.device.type == "cpu":
        return batch.targets, _even_shares(*batch.targets.shape, like.dtype)
    targets, valid = _valid_targets(arch.task, batch)
    return targets, valid / valid.sum(1).clamp(min=1).to(like.dtype)[:, None]


def _shares_of_numbers(batch: Batch, like: Tensor) -> Tensor:
    """The weight ``[C, R]`` of each squared error in the mean loss of its client, over all numbers of all targets."""
    width = batch.targets.shape[2]
    if batch.real is None:
        return _even_shares(*batch.targets.shape[:2], like.dtype) / width
    return batch.real.to(like.dtype) / (batch.num_samples * width)[:, None]


@lru_cache(maxsize=16)
def _even_shares(clients: int, targets: int, dtype: torch.dtype) -> Tensor:
    """The weights ``[C, R]`` where all targets count, the same at every step; not to be written to.

    On the CPU alone: what a CUDA graph has made while it was recorded belongs to that graph.
    """
    return torch.ones((clients, targets), dtype=dtype) / targets


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


def count_targets(arch: Architecture, batch: Batch, like: Tensor) -> Tensor:
    """``[C]``, how many targets each client's mean loss is over (samples, for regression), or what they weigh."""
    if arch.task is Task.REGRESSION:
        return batch.num_samples.to(like.dtype)
    targets, valid = _valid_targets(arch.task, batch)
    return (constant(arch.class_weights, like)[targets] * valid if arch.class_weights else valid.to(like.dtype)).sum(1)


def score(arch: Architecture, rows: Tensor, batch: Batch, kernels: ModuleType) -> Sums:
    """Evaluate a batch per client without dropout; `rows` is ``[C, P]``, sums are ``[C, b]``."""
    views = arch.layout.views(rows)
    tape = _forward(arch, views, batch, kernels, None, keep=False)
    fits = getattr(kernels, "scores_fit", lambda *shape: False)
    if arch.task is Task.REGRESSION or not fits(arch.head_size, arch.num_outputs, rows.dtype):
        return score_outputs(arch, head.outputs(arch, views, tape.head), batch)
    targets, valid = _valid_targets(arch.task, batch)
    weight, bias = views[arch.head_weight], views.get("head.bias")
    loss, hits, ahead = kernels.head_scores(tape.head.features, weight, bias, torch.where(valid, targets, -1))
    return _sums(arch, batch, loss, hits, ahead, targets, valid)


def outputs_of(arch: Architecture, views: dict[str, Tensor], batch: Batch, kernels: ModuleType) -> Tensor:
    """The outputs ``[C, R, K]`` without dropout; R is b, or T * b (step-major) for a target at every step."""
    return features_of(arch, views, batch, kernels)[1]


def features_of(
    arch: Architecture, views: dict[str, Tensor], batch: Batch, kernels: ModuleType
) -> tuple[Tensor, Tensor]:
    """What the head gets ``[C, R, F]`` without dropout, and the outputs ``[C, R, K]``; R as in `outputs_of`."""
    tape = _forward(arch, views, batch, kernels, None, keep=False).head
    return tape.features, head.outputs(arch, views, tape)


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
    loss = -outputs.log_softmax(2).gather(2, targets[..., None])[..., 0]
    ahead = None if arch.words is None else count_ahead(outputs, targets)
    return _sums(arch, batch, loss, outputs.argmax(2) == targets, ahead, targets, valid)


def _sums(
    arch: Architecture, batch: Batch, loss: Tensor, hits: Tensor, ahead: Tensor | None, targets: Tensor, valid: Tensor
) -> Sums:
    """Add up what is known of each prediction, ``[C, R]``; `ahead` as of `count_ahead`, only for next words."""
    c, b = batch.lengths.shape
    shape = (c, -1, b)
    kept = loss.new_empty((c, b, 0))
    if arch.words is not None:
        assert ahead is not None
        counts = word_counts(hits, ahead, targets, valid, arch.words)
        kept = counts.view(*shape, counts.shape[-1]).sum(1).to(loss.dtype)
    return Sums(
        (loss.double() * valid).view(shape).sum(1),
        (hits & valid).view(shape).sum(1).double(),
        valid.view(shape).sum(1).double(),
        kept,
    )
