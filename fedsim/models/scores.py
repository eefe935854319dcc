"""Sums from which metrics are made, and the loss of quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim.data.dataset import Task

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.data.dataset import WordTokens


@dataclass(frozen=True)
class Sums:
    """Sums over targets, float64, per sample or per client.

    Attributes:
        loss: summed loss of the targets (cross-entropy, or squared error or pinball loss over the outputs).
        hits: correct predictions; zero for regression.
        count: number of targets that count (outputs, for regression).
        outputs: what else is kept of each sample, `kept_outputs` numbers, one row per sample even where the sums are
            per client, whose samples then follow one another: the outputs ``[S, K]`` of a regression, or of next words
            `word_counts`, ``[S, 5]``.
    """

    loss: Tensor
    hits: Tensor
    count: Tensor
    outputs: Tensor

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors, for code that treats them alike."""
        return self.loss, self.hits, self.count, self.outputs


def concatenate(parts: Sequence[Sums]) -> Sums:
    """Join sums of consecutive samples or clients."""
    return Sums(*(torch.cat(column) for column in zip(*(part.columns() for part in parts), strict=True)))


TOP = 3
"""How many words a keyboard suggests, of which ``recall_at_3`` says how often the next one is among them."""


def kept_outputs(task: Task, num_outputs: int, words: WordTokens | None) -> int:
    """How many numbers of each sample `Sums.outputs` has."""
    return num_outputs if task is Task.REGRESSION else 0 if words is None else 5


def word_counts(hits: Tensor, ahead: Tensor, targets: Tensor, valid: Tensor, words: WordTokens) -> Tensor:
    """Count the targets that are in the vocabulary, and where the outputs are right.

    Args:
        hits: ``[...]`` bool, whether the target has the largest output.
        ahead: ``[...]``, how many outputs are larger than the target's, as of `count_ahead`.
        targets: ``[...]``, tokens.
        valid: ``[...]`` bool, which of them count.
        words: which tokens are no words.

    Returns:
        ``[..., 5]`` bool: target that is no unknown word; hit among these; target that is a word of the vocabulary, not
        the end of a sentence either; hit among these; target among the `TOP` highest outputs (behind those above it).
    """
    first, last = words.unknown
    known = valid & ((targets < first) | (targets >= last))
    word = known & (targets != words.end)
    return torch.stack([known, known & hits, word, word & hits, valid & (ahead < TOP)], -1)


def count_ahead(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many outputs are larger than the target's, ``[...]``, of outputs ``[..., K]`` and targets ``[...]``."""
    return (outputs > outputs.gather(-1, targets[..., None])).sum(-1)


def pinball(error: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of predicted quantiles (Koenker and Bassett 1978), and its slope.

    ``(1 - q) e`` where the prediction of quantile q is too high by e, and ``-q e`` where it is too low, so that the
    best prediction is the q-quantile.

    Args:
        error: ``[..., K]``, predicted minus true.
        levels: ``[K]``, the quantile that each output predicts.

    Returns:
        Loss and its derivative with respect to the prediction, each ``[..., K]``.
    """
    slope = torch.where(error >= 0, 1 - levels, -levels)
    return slope * error, slope
