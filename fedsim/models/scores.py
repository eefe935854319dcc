"""Sums from which metrics are made, and the loss of quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """Sums over targets, float64, per sample or per client.

    Attributes:
        loss: summed loss of the targets (cross-entropy, or squared error or pinball loss over the outputs).
        hits: correct predictions; zero for regression.
        count: number of targets that count (outputs, for regression).
        outputs: ``[S, K]`` of a regression, one row per sample even where the sums are per client, whose samples then
            follow one another; ``[S, 0]`` else.
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
