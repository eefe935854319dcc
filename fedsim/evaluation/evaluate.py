"""Metrics of models on the clients' test samples: one model for all, or each client's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedsim.clients.trainer import Trainer
from fedsim.core.results import Evaluation
from fedsim.data.dataset import IGNORE, Score, Task
from fedsim.data.population import Population, Samples
from fedsim.metrics import COLUMNS, Column
from fedsim.models.scores import Sums, concatenate
from fedsim.parallel.division import add_up
from fedsim.parallel.processes import ALONE, World


def score_columns(task: Task, score: Score | None = None, prefix: str = "test") -> tuple[Column, ...]:
    """The columns of ``metrics.csv`` that an evaluation of a task fills in, in order.

    ``p10`` and ``p90`` are the worst decile over clients, ``std`` the standard deviation over them. `score` is a sum of
    penalties that the data define, where lower is better.
    """
    names: tuple[str, ...] = ("loss", "accuracy", "accuracy_p10", "accuracy_std")
    if task is Task.REGRESSION:
        names = ("loss", "rmse", "mae", *([] if score is None else [score.name]), "rmse_p90", "rmse_std")
    return tuple(COLUMNS.get(f"{prefix}_{name}", Column(f"{prefix}_{name}", "min", evaluated=True)) for name in names)


def default_metric(task: Task) -> str:
    """The column that judges a run unless ``stop.metric`` names another."""
    return "test_rmse" if task is Task.REGRESSION else "test_accuracy"


def check_testable(population: Population) -> None:
    """Raise `ValueError` unless at least one test target counts."""
    targets = population.test.targets
    if len(targets) == 0:
        raise ValueError("no client has test samples")
    if not targets.is_floating_point() and not bool((targets != IGNORE).any()):
        raise ValueError("no test target counts: every one is padding or unknown to the training data")


def evaluate(trainer: Trainer, row: Tensor, population: Population, world: World = ALONE) -> Evaluation:
    """Score the global row ``[P]``; plain metrics pool the test samples of all clients."""
    return evaluate_samples(score_samples(trainer, row, population.test, world), population)


def score_samples(trainer: Trainer, row: Tensor, samples: Samples, world: World) -> Sums:
    """Score one model ``[P]`` on every sample, divided evenly among the processes; sums are ``[S]``."""
    if world.size == 1:
        return trainer.score_samples(row, samples)
    first, last = (len(samples) * rank // world.size for rank in (world.rank, world.rank + 1))
    parts: dict[str, Tensor] = {}
    if last > first:
        inputs, lengths, targets = (part[first:last] for part in (samples.inputs, samples.lengths, samples.targets))
        sums = trainer.score_samples(row, Samples(inputs, lengths, targets, torch.tensor([0, last - first])))
        parts = {"sums": torch.stack([column.double() for column in sums.columns()])}
    return concatenate([Sums(*found["sums"]) for found in world.gather(parts) if found])


def evaluate_samples(sums: Sums, population: Population) -> Evaluation:
    """Turn the sums of all test samples ``[S]`` into metrics."""
    return _evaluation(_per_client(sums, population.test.sizes), population, "test")


def evaluate_own(
    trainer: Trainer,
    models: Callable[[Tensor], Tensor],
    population: Population,
    chunk_size: int,
    prefix: str,
    world: World = ALONE,
) -> Evaluation:
    """Score each client's own model on its own test samples; plain metrics pool the samples of all clients.

    Args:
        trainer: the engine.
        models: returns the models ``[C, P]`` of clients ``[C]``.
        population: all clients and their samples.
        chunk_size: how many clients are scored at a time.
        prefix: prefix of the columns' names.
        world: the processes that share the clients.
    """
    sums = torch.zeros(4, population.num_clients, dtype=torch.float64)
    own = population.test.sizes.nonzero()[:, 0][world.rank :: world.size]
    for clients in own.split(chunk_size) if len(own) > 0 else ():
        scored = trainer.score_clients(models(clients), clients, population.test)
        sums[:, clients] = torch.stack(scored.columns())
    return _evaluation(Sums(*add_up(world, sums)), population, prefix)


def _evaluation(sums: Sums, population: Population, prefix: str) -> Evaluation:
    """Turn sums per client ``[N]`` into metrics; clients without test samples are left out."""
    pooled = Sums(*(part.sum()[None] for part in sums.columns()))
    metrics = {f"{prefix}_{name}": float(value[0]) for name, value in _metrics(pooled, population).items()}
    clients = {f"{prefix}_{name}": value.numpy() for name, value in _metrics(sums, population).items()}
    judged, percent = (f"{prefix}_rmse", 90) if population.task is Task.REGRESSION else (f"{prefix}_accuracy", 10)
    tested = clients[judged][~np.isnan(clients[judged])]
    # If every client's value is NaN, the model has diverged; the caller reports that.
    metrics[f"{judged}_p{percent}"] = float(np.percentile(tested, percent)) if len(tested) else float("nan")
    metrics[f"{judged}_std"] = float(np.std(tested)) if len(tested) else float("nan")
    return Evaluation(metrics, clients)


def _metrics(sums: Sums, population: Population) -> dict[str, Tensor]:
    """Metrics from sums; 0/0 gives NaN for clients without test samples."""
    loss, second = sums.loss / sums.count, sums.hits / sums.count
    if population.task is not Task.REGRESSION:
        return {"loss": loss, "accuracy": second}
    unit = population.target_unit
    metrics = {"loss": loss, "rmse": loss.sqrt() * unit, "mae": second * unit}
    if population.score is not None:
        metrics[population.score.name] = sums.score.where(sums.count > 0, torch.nan)
    return metrics


def _per_client(sums: Sums, sizes: Tensor) -> Sums:
    """Add up sums per sample ``[S]`` to sums per client ``[N]``."""
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes).numpy()

    def total(values: Tensor) -> Tensor:
        return torch.from_numpy(np.bincount(owner, weights=values.numpy(), minlength=len(sizes)))

    return Sums(*map(total, sums.columns()))
