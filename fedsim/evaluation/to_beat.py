"""What a model must beat to have learnt anything, and in which unit its errors are: said before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim.data.dataset import IGNORE, Task
from fedsim.data.population import Population
from fedsim.evaluation.errors import measures, naive_outputs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rival:
    """A prediction that needs no model, and its scores on the test samples of all clients together.

    Attributes:
        what: it predicts, in words.
        scores: by the names of their columns.
    """

    what: str
    scores: dict[str, float]


def rival(population: Population) -> Rival:
    """The simplest prediction: the naive forecast, the training targets' mean, or the most frequent label."""
    if population.task is not Task.REGRESSION:
        return _most_frequent(population)
    outputs, forecast = naive_outputs(population), population.forecast
    if outputs is not None and forecast is not None:
        season = forecast.season
        what = "repeats the last value" if season == 1 else f"repeats the value of {season} rows before"
    else:
        what = "the mean of the training targets"
        outputs = population.train.targets.cpu().double().mean(0).expand(len(population.test), -1)
    found = measures(outputs, population.test, population)
    return Rival(what, {f"test_{measure.name}": measure.over_all() for measure in found})


def _most_frequent(population: Population) -> Rival:
    train, test = (_count_labels(part.targets, population.num_outputs) for part in (population.train, population.test))
    best = int(train.argmax())
    names = population.fitted.labels or population.fitted.vocabulary
    name = repr(names[best]) if best < len(names) else f"number {best}"
    kind = "label" if population.vocabulary_size is None or population.fitted.labels else "token"
    return Rival(f"always the most frequent {kind}, {name}", {"test_accuracy": float(test[best] / test.sum())})


def _count_labels(targets: Tensor, outputs: int) -> Tensor:
    """``[outputs]`` float64, how often each label is to be predicted; of many targets, a part at a time."""
    total = torch.zeros(outputs, dtype=torch.float64)
    for part in targets.split(100_000):
        total += torch.bincount(part[part != IGNORE].cpu().long(), minlength=outputs)
    return total


def error_unit(population: Population) -> str | None:
    """In which unit errors of a regression are, in words; None if the data do not say."""
    targets = population.fitted.scaling.targets
    if population.task is not Task.REGRESSION or not targets:
        return None
    if len(targets) > 1:
        return (
            "test_rmse and test_mae are over all targets, in the model's unit (each target divided by its scale); "
            "those of each target, test_rmse_NAME and test_mae_NAME, are in its own"
        )
    scale, name = targets[0].scale, targets[0].name
    divided = "" if scale == 1 or population.fitted.clients else f"; losses are of values divided by {scale:.4g}"
    return f"test_rmse and test_mae are in the unit of {name!r}{divided}"


def describe_scores(population: Population) -> list[str]:
    """Lines for the start of a run: the unit of errors, and what must be beaten."""
    unit, other = error_unit(population), rival(population)
    shown = [name for name in ("test_accuracy", "test_rmse", "test_mae", "test_mase") if name in other.scores]
    scores = ", ".join(f"{name} {other.scores[name]:.4g}" for name in shown)
    kind = "forecast" if population.forecast is not None else "prediction"
    return [*([f"errors: {unit}"] if unit else []), f"to beat: {scores} (a {kind} without a model: {other.what})"]
