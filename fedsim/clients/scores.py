"""What both engines share in evaluating models: how many samples at a time, and the report of a cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsim.clients.report import Report
from fedsim.clients.task import LocalTask
from fedsim.data.dataset import Task
from fedsim.models.scores import Sums

if TYPE_CHECKING:
    from torch import Tensor

EVALUATION_BATCH = 128
"""Samples per model and evaluation step: large enough for fast products, small enough to spread over threads."""


def make_report(task: LocalTask, clients: Tensor, steps: Tensor, train_loss: Tensor, validation: Sums | None) -> Report:
    """Make the report of `clients` ``[C]`` from their losses ``[C]`` and validation sums ``[C]``."""
    loss = accuracy = None
    if validation is not None:
        # If all validation targets of a client are ignored, its loss is NaN, and combine rules must see that.
        loss = validation.loss / validation.count
        if task.population.task is not Task.REGRESSION:
            accuracy = validation.hits / validation.count
    return Report(task.population.train.sizes[clients], steps, train_loss, loss, accuracy)
