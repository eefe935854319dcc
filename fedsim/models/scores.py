"""Sums from which metrics are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Judge = Callable[[Tensor], Tensor] | None
"""The data's own score of a regression's errors ``[C, b]``, or None (`Population.judge`)."""


@dataclass(frozen=True)
class Sums:
    """Sums over targets, float64, per sample or per client.

    Attributes:
        loss: summed loss of the targets (cross-entropy, or squared error over the outputs).
        hits: correct predictions; for regression the summed absolute error.
        count: number of targets that count (outputs, for regression).
        score: the summed score of the data's own, where they have one; else zero.
    """

    loss: Tensor
    hits: Tensor
    count: Tensor
    score: Tensor

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors, for code that treats them alike."""
        return self.loss, self.hits, self.count, self.score


def concatenate(parts: Sequence[Sums]) -> Sums:
    """Join sums of consecutive samples or clients."""
    return Sums(*(torch.cat(column) for column in zip(*(part.columns() for part in parts), strict=True)))
