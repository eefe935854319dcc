"""Metrics against NumPy, from the outputs of the reference module."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.clients.engine import SequentialEngine, StackedEngine
from fedsim.data.dataset import IGNORE, Score, Task
from fedsim.data.fitted import Fitted, Scaling, columns
from fedsim.data.source import load_dataset
from fedsim.errors import UserError
from fedsim.evaluation.evaluate import evaluate
from fedsim.federation.prepare import initial_state, prepare
from fedsim.metrics import Column
from fedsim.models.reference import ReferenceModel, load_row
from fedsim.models.scores import Sums

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = [StackedEngine(kernels="torch"), SequentialEngine()]


def evaluated(experiment, engine):
    """The evaluation of the untrained model, its outputs ``[S, (T,) K]`` on all test samples, and the population."""
    sim = prepare(replace(experiment, engine=engine))
    row = initial_state(sim).row * 3  # so that it is sure of some things
    module = ReferenceModel(sim.task.arch).double()
    load_row(module, sim.task.arch, row)
    test = sim.population.test
    outputs = module(test.inputs, test.lengths).detach().numpy()
    return evaluate(sim.trainer, row, sim.population), outputs, sim.population


def tenth_percentile(values):
    """Linear between the two order statistics around place 0.1 (n - 1)."""
    ordered = sorted(values)
    place = 0.1 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def by_client(values, sizes):
    return np.split(values, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.SEQUENCE_LABELLING])
def test_labels(tiny, engine, task):
    found, outputs, population = evaluated(tiny(task=task), engine)
    targets = population.test.targets.numpy()
    counted = targets != IGNORE
    if task is Task.SEQUENCE_LABELLING:
        steps = np.arange(targets.shape[1]) < population.test.lengths.numpy()[:, None]
        assert (steps & ~counted).any(), "some valid step has an unknown target"
        assert (population.test.sizes == 0).sum() >= 1
    shifted = outputs - outputs.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_probabilities, np.where(counted, targets, 0)[..., None], -1)[..., 0]
    loss, hits = -picked * counted, (outputs.argmax(-1) == targets) & counted

    assert found.metrics["test_loss"] == pytest.approx(loss.sum() / counted.sum(), rel=1e-12)
    assert found.metrics["test_accuracy"] == pytest.approx(hits.sum() / counted.sum(), rel=1e-12)
    sizes = population.test.sizes.numpy()
    accuracies = []
    for client, parts in enumerate(zip(*(by_client(v, sizes) for v in (loss, hits, counted)), strict=True)):
        own_loss, own_hits, own_count = (part.sum() for part in parts)
        if own_count == 0:
            assert np.isnan(found.clients["test_loss"][client])
            assert np.isnan(found.clients["test_accuracy"][client])
            continue
        assert found.clients["test_loss"][client] == pytest.approx(own_loss / own_count, rel=1e-12)
        assert found.clients["test_accuracy"][client] == pytest.approx(own_hits / own_count, rel=1e-12)
        accuracies.append(own_hits / own_count)
    assert len(accuracies) < population.num_clients, "some client has no test samples"
    assert found.metrics["test_accuracy_p10"] == pytest.approx(tenth_percentile(accuracies))
    mean = sum(accuracies) / len(accuracies)
    spread = (sum((a - mean) ** 2 for a in accuracies) / len(accuracies)) ** 0.5
    assert found.metrics["test_accuracy_std"] == pytest.approx(spread)


@pytest.mark.parametrize("engine", ENGINES)
def test_regression(tiny, engine):
    found, outputs, population = evaluated(tiny(task=Task.REGRESSION), engine)
    error = outputs - population.test.targets.numpy()
    expected = {"test_loss": np.mean(error**2), "test_rmse": np.mean(error**2) ** 0.5, "test_mae": np.abs(error).mean()}
    per_client = [(own**2).mean() ** 0.5 for own in by_client(error, population.test.sizes.numpy()) if len(own)]
    spread = {"test_rmse_p90": np.percentile(per_client, 90), "test_rmse_std": np.std(per_client)}
    assert found.metrics == pytest.approx(expected | spread, rel=1e-12)
    for client, own in enumerate(by_client(error, population.test.sizes.numpy())):
        got = [found.clients[name][client] for name in expected]
        if len(own) == 0:
            assert np.isnan(got).all()
        else:
            assert got == pytest.approx([np.mean(own**2), np.mean(own**2) ** 0.5, np.abs(own).mean()], rel=1e-12)


def test_plain_metrics_pool_samples(tiny, uneven):
    """Who holds a test sample changes nothing but the metrics over clients."""
    base = tiny()
    one, five = (
        evaluated(replace(base, partition=uneven(base.partition.train, test)), ENGINES[0])[0].metrics
        for test in ((10, 0, 0, 0, 0), (2, 2, 2, 2, 2))
    )
    assert one["test_loss"] == pytest.approx(five["test_loss"], rel=1e-13)
    assert one["test_accuracy"] == five["test_accuracy"] == one["test_accuracy_p10"]
    assert one["test_accuracy_std"] == 0


def test_spread_over_clients(tiny, uneven):
    """By hand: accuracies 1/2, 1, 1/5, 4/5 of four clients, the fifth has no test samples.

    Sorted 0.2, 0.5, 0.8, 1: place 0.1 * 3 = 0.3 lies at 0.2 + 0.3 * 0.3 = 0.29. Their mean is 0.625 and the squared
    distances 0.180625, 0.015625, 0.030625, 0.140625 have the mean 0.091875, whose root is 0.303109.
    """
    hits = [1, 0, *[1], *[0, 0, 1, 0, 0], *[1, 1, 0, 1, 1]]

    class Told:
        def score_samples(self, row, samples):
            told = torch.tensor(hits, dtype=torch.float64)
            return Sums(2 * told, told, torch.ones(len(told), dtype=torch.float64), told[:, None][:, :0])

    base = tiny("data.test_samples_per_client=3")
    population = prepare(replace(base, partition=uneven(base.partition.train, (2, 1, 0, 5, 5)))).population
    found = evaluate(Told(), torch.zeros(1), population)
    assert found.clients["test_accuracy"].tolist() == pytest.approx([0.5, 1, math.nan, 0.2, 0.8], nan_ok=True)
    assert found.clients["test_loss"].tolist() == pytest.approx([1, 2, math.nan, 0.4, 1.6], nan_ok=True)
    assert found.metrics == pytest.approx(
        {
            "test_loss": 14 / 13,
            "test_accuracy": 7 / 13,
            "test_accuracy_p10": 0.29,
            "test_accuracy_std": 0.303109,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_unit_and_score_of_a_regression(tiny, engine, monkeypatch):
    """Targets in tenths: errors in the unit are ten times those of the outputs; their squares are added up."""
    experiment = replace(tiny("data.outputs=1", task=Task.REGRESSION), engine=engine)
    plain, outputs, population = evaluated(experiment, engine)
    data = load_dataset(experiment.data, experiment.seed)
    score = Score("squares", lambda error: error.square())
    monkeypatch.setattr(
        "fedsim.federation.prepare.load_dataset",
        lambda *_: replace(data, fitted=Fitted(Scaling(targets=columns(["y"], scale=10))), score=score),
    )
    assert Column("test_squares", "min", evaluated=True) in prepare(experiment).columns
    found, _, _ = evaluated(experiment, engine)
    squares = 100 * (outputs - population.test.targets.numpy())[:, 0] ** 2
    assert found.metrics["test_loss"] == plain.metrics["test_loss"]
    assert found.metrics["test_rmse"] == pytest.approx(10 * plain.metrics["test_rmse"], rel=1e-12)
    assert found.metrics["test_mae"] == pytest.approx(10 * plain.metrics["test_mae"], rel=1e-12)
    assert found.metrics["test_squares"] == pytest.approx(squares.sum(), rel=1e-12)
    expected = [part.sum() if len(part) else math.nan for part in by_client(squares, population.test.sizes.tolist())]
    assert found.clients["test_squares"] == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert math.isnan(expected[1])


def test_nobody_tests(tiny, uneven):
    with pytest.raises(UserError, match="no client has test samples"):
        prepare(replace(tiny(), partition=uneven((2, 3), (0, 0))))


def test_sums_are_double_in_single_precision(tiny):
    """Sums over samples run in float64: 10 losses around 1.4 lose nothing beyond what each has lost."""
    sim = prepare(replace(tiny(), dtype="float32"))
    sums = sim.trainer.score_samples(initial_state(sim).row, sim.population.test)
    assert {column.dtype for column in sums.columns()[:3]} == {torch.float64}
