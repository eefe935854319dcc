"""Metrics of models on the clients' test samples: one model for all, or each client's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.clients.trainer import Scorer, Trainer
from fedsim.core.results import Evaluation
from fedsim.data.dataset import IGNORE, Dataset, Task
from fedsim.data.population import Population, Samples
from fedsim.evaluation.errors import Measure, error_names, measures
from fedsim.metrics import COLUMNS, Column
from fedsim.models.scores import Sums, concatenate, kept_outputs
from fedsim.parallel.division import add_up
from fedsim.parallel.processes import ALONE, World

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def score_columns(data: Dataset | Population, prefix: str = "test", sampled: bool = False) -> tuple[Column, ...]:
    """The columns of ``metrics.csv`` that an evaluation fills in, in order.

    ``p10`` and ``p90`` are the worst decile over clients, ``std`` the standard deviation over them, and ``se`` standard
    errors where only a sample of the clients is evaluated. A score of the data's own is a sum of penalties, where lower
    is better.
    """
    names: tuple[str, ...] = ("loss", "accuracy", "accuracy_p10", "accuracy_std")
    if data.words is not None:
        names = ("loss", "perplexity", "accuracy", *WORD_SCORES, "accuracy_p10", "accuracy_std")
    elif data.task is Task.REGRESSION:
        names = ("loss", *error_names(data), "rmse_p90", "rmse_std")
    if sampled:
        names += ("loss_se", "rmse_se" if data.task is Task.REGRESSION else "accuracy_se")
    return tuple(COLUMNS.get(f"{prefix}_{name}", Column(f"{prefix}_{name}", "min", evaluated=True)) for name in names)


def default_metric(population: Population) -> str:
    """The column that judges a run unless ``stop.metric`` names another: of validation samples where there are some."""
    data = "test" if population.validation is None else "validation"
    return f"{data}_rmse" if population.task is Task.REGRESSION else f"{data}_accuracy"


def check_testable(population: Population) -> None:
    """Raise `ValueError` unless at least one target of each kind of evaluation counts."""
    for kind, samples in evaluated_samples(population).items():
        if len(samples) == 0:
            raise ValueError(f"no client has {kind} samples")
        if count_items(samples) == 0:
            raise ValueError(f"no {kind} target counts: every one is padding or unknown to the training data")


def evaluated_samples(population: Population) -> dict[str, Samples]:
    """What the global model is judged on, by the prefix of the columns."""
    found = {"test": population.test}
    if population.validation is not None:
        found["validation"] = population.validation
    if population.unseen is not None:
        found["unseen"] = population.unseen.test
    return found


def count_items(samples: Samples) -> int:
    """How many predictions are scored: the labels that count, or the numbers that a regression predicts."""
    targets = samples.targets
    return targets.numel() if targets.is_floating_point() else int((targets != IGNORE).sum())


def evaluate(
    trainer: Trainer, row: Tensor, population: Population, world: World = ALONE, prefix: str = "test"
) -> Evaluation:
    """Score the global row ``[P]``; plain metrics pool the samples of all clients.

    Args:
        trainer: the engine.
        row: the model.
        population: the clients that it is judged on.
        world: the processes that share the samples.
        prefix: of the columns' names: ``validation`` judges by those samples, anything else by the test samples.
    """
    samples = judged_samples(population, prefix)
    return evaluate_samples(score_samples(trainer, row, samples, world), population, prefix)


def personal_prefixes(population: Population) -> tuple[str, ...]:
    """How the columns begin that judge clients' own models: on test samples, and on held-back ones if there are any."""
    return ("personal",) if population.validation is None else ("validation_personal", "personal")


def judged_samples(population: Population, prefix: str) -> Samples:
    """The samples that columns with this prefix are about."""
    if not prefix.startswith("validation"):
        return population.test
    assert population.validation is not None, "only with eval.validation_fraction"
    return population.validation


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


def evaluate_samples(sums: Sums, population: Population, prefix: str = "test") -> Evaluation:
    """Turn the sums of all samples ``[S]`` into metrics; see `evaluate`."""
    samples = judged_samples(population, prefix)
    owner = _owners(samples.sizes)
    found = (*_losses(sums, population), *_errors(sums.outputs, samples, population))
    totals = [_added(measure, owner, population.num_clients) for measure in found]
    return _evaluation(found, totals, population, prefix)


def evaluate_own(
    trainer: Scorer,
    models: Callable[[Tensor], Tensor],
    population: Population,
    chunk_size: int,
    prefix: str,
    world: World = ALONE,
) -> Evaluation:
    """Score each client's own model on its own samples; plain metrics pool the samples of all clients.

    Args:
        trainer: the engine, or what scores clients in its place.
        models: returns the models ``[C, P]`` of clients ``[C]``.
        population: all clients and their samples.
        chunk_size: how many clients are scored at a time.
        prefix: of the columns' names, which decides the samples as in `evaluate`.
        world: the processes that share the clients.
    """
    test = judged_samples(population, prefix)
    own = test.sizes.nonzero()[:, 0][world.rank :: world.size]
    outputs = torch.zeros(len(test), kept_outputs(population.task, population.num_outputs, population.words))
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
    """The loss and, where there are labels, the accuracy; of next words the perplexity, the loss's exponential, too."""
    loss = Measure("loss", sums.loss, sums.count)
    if population.task is Task.REGRESSION:
        return (loss,)
    accuracy = Measure("accuracy", sums.hits, sums.count)
    if population.words is None:
        return loss, accuracy
    return loss, Measure("perplexity", sums.loss, sums.count, exponential=True), accuracy


WORD_SCORES = ("accuracy_no_oov", "accuracy_no_oov_no_eos", "recall_at_3")
"""Metrics of next words: accuracy where the target is in the vocabulary; where it is not the end of a sentence either;
and how often the target is among the three most probable tokens, all targets counted."""


def _errors(outputs: Tensor, samples: Samples, population: Population) -> tuple[Measure, ...]:
    if population.task is Task.REGRESSION:
        return tuple(measures(outputs, samples, population))
    if population.words is None:
        return ()
    known, known_hits, words, word_hits, ahead = outputs.double().unbind(1)  # see `word_counts`
    every = (samples.targets != IGNORE).flatten(1).sum(1).double().cpu()
    pairs = ((known_hits, known), (word_hits, words), (ahead, every))
    return tuple(Measure(name, *pair) for name, pair in zip(WORD_SCORES, pairs, strict=True))


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
    """Turn sums per client ``[N]`` into metrics; clients without such samples are left out."""
    metrics, clients = {}, {}
    if prefix in ("test", "unseen"):
        clients["test_items"] = totals[0][1].numpy()
    for measure, (total, count) in zip(found, totals, strict=True):
        metrics[f"{prefix}_{measure.name}"] = float(measure.of(total.sum(), count.sum()))
        clients[f"{prefix}_{measure.name}"] = measure.of(total, count).numpy()
    judged, percent = (f"{prefix}_rmse", 90) if population.task is Task.REGRESSION else (f"{prefix}_accuracy", 10)
    tested = clients[judged][~np.isnan(clients[judged])]
    # If every client's value is NaN, the model has diverged; the caller reports that.
    metrics[f"{judged}_p{percent}"] = float(np.percentile(tested, percent)) if len(tested) else float("nan")
    metrics[f"{judged}_std"] = float(np.std(tested)) if len(tested) else float("nan")
    if population.sampled_from is not None:
        for measure, (total, count) in zip(found, totals, strict=True):
            if measure.name in ("loss", "accuracy", "rmse"):
                metrics[f"{prefix}_{measure.name}_se"] = standard_error(measure, total, count, population.sampled_from)
    return Evaluation(metrics, clients)


def standard_error(measure: Measure, totals: Tensor, counts: Tensor, clients: int) -> float:
    """The standard error of a pooled metric over a simple random sample of clients.

    A pooled mean is the ratio R of two sums over clients, so its variance is about
    ``(1 - n/N) n s^2 / (sum of counts)^2`` with s^2 the variance of ``total - R count`` over the n clients (Cochran
    1977, Sampling Techniques, equation 6.9); that of a root follows by the delta method.

    Args:
        measure: a mean, or the root of one.
        totals: ``[N]``, sums of each client.
        counts: ``[N]``, what they are divided by; 0 for clients that are not in the sample.
        clients: N, from which they were drawn.

    Returns:
        NaN for a sample of one client.
    """
    total, count = totals[counts > 0], counts[counts > 0]
    number = len(count)
    if number < 2:
        return float("nan")
    ratio = total.sum() / count.sum()
    spread = (total - ratio * count).square().sum() / (number - 1)
    error = ((1 - number / clients) * number * spread).clamp(min=0).sqrt() / count.sum()
    return float(error / (2 * ratio.sqrt()) if measure.root else error)


def _owners(sizes: Tensor) -> NDArray[np.int64]:
    """``[S]``, the client that each sample is of."""
    owner: NDArray[np.int64] = torch.repeat_interleave(torch.arange(len(sizes)), sizes).numpy()
    return owner
