"""Metrics against NumPy, from the outputs of the reference module."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fedsim.client_store import ClientStore
from fedsim.clients.engine import SequentialEngine, StackedEngine
from fedsim.data.dataset import IGNORE, Score, Task, WordTokens
from fedsim.data.fitted import Fitted, Scaling, columns
from fedsim.data.source import load_dataset
from fedsim.data.words import Words
from fedsim.errors import FieldError, UserError
from fedsim.evaluation.errors import Measure
from fedsim.evaluation.evaluate import evaluate, evaluate_own, score_columns, standard_error
from fedsim.evaluation.settings import Eval
from fedsim.federation.prepare import initial_state, prepare
from fedsim.metrics import Column
from fedsim.models.reference import ReferenceModel, load_row
from fedsim.models.scores import Sums, count_ahead, word_counts

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = [StackedEngine(kernels="torch"), SequentialEngine()]


def evaluated(experiment, engine):
    """The evaluation of the untrained model, its outputs ``[S, (T,) K]`` on all test samples, and the population."""
    sim = prepare(replace(experiment, engine=engine))
    row = initial_state(sim).row * 3  # so that it is sure of some things
    module = ReferenceModel(sim.task.arch).double()
    load_row(module, sim.task.arch, row)
    test = sim.population.test
    outputs = module(test.take(torch.arange(len(test))), test.lengths).detach().numpy()
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


def next_words(tiny, *overrides):
    """An experiment on words of the play: windows of 6 tokens, with ends, padding and two buckets of unknown words."""
    base = tiny(*overrides, task=Task.SEQUENCE_LABELLING)
    data = Words(path=base.data.path, length=6, sample="window", vocabulary_size=8, oov_buckets=2, test_fraction=0.7)
    return replace(base, data=data)


@pytest.mark.parametrize("engine", ENGINES)
def test_words(tiny, engine):
    """Against NumPy: a target is among the three highest if at most two outputs are larger."""
    found, outputs, population = evaluated(next_words(tiny), engine)
    targets = population.test.targets.numpy()
    unknown, end = (targets == 9) | (targets == 10), targets == 12  # 0 is padding, 1 to 8 words, 11 the beginning
    counted = targets != IGNORE
    hit = outputs.argmax(-1) == targets
    order = np.argsort(-outputs, axis=-1)[..., :3]
    among = (order == targets[..., None]).any(-1)
    assert population.num_outputs == 13
    assert unknown.any()
    assert end.any()
    assert not counted.all()

    def scores(of):
        sets = {"accuracy": counted, "accuracy_no_oov": counted & ~unknown}
        sets["accuracy_no_oov_no_eos"] = counted & ~unknown & ~end
        wanted = {f"test_{name}": hit[of][own[of]].mean() if own[of].any() else np.nan for name, own in sets.items()}
        return wanted | {"test_recall_at_3": among[of][counted[of]].mean() if counted[of].any() else np.nan}

    everything = scores(slice(None))
    assert {name: found.metrics[name] for name in everything} == pytest.approx(everything, rel=1e-12)
    assert found.metrics["test_perplexity"] == pytest.approx(math.exp(found.metrics["test_loss"]), rel=1e-12)
    assert len({*everything.values()}) == 4, "the metrics differ"
    bounds = population.test.offsets.tolist()
    for client, of in enumerate(slice(*pair) for pair in pairwise(bounds)):
        own = {name: found.clients[name][client] for name in everything}
        assert own == pytest.approx(scores(of), rel=1e-12, nan_ok=True)
    np.testing.assert_allclose(found.clients["test_perplexity"], np.exp(found.clients["test_loss"]), rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_words_of_each_clients_own_model(tiny, engine):
    """With the global model in everyone's hands, own models have the metrics of the global one."""
    sim = prepare(replace(next_words(tiny), engine=engine))
    row = initial_state(sim).row * 3
    own = evaluate_own(sim.trainer, lambda clients: row.expand(len(clients), -1), sim.population, 2, "test")
    one = evaluate(sim.trainer, row, sim.population)
    assert own.metrics == pytest.approx(one.metrics, rel=1e-12)
    assert [column.name for column in score_columns(sim.population)] == [
        *("test_loss", "test_perplexity", "test_accuracy", "test_accuracy_no_oov", "test_accuracy_no_oov_no_eos"),
        *("test_recall_at_3", "test_accuracy_p10", "test_accuracy_std"),
    ]
    assert {*one.metrics} == {column.name for column in score_columns(sim.population)}


def test_top_three_by_hand():
    """Outputs 4 3 2 1 of tokens 1 to 4 (0 is lowest): 4 is not among the first three; of 5 words none is unknown.

    Targets 1, 3, 4, 5 (the end, 0.5): hits 1; among the three 1 and 3. Known are all but 4, words all of these but 5.
    """
    outputs = torch.tensor([[0.0, 4.0, 3.0, 2.0, 1.0, 0.5]]).expand(4, -1)
    targets = torch.tensor([1, 3, 4, 5])
    ahead = count_ahead(outputs, targets)
    assert ahead.tolist() == [0, 2, 3, 4]
    counts = word_counts(ahead == 0, ahead, targets, torch.tensor([True] * 4), WordTokens((4, 5), 5))
    assert counts.int().tolist() == [[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


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


# ---------------------------------------------------------------------------------------------------------------------
# validation, unseen clients, and a sample of the clients


def test_the_default_judge_is_validation_where_there_is_one(tiny, run):
    plain, held = run(tiny("rounds=3")), run(tiny("rounds=3", "eval.validation_fraction=0.3"))
    assert (plain.state.progress.metric, plain.state.progress.on) == ("test_accuracy", "test")
    assert (held.state.progress.metric, held.state.progress.on) == ("validation_accuracy", "validation")
    values = [row["validation_accuracy"] for row in held.metrics]
    assert held.state.progress.best == max(values)
    assert held.state.progress.best_round == values.index(max(values))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION])
def test_validation_scores_are_those_of_the_samples_held_back(tiny, engine, task):
    """The same model on the same samples as test samples."""
    sim = prepare(replace(tiny("eval.validation_fraction=0.4", task=task), engine=engine))
    row = initial_state(sim).row
    population = sim.population
    found = sim.examine(initial_state(sim))
    as_test = evaluate(sim.trainer, row, replace(population, test=population.validation))
    names = [name.removeprefix("test_") for name in as_test.metrics]
    assert [found.metrics[f"validation_{name}"] for name in names] == list(as_test.metrics.values())
    numbers = 2 if task is Task.REGRESSION else 1  # data.outputs=2
    assert found.clients["test_items"].tolist() == [numbers * int(size) for size in population.test.sizes]


def test_held_back_samples_are_not_trained_on(tiny, run):
    """With the held-back samples' inputs replaced, nothing changes but the validation columns."""
    experiment = tiny("eval.validation_fraction=0.4", "rounds=2")
    whole = run(experiment)
    population = whole.simulation.population
    assert len(population.train) + len(population.validation) == 30
    train = {tuple(x.flatten().tolist()) for x in population.train.inputs}
    assert not any(tuple(x.flatten().tolist()) in train for x in population.validation.inputs)


def test_unseen_clients_never_take_part(tiny, run):
    """Four of five clients train: as many rows, and the fifth's samples are in no other hands."""
    result = run(tiny("eval.unseen_clients=[client_4]", "rounds=2", "sampler.fraction=1.0"))
    population, unseen = result.simulation.population, result.simulation.population.unseen
    assert population.client_names == ("client_0", "client_1", "client_2", "client_3")
    assert (unseen.client_names, unseen.train.sizes.tolist()) == (("client_4",), [9])
    assert result.deltas[0].shape[0] == 4
    found = evaluate(result.simulation.trainer, result.state.row, unseen)
    assert result.metrics[2]["unseen_accuracy"] == found.metrics["test_accuracy"]


@pytest.mark.parametrize(("method", "key"), [("finetune", "personalize.steps=3"), ("ditto", "personalize.mu=0.5")])
def test_an_unseen_client_gets_what_a_newcomer_gets(tiny, run, method, key):
    """Computed here by the engine of the personal task, bound to the unseen clients alone, from an empty store."""
    result = run(tiny("eval.unseen_clients=2", f"personalize={method}", key, "rounds=2"))
    sim, unseen = result.simulation, result.simulation.population.unseen
    settings = sim.experiment.personalize
    task = settings.task(sim.task)
    trainer = sim.bound.make_trainer(replace(task, population=unseen, stream=f"unseen.{task.stream}"))
    clients = torch.arange(2)
    anchors = result.state.row.expand(2, -1)
    deltas, _ = trainer.train(anchors, clients, 2, ClientStore(2))
    scored = trainer.score_clients(anchors + deltas, clients, unseen.test)
    expected = float(scored.hits.sum() / scored.count.sum())
    assert result.metrics[2]["unseen_personal_accuracy"] == pytest.approx(expected)
    assert float((deltas != 0).double().mean()) > 0.5
    assert result.metrics[0]["unseen_personal_loss"] is not None


def test_the_standard_error_of_a_ratio():
    """Three of ten clients with hits 1, 2, 6 of 2, 4, 6 items: R = 9/12 = 0.75; residuals -0.5, -1, 1.5.

    s^2 = (0.25 + 1 + 2.25) / 2 = 1.75; variance (1 - 3/10) 3 1.75 / 12^2 = 3.675 / 144.
    """
    hits, count = torch.tensor([1.0, 2, 0, 6]).double(), torch.tensor([2.0, 4, 0, 6]).double()
    plain = Measure("accuracy", hits, count)
    error = (3.675 / 144) ** 0.5
    assert standard_error(plain, hits, count, 10) == pytest.approx(error, rel=1e-12)
    assert standard_error(replace(plain, root=True), hits, count, 10) == pytest.approx(error / (2 * 0.75**0.5))
    assert math.isnan(standard_error(plain, hits[:1], count[:1], 10))


def test_the_standard_error_is_that_of_drawing_clients_again():
    """The spread of the pooled mean over 4,000 samples of 20 out of 60 clients, 4% of its own noise and bias aside."""
    rng = np.random.default_rng(0)
    count = torch.from_numpy(rng.integers(5, 40, 60).astype(np.float64))
    total = torch.from_numpy(rng.binomial(count.numpy().astype(int), rng.uniform(0.3, 0.9, 60)).astype(np.float64))
    drawn = [rng.permutation(60)[:20] for _ in range(4000)]
    means = [float(total[k].sum() / count[k].sum()) for k in drawn]
    measure = Measure("accuracy", total, count)
    errors = [standard_error(measure, total[k], count[k], 60) for k in drawn]
    assert np.mean(np.square(errors)) ** 0.5 == pytest.approx(np.std(means), rel=0.06)


def test_only_sampled_clients_have_scores(tiny, run):
    result = run(tiny("eval.clients=2", "eval.validation_fraction=0.4", "rounds=1"))
    scores = result.simulation.examine(result.state)
    assert (~np.isnan(scores.clients["test_accuracy"])).sum() == 2
    assert [row["test_accuracy_se"] is not None for row in result.metrics] == [True, True]
    assert "validation_loss_se" in result.metrics[0]


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        (("eval.every=4",), [0, 4, 8, 10]),
        (("eval.every=4", "eval.last=3"), [0, 4, 8, 9, 10]),
        (("eval.every=20", "eval.last=1"), [0, 10]),
    ],
)
def test_the_last_rounds_are_evaluated_densely(tiny, run, settings, rounds):
    result = run(tiny(*settings, "rounds=10"))
    assert [row["round"] for row in result.metrics if row["test_loss"] is not None] == rounds


def test_one_client_has_no_standard_error():
    with pytest.raises(FieldError, match=r"clients=1: must be at least 2"):
        Eval(clients=1)


def test_unseen_clients_need_a_common_model(tiny):
    with pytest.raises(UserError, match=r"eval\.unseen_clients=1: has nothing to judge, as with baseline=local"):
        prepare(tiny("eval.unseen_clients=1", "baseline=local"))


@pytest.mark.parametrize(
    "method",
    [
        *("personalize=finetune", "personalize=ditto", "personalize=apfl", "personalize=knn_per", "schedule=ifca"),
        "schedule=dpsgd aggregator=mean sampler.fraction=1 sampler.cohort_size=null",
    ],
)
def test_own_models_on_samples_held_back(tiny, run, method):
    """They are judged as on test samples, with those in their place; ``stop.metric`` may go by them."""
    settings = "eval.validation_fraction=0.4", "rounds=2", "stop.metric=validation_personal_accuracy"
    result = run(tiny(*method.split(), *settings))
    sim, state = result.simulation, result.state
    population = replace(sim.population, test=sim.population.validation, validation=None)
    swapped = replace(sim, bound=replace(sim.bound, population=population))
    parts = [part.examine(swapped, state).metrics for part in (sim.personal, sim.schedule)]
    expected = {name: value for found in parts for name, value in found.items() if name.startswith("personal_")}
    last = result.metrics[-1]
    assert len(expected) == 4
    for name, value in expected.items():
        assert last[f"validation_{name}"] == pytest.approx(value, rel=1e-12)
        assert last[name] is not None
    assert state.progress.on == "validation"
