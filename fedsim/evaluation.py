"""Metrics of one global model on all clients' test samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.clients.local import Trainer
from fedsim.population import IGNORE, Population, Score, Task


def metric_names(task: Task, score: Score | None = None) -> tuple[str, ...]:
    """The test columns of ``metrics.csv`` for a task and the data's own score, in order."""
    if task is Task.REGRESSION:
        return ("test_loss", "test_rmse", "test_mae", *([] if score is None else [f"test_{score.name}"]))
    return ("test_loss", "test_accuracy", "test_accuracy_p10", "test_accuracy_std")


def default_metric(task: Task) -> str:
    """What a run is judged by unless ``stop.metric`` says otherwise."""
    return "test_rmse" if task is Task.REGRESSION else "test_accuracy"


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all test samples, and per client.

    Attributes:
        metrics: by the names of `metric_names`.
        clients: columns with one entry per client; not a number for clients without test samples.
    """

    metrics: dict[str, float]
    clients: dict[str, NDArray[np.float64]]


def check_testable(population: Population) -> None:
    """Raise `ValueError` unless some test target counts."""
    targets = population.test.targets
    if len(targets) == 0:
        raise ValueError("no client has test samples")
    if not targets.is_floating_point() and not bool((targets != IGNORE).any()):
        raise ValueError("no test target counts: every one is padding or unknown to the training data")


def evaluate(trainer: Trainer, row: Tensor, population: Population) -> Evaluation:
    """Score the global row ``[P]``; plain metrics pool all test samples, whoever holds them."""
    sums = trainer.score_samples(row, population.test)
    columns = [sums.loss, sums.hits, sums.count]
    if population.score is not None:
        columns.append(population.score.of(sums.error * population.target_unit))
    pooled = _metrics(population, *(column.sum()[None] for column in columns))
    per_client = _metrics(population, *(_per_client(column, population.test.sizes) for column in columns))
    metrics = {f"test_{name}": float(value[0]) for name, value in pooled.items()}
    clients = {f"test_{name}": value.numpy() for name, value in per_client.items()}
    if population.task is not Task.REGRESSION:
        accuracy = clients["test_accuracy"][~np.isnan(clients["test_accuracy"])]
        metrics["test_accuracy_p10"] = float(np.percentile(accuracy, 10))
        metrics["test_accuracy_std"] = float(np.std(accuracy))
    return Evaluation(metrics, clients)


def _metrics(
    population: Population, loss: Tensor, hits: Tensor, count: Tensor, score: Tensor | None = None
) -> dict[str, Tensor]:
    """Metrics out of sums; 0/0 gives NaN where a client has no test samples."""
    if population.task is not Task.REGRESSION:
        return {"loss": loss / count, "accuracy": hits / count}
    unit = population.target_unit
    metrics = {"loss": loss / count, "rmse": (loss / count).sqrt() * unit, "mae": hits / count * unit}
    if population.score is not None and score is not None:
        metrics[population.score.name] = score.where(count > 0, torch.nan)
    return metrics


def _per_client(values: Tensor, sizes: Tensor) -> Tensor:
    """Add up values per sample ``[S]`` to values per client ``[N]``."""
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes).numpy()
    return torch.from_numpy(np.bincount(owner, weights=values.numpy(), minlength=len(sizes)))
