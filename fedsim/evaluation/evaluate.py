"""Metrics of models on the clients' test samples: one model for all, or each client's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.clients.trainer import Trainer
from fedsim.core.results import Evaluation
from fedsim.data.dataset import IGNORE, Dataset, Task
from fedsim.data.population import Population, Samples
from fedsim.evaluation.errors import Measure, error_names, measures
from fedsim.metrics import COLUMNS, Column
from fedsim.models.scores import Sums, concatenate
from fedsim.parallel.division import add_up
from fedsim.parallel.processes import ALONE, World

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def score_columns(data: Dataset | Population, prefix: str = "test") -> tuple[Column, ...]:
    """The columns of ``metrics.csv`` that an evaluation fills in, in order.

    ``p10`` and ``p90`` are the worst decile over clients, ``std`` the standard deviation over them. A score of the
    data's own is a sum of penalties, where lower is better.
    """
    names: tuple[str, ...] = ("loss", "accuracy", "accuracy_p10", "accuracy_std")
    if data.task is Task.REGRESSION:
        names = ("loss", *error_names(data), "rmse_p90", "rmse_std")
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
        sums = trainer.score_samples(row, samples.part(first, last))
        parts = {str(k): column for k, column in enumerate(sums.columns())}
    return concatenate([Sums(*(found[str(k)] for k in range(4))) for found in world.gather(parts) if found])


def evaluate_samples(sums: Sums, population: Population) -> Evaluation:
    """Turn the sums of all test samples ``[S]`` into metrics."""
    owner = _owners(population.test.sizes)
    found = (*_losses(sums, population), *_errors(sums.outputs, population.test, population))
    totals = [_added(measure, owner, population.num_clients) for measure in found]
    return _evaluation(found, totals, population, "test")


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
    test = population.test
    own = test.sizes.nonzero()[:, 0][world.rank :: world.size]
    outputs = torch.zeros(len(test), population.num_outputs if population.task is Task.REGRESSION else 0)
    sums = torch.zeros(3, population.num_clients, dtype=torch.float64)
    for clients in own.split(chunk_size) if len(own) > 0 else ():
        scored = trainer.score_clients(models(clients), clients, test)
        sums[:, clients] = torch.stack(scored.columns()[:3])
        outputs = outputs.to(scored.outputs.dtype)
        outputs[torch.cat([torch.arange(int(test.offsets[k]), int(test.offsets[k + 1])) for k in clients.tolist()])] = (
            scored.outputs
        )
    mine = torch.zeros(population.num_clients, dtype=torch.bool)
    mine[own] = True
    found, owner = _errors(outputs, test, population), _owners(test.sizes)
    both = [_added(measure, owner, population.num_clients) for measure in found]
    errors = torch.stack([torch.where(mine, part, 0.0) for pair in both for part in pair]) if both else sums[:0]
    everything = add_up(world, torch.cat([sums, errors]))
    losses = _losses(Sums(everything[0], everything[1], everything[2], outputs), population)
    totals = [*((m.total, everything[2]) for m in losses), *zip(everything[3::2], everything[4::2], strict=True)]
    return _evaluation((*losses, *found), totals, population, prefix)


def _losses(sums: Sums, population: Population) -> tuple[Measure, ...]:
    """The loss and, where there are labels, the accuracy."""
    loss = Measure("loss", sums.loss, sums.count)
    return (loss,) if population.task is Task.REGRESSION else (loss, Measure("accuracy", sums.hits, sums.count))


def _errors(outputs: Tensor, samples: Samples, population: Population) -> tuple[Measure, ...]:
    return tuple(measures(outputs, samples, population)) if population.task is Task.REGRESSION else ()


def _added(measure: Measure, owner: NDArray[np.int64], clients: int) -> tuple[Tensor, Tensor]:
    """Totals and counts per client ``[N]``, from those per sample ``[S]``."""
    count = torch.ones_like(measure.total) if measure.count is None else measure.count
    total, number = (
        torch.from_numpy(np.bincount(owner, weights=part.numpy(), minlength=clients)) for part in (measure.total, count)
    )
    return total, number


def _evaluation(
    found: Sequence[Measure], totals: Sequence[tuple[Tensor, Tensor]], population: Population, prefix: str
) -> Evaluation:
    """Turn sums per client ``[N]`` into metrics; clients without test samples are left out."""
    metrics, clients = {}, {}
    for measure, (total, count) in zip(found, totals, strict=True):
        metrics[f"{prefix}_{measure.name}"] = float(measure.of(total.sum(), count.sum()))
        clients[f"{prefix}_{measure.name}"] = measure.of(total, count).numpy()
    judged, percent = (f"{prefix}_rmse", 90) if population.task is Task.REGRESSION else (f"{prefix}_accuracy", 10)
    tested = clients[judged][~np.isnan(clients[judged])]
    # If every client's value is NaN, the model has diverged; the caller reports that.
    metrics[f"{judged}_p{percent}"] = float(np.percentile(tested, percent)) if len(tested) else float("nan")
    metrics[f"{judged}_std"] = float(np.std(tested)) if len(tested) else float("nan")
    return Evaluation(metrics, clients)


def _owners(sizes: Tensor) -> NDArray[np.int64]:
    """``[S]``, the client that each sample is of."""
    owner: NDArray[np.int64] = torch.repeat_interleave(torch.arange(len(sizes)), sizes).numpy()
    return owner
