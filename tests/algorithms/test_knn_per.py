"""kNN-Per against its equations in NumPy, with the states read off the head of a `torch.nn` module."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.data.dataset import IGNORE, Task
from fedsim.errors import UserError
from fedsim.evaluation.evaluate import evaluate_own
from fedsim.federation.prepare import prepare
from fedsim.models.reference import ReferenceModel, load_row
from fedsim.personalization import knn_per

pytestmark = pytest.mark.usefixtures("one_thread")


def pairs(arch, row, samples, client):
    """What goes into the head and what comes out, sample by sample and step by step, with the targets that count."""
    module = ReferenceModel(arch).double()
    load_row(module, arch, row)
    seen = []
    module.head.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    own = slice(int(samples.offsets[client]), int(samples.offsets[client + 1]))
    with torch.no_grad():
        module(samples.inputs[own], samples.lengths[own])
    z, made = (part.numpy() for part in seen[0])
    targets = samples.targets[own].numpy()
    if arch.task is Task.SEQUENCE_LABELLING:
        counts = targets != IGNORE
        return z[counts], made[counts], targets[counts]
    return z, made, targets


def neighbours(z, remembered, k, scale):
    """The k nearest places and their weights, ``exp(-d^2 / (F scale))`` normalised."""
    squared = ((z[:, None] - remembered[None]) ** 2).sum(2)
    places = np.argsort(squared, axis=1, kind="stable")[:, :k]
    weights = np.exp(-np.take_along_axis(squared, places, 1) / (z.shape[1] * scale))
    return places, weights / weights.sum(1, keepdims=True)


def mixture(arch, row, population, client, split, k, weight, scale):
    """Probabilities ``[n, K]``, or means, and the targets, of one client's samples."""
    remembered, _, known = pairs(arch, row, population.train, client)
    z, made, targets = pairs(arch, row, split, client)
    places, weights = neighbours(z, remembered, k, scale)
    if arch.task is Task.REGRESSION:
        return weight * (weights[..., None] * known[places]).sum(1) + (1 - weight) * made, targets
    own = np.exp(made - made.max(1, keepdims=True))
    own /= own.sum(1, keepdims=True)
    said = np.zeros_like(own)
    for query in range(len(z)):
        for place, share in zip(places[query], weights[query], strict=True):
            said[query, known[place]] += share
    return weight * said + (1 - weight) * own, targets


def expected(found, k, weight, scale):
    """Loss and accuracy over all clients (loss and None for a regression)."""
    arch, population = found.simulation.task.arch, found.simulation.population
    losses, hits = [], []
    for client in range(population.num_clients):
        if int(population.test.sizes[client]) == 0:
            continue
        mixed, targets = mixture(arch, found.state.row, population, client, population.test, k, weight, scale)
        if arch.task is Task.REGRESSION:
            losses += [*((mixed - targets) ** 2).ravel()]
        else:
            losses += [*-np.log(mixed[np.arange(len(targets)), targets])]
            hits += [*(mixed.argmax(1) == targets)]
    return np.mean(losses), (np.mean(hits) if hits else None)


SETTINGS = ("sampler.cohort_size=3", "rounds=2", "client.optimizer.lr=0.2")


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize(("k", "weight", "scale"), [(3, 0.5, 1.0), (1, 0.9, 1.0), (10, 0.3, 0.01)])
def test_knn_per(tiny, run, task, k, weight, scale, monkeypatch):
    """Some clients have fewer samples than k; distances in small blocks are the same."""
    monkeypatch.setattr(knn_per, "_DISTANCES", 16)
    keys = (f"personalize.neighbours={k}", f"personalize.weight={weight}", f"personalize.scale={scale}")
    found = run(tiny("personalize=knn_per", *keys, *SETTINGS, task=task))
    loss, accuracy = expected(found, k, weight, scale)
    last = found.metrics[-1]
    assert last["personal_loss"] == pytest.approx(loss, rel=1e-9)
    assert last.get("personal_accuracy") == (None if accuracy is None else pytest.approx(accuracy, rel=1e-12))
    assert last["personal_loss"] != pytest.approx(last["test_loss"], rel=1e-3)
    plain = run(tiny(*SETTINGS, task=task))
    assert all(torch.equal(a, b) for a, b in zip(found.rows, plain.rows, strict=True))  # the federation does not notice
    assert last["bytes_up"] == plain.metrics[-1]["bytes_up"]


@pytest.mark.parametrize("model", ["model.head_projection=3", "model.bidirectional=true", "model.pooling=mean"])
def test_what_is_remembered_is_what_the_head_gets(tiny, run, model):
    found = run(tiny("personalize=knn_per", "personalize.neighbours=2", model, *SETTINGS))
    loss, accuracy = expected(found, 2, 0.5, 1.0)
    assert found.metrics[-1]["personal_loss"] == pytest.approx(loss, rel=1e-9)
    assert found.metrics[-1]["personal_accuracy"] == pytest.approx(accuracy, rel=1e-12)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("blocks", ["null", "[recurrent]"])
def test_without_weight_it_is_the_model_that_a_client_has(tiny, run, task, blocks):
    keys = ("personalize.weight=0", f"aggregator.blocks={blocks}")
    found = run(tiny("personalize=knn_per", *keys, *SETTINGS, task=task))
    for row in found.metrics:
        for name in ("loss", "accuracy", "rmse", "mae", "accuracy_std"):
            if f"test_{name}" in row:
                assert row[f"personal_{name}"] == pytest.approx(row[f"test_{name}"], rel=1e-12)


def on_training_samples(found, **changes):
    """The evaluation on the samples that clients remember."""
    federation, state = found.simulation, found.state
    own = federation.personal.own
    scorer = replace(own, settings=replace(own.settings, **changes))
    judged = replace(federation.population, test=federation.population.train)
    return evaluate_own(scorer, lambda clients: state.row.expand(len(clients), -1), judged, 2, "test").metrics


def test_the_nearest_neighbour_of_a_training_sample_is_itself(tiny, run):
    """With its weight alone, every training sample is predicted right: no two have the same state."""
    found = run(tiny("personalize=knn_per", *SETTINGS))
    metrics = on_training_samples(found, neighbours=1, weight=1.0)
    assert metrics["test_accuracy"] == 1
    assert metrics["test_loss"] == pytest.approx(0, abs=1e-12)
    found = run(tiny("personalize=knn_per", *SETTINGS, task=Task.REGRESSION))
    assert on_training_samples(found, neighbours=1, weight=1.0)["test_rmse"] == pytest.approx(0, abs=1e-12)


def test_the_ends_of_the_scale(tiny, run):
    """At one, the nearest alone counts, as with k = 1; at the other, all k have the same weight."""
    ends = {}
    for k, scale in ((1, 1), (5, 1e-320), (5, 1e300)):
        keys = (f"personalize.neighbours={k}", f"personalize.scale={scale}")
        ends[k, scale] = run(tiny("personalize=knn_per", *keys, *SETTINGS))
    nearest, narrow, wide = ends.values()
    assert narrow.metrics[-1]["personal_loss"] == pytest.approx(nearest.metrics[-1]["personal_loss"], rel=1e-12)
    assert wide.metrics[-1]["personal_loss"] == pytest.approx(expected(wide, 5, 0.5, 1e300)[0], rel=1e-9)


def test_a_label_without_a_neighbour_has_a_finite_loss(tiny, run):
    """Where neighbours alone decide, a wrong nearest one leaves the probability 2^-126, the smallest normal float32."""
    found = run(tiny("personalize=knn_per", "personalize.neighbours=1", "personalize.weight=1", *SETTINGS))
    last = found.metrics[-1]
    assert last["personal_loss"] == pytest.approx((1 - last["personal_accuracy"]) * 126 * np.log(2), rel=1e-9)


def test_of_equal_states_the_first_is_nearer():
    """Places 1, 3 and 4 have the state that is asked for, but for rounding; 0 is as far as 2."""
    squared = torch.tensor([[1.0, 3e-16, 1.0, -2e-16, 0.0], [0.0, 1.0, 1.0 + 1e-15, 1.0, 2.0]], dtype=torch.float64)
    assert knn_per._nearest(squared, 2, 1.0).tolist() == [[1, 3], [0, 1]]
    assert knn_per._nearest(squared, 4, 1.0).tolist() == [[1, 3, 4, 0], [0, 1, 2, 3]]


@pytest.mark.parametrize("task", list(Task))
def test_capacity(tiny, run, task):
    """What is remembered is a part of all pairs, the same for every model, and another one for every client."""
    found = run(tiny("personalize=knn_per", "personalize.capacity=3", *SETTINGS, task=task))
    own, arch = found.simulation.personal.own, found.simulation.task.arch
    drawn = []
    for client in range(found.simulation.population.num_clients):
        z, _, targets = pairs(arch, found.state.row, found.simulation.population.train, client)
        store = own.remember(found.state.row, client)
        assert len(store.features) == min(3, len(z))
        near = ((store.features.numpy()[:, None] - z[None]) ** 2).sum(2)
        places = near.argmin(1)
        assert near.min(1).max() < 1e-20
        np.testing.assert_array_equal(store.targets.numpy(), targets[places])
        if task is not Task.SEQUENCE_LABELLING:  # there, several have the same state
            assert sorted(places) == [*places]
            other = own.remember(torch.zeros_like(found.state.row), client)
            np.testing.assert_array_equal(other.targets.numpy(), targets[places])
            drawn.append([*places])
    assert len({tuple(places) for places in drawn if len(places) == 3}) > 1 or task is Task.SEQUENCE_LABELLING
    (line,) = found.simulation.personal.introduce()
    more = [int(n) for n in own.counts() if n > 3]
    assert f"{len(more)} of {found.simulation.population.num_clients} clients have more than 3 targets" in line
    assert f"up to {max(more)}," in line
    assert run(tiny("personalize=knn_per", *SETTINGS, task=task)).simulation.personal.introduce() == []


def test_a_client_with_nothing_to_remember_has_its_model(tiny, run):
    """A role all of whose training targets are unknown: its prediction is the global one."""
    found = run(tiny("personalize=knn_per", *SETTINGS, task=Task.SEQUENCE_LABELLING))
    own = found.simulation.personal.own
    train = own.population.train
    nothing = replace(train, targets=torch.full_like(train.targets, IGNORE))
    own = replace(own, population=replace(own.population, train=nothing))
    clients = own.population.test.sizes.nonzero()[:, 0]
    rows = found.state.row.expand(len(clients), -1)
    ours = own.score_clients(rows, clients, own.population.test)
    theirs = found.simulation.trainer.score_clients(rows, clients, own.population.test)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-12, atol=0)
    assert own.counts().tolist() == [0] * len(train.sizes)


def test_unseen_clients_remember_their_own_samples(compose, run):
    found = run(
        compose(
            *("data=synthetic", "data.clients=6", "data.length=4", "model.hidden_size=4", "device=cpu", "rounds=2"),
            *("dtype=float64", "engine.kernels=torch", "eval.unseen_clients=2", "partition=natural"),
            *("personalize=knn_per", "personalize.neighbours=4"),
        )
    )
    arch, unseen = found.simulation.task.arch, found.simulation.population.unseen
    losses = []
    for client in range(2):
        mixed, targets = mixture(arch, found.state.row, unseen, client, unseen.test, 4, 0.5, 1.0)
        losses += [*-np.log(mixed[np.arange(len(targets)), targets])]
    assert found.metrics[-1]["unseen_personal_loss"] == pytest.approx(np.mean(losses), rel=1e-9)
    assert found.metrics[-1]["unseen_personal_loss"] != pytest.approx(found.metrics[-1]["unseen_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("personalize.neighbours=0",), "neighbours=0"),
        (("personalize.weight=1.5",), "weight=1.5"),
        (("personalize.scale=0",), "scale=0"),
        (("personalize.capacity=0",), "capacity=0"),
        (("schedule=ifca",), "personalize=knn_per: makes personal models, and so does schedule=ifca"),
        (("aggregator=pfedme",), "personalize=knn_per: aggregator/correction=pfedme makes the personal models"),
        (("baseline=local",), "baseline=local"),
    ],
)
def test_refused(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny("personalize=knn_per", *overrides)


def test_quantiles_are_refused(tiny):
    """A mean of neighbours is no quantile."""
    simulation = prepare(tiny("personalize=knn_per", task=Task.REGRESSION))
    arch = replace(simulation.task.arch, quantiles=(0.1, 0.5))
    bound = replace(simulation.bound, task=replace(simulation.task, arch=arch))
    with pytest.raises(UserError, match="the model predicts quantiles; take"):
        simulation.experiment.personalize.bind(bound)
