"""The federated loop as a whole: repeatable, resumable, right in its books, and able to learn."""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fedsim
from fedsim.client_store import ClientStore
from fedsim.clients.engine import SequentialEngine, StackedEngine, client_bytes
from fedsim.core.stopping import Stop
from fedsim.data.dataset import Task
from fedsim.data.synthetic import Synthetic
from fedsim.errors import Diverged, UserError
from fedsim.evaluation.evaluate import evaluate
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.runs.checkpoints import load_checkpoint, save_checkpoint
from fedsim.server.optimizers import SGD, Momentum

_NUMBA = Path(fedsim.__file__).parent / "models" / "numba_kernels" / "__init__.py"
HAS_NUMBA = pytest.mark.skipif(not _NUMBA.exists(), reason="there are no numba kernels yet")
pytestmark = pytest.mark.usefixtures("one_thread")

NUMBA = pytest.param(StackedEngine(kernels="numba"), marks=HAS_NUMBA, id="numba")
TORCH = pytest.param(StackedEngine(kernels="torch"), id="torch")
SEQUENTIAL = pytest.param(SequentialEngine(), id="sequential")

EVERYTHING = (
    *("client/optimizer=adam", "client.optimizer.lr=0.02", "client.keep_optimizer_state=true", "client.lr_decay=0.9"),
    *("sampler.fraction=0.5", "rounds=6", "aggregator=fedadam", "model.num_layers=2", "model.dropout=0.3"),
)


@pytest.fixture
def everything(tiny):
    """Whatever has a memory or draws at random, in one experiment."""
    return tiny(*EVERYTHING)


# ---------------------------------------------------------------------------------------------------------------------
# repeatable


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", [TORCH, NUMBA, SEQUENTIAL])
def test_the_same_seed_gives_the_same_bits(everything, run, engine, dtype):
    torch.set_num_threads(1 if isinstance(engine, SequentialEngine) else 2)  # until `one_thread` takes it back
    everything = replace(everything, engine=engine, dtype=dtype, rounds=3)
    first, again, other = run(everything), run(everything), run(replace(everything, seed=1))
    assert first.metrics == again.metrics
    assert torch.equal(first.state.row, again.state.row)
    assert first.metrics[0]["test_loss"] != other.metrics[0]["test_loss"]


def test_global_generators_neither_matter_nor_move(everything, run):
    torch.manual_seed(1)
    np.random.seed(1)  # the point is that nobody uses it
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = run(everything)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    torch.manual_seed(2)
    assert run(everything).metrics == first.metrics


def test_a_shorter_run_is_the_beginning_of_a_longer_one(everything, run):
    long, short = run(everything), run(replace(everything, rounds=2))
    assert long.metrics[:3] == short.metrics


@pytest.mark.parametrize("size", [1, 2])
def test_chunks_change_results_by_rounding_only(everything, run, size):
    everything = replace(everything, sampler=replace(everything.sampler, fraction=1.0))
    whole, chunked = run(everything), run(everything, chunk_size=size)
    assert len(chunked.deltas) == everything.rounds * math.ceil(5 / size)
    for a, b in zip(whole.rows, chunked.rows, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm()
    for a, b in zip(whole.metrics[1:], chunked.metrics[1:], strict=True):
        assert a == pytest.approx(b, rel=1e-10)


def test_a_small_memory_budget_makes_small_chunks(tiny, run):
    """Each client's activations take 4 samples of 6 steps of 100 units: 100 * (3 * 3 + 5) * 8 bytes and more a step."""
    base = replace(tiny("model.hidden_size=100"), rounds=1)
    small = replace(base, engine=StackedEngine(kernels="torch", memory_budget="6MiB"))
    assert prepare(base).chunk_size >= 5
    sim = prepare(small)
    assert client_bytes(sim.task, torch.float64) > 4 * 6 * 100 * 14 * 8
    assert sim.chunk_size == 6 * 2**20 // client_bytes(sim.task, torch.float64)
    assert 1 <= sim.chunk_size < 5
    a, b = run(base), run(small)
    assert len(b.deltas) > len(a.deltas) == 1
    assert (a.state.row - b.state.row).norm() <= 1e-12 * a.state.row.norm()


# ---------------------------------------------------------------------------------------------------------------------
# algorithms that are others in disguise


def test_fedprox_without_pull_is_fedavg(tiny, run):
    fedavg = run(tiny("aggregator=fedavg"))
    fedprox = run(tiny("aggregator=fedprox", "aggregator.correction.mu=0"))
    assert fedprox.metrics == fedavg.metrics
    assert torch.equal(fedprox.state.row, fedavg.state.row)


def test_fedavgm_without_momentum_is_fedavg(tiny, run):
    base = tiny("aggregator=fedavg")
    momentum = replace(base, aggregator=replace(base.aggregator, server_optimizer=Momentum(lr=1.0, beta=0.0)))
    assert isinstance(base.aggregator.server_optimizer, SGD)
    assert run(momentum).metrics == run(base).metrics


def test_fedprox_pulls(tiny, run):
    """A stronger pull leaves the clients nearer to where they started."""
    norms = [
        run(replace(tiny("aggregator=fedprox", f"aggregator.correction.mu={mu}"), rounds=1)).metrics[1]["delta_norm"]
        for mu in (0, 1, 3)
    ]
    assert norms[0] > norms[1] > norms[2]


def test_one_client_with_all_samples_is_central_training(tiny, uneven, run):
    """FedAvg over one client: the global row moves by that client's delta."""
    result = run(replace(tiny(), partition=uneven((30,), (10,)), rounds=1))
    torch.testing.assert_close(result.state.row, initial_state(result.simulation).row + result.deltas[0][0])
    assert result.metrics[1]["client_drift"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# the books


def test_round_zero_is_the_untrained_model(tiny, run):
    result = run(tiny())
    sim = result.simulation
    untrained = evaluate(sim.trainer, initial_state(sim).row, sim.population).metrics
    empty = {"train_loss": None, "delta_norm": None, "client_drift": None}
    assert result.metrics[0] == {"round": 0, "clients": 0, "bytes_down": 0, "bytes_up": 0, **empty, **untrained}


@pytest.mark.parametrize("task", list(Task))
def test_columns(tiny, run, task):
    result = run(tiny(task=task))
    tests = {
        Task.REGRESSION: ["test_loss", "test_rmse", "test_mae", "test_rmse_p90", "test_rmse_std"],
        Task.CLASSIFICATION: ["test_loss", "test_accuracy", "test_accuracy_p10", "test_accuracy_std"],
    }
    tests[Task.SEQUENCE_LABELLING] = tests[Task.CLASSIFICATION]
    ends = ["delta_norm", "client_drift", "bytes_down", "bytes_up"]
    columns = [column.name for column in result.simulation.columns]
    assert columns == ["round", "clients", "train_loss", *tests[task], *ends]
    assert all(list(metrics) == columns for metrics in result.metrics)
    assert [metrics["round"] for metrics in result.metrics] == [0, 1, 2]


def test_a_round_in_numpy(tiny, run):
    """From the deltas and reports of each round: row, losses, norm and drift of FedAvg."""
    result = run(tiny("sampler.cohort_size=3", "rounds=4"))
    row = initial_state(result.simulation).row.numpy()
    sizes = result.simulation.population.train.sizes
    for number in range(1, 5):
        deltas, report = result.deltas[number - 1].numpy(), result.reports[number - 1]
        cohort = result.simulation.experiment.sampler.cohort(sizes, number, 0, None)
        weights = sizes[cohort].numpy() / sizes[cohort].sum().item()
        delta = weights @ deltas
        row = row + delta
        np.testing.assert_allclose(result.rows[number - 1], row, rtol=1e-12)
        metrics = result.metrics[number]
        assert metrics["clients"] == 3
        assert metrics["train_loss"] == pytest.approx(weights @ report.train_loss.numpy(), rel=1e-12)
        assert metrics["delta_norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-12)
        drift = np.sqrt(np.mean(np.sum((deltas - delta) ** 2, 1)))
        assert metrics["client_drift"] == pytest.approx(drift, rel=1e-9)


def test_bytes(tiny, run):
    """GRU of 5 on 3 features and 4 labels: P = 15 * (3 + 5 + 2) + 4 * 6 = 174 numbers of 8 or 4 bytes each way."""
    for dtype, size in (("float64", 8), ("float32", 4)):
        result = run(replace(tiny("sampler.cohort_size=3", "rounds=4"), dtype=dtype))
        for number, metrics in enumerate(result.metrics):
            assert metrics["bytes_down"] == metrics["bytes_up"] == number * 3 * 174 * size
            assert isinstance(metrics["bytes_down"], int)


def test_rounds_between_evaluations_have_empty_cells(tiny, run):
    result = run(tiny("eval.every=3", "rounds=5"))
    every = run(tiny("rounds=5"))
    evaluated = [metrics["test_loss"] is not None for metrics in result.metrics]
    assert evaluated == [True, False, False, True, False, True]
    for ours, theirs in zip(result.metrics, every.metrics, strict=True):
        kept = {name: value for name, value in ours.items() if not name.startswith("test_") or value is not None}
        assert kept.items() <= theirs.items()


def test_validation_loss_is_recorded(tiny, uneven, run):
    base = tiny("client.validation_fraction=0.3", "aggregator=weighted", "aggregator.combine.by=loss")
    result = run(replace(base, partition=uneven((2, 9, 5, 3, 8), (3, 0, 1, 2, 4))))
    assert result.simulation.columns[3].name == "local_validation_loss"
    report, sizes = result.reports[0], result.simulation.population.train.sizes.double()
    expected = (report.validation_loss * sizes).sum() / sizes.sum()
    assert result.metrics[1]["local_validation_loss"] == pytest.approx(expected.item(), rel=1e-12)
    delta = (result.deltas[0] / report.validation_loss[:, None]).sum(0) / (1 / report.validation_loss).sum()
    assert result.metrics[1]["delta_norm"] == pytest.approx(delta.norm().item(), rel=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# ends


def test_stop_at_a_target(tiny, run):
    whole = [metrics["test_loss"] for metrics in run(tiny("rounds=6")).metrics]
    target = sorted(whole)[2]
    result = run(replace(tiny("rounds=6"), stop=Stop(metric="test_loss", target=target)))
    assert len(result.metrics) == next(i for i, loss in enumerate(whole) if loss <= target) + 1
    assert "target" in result.state.progress.reason
    assert [metrics["test_loss"] for metrics in result.metrics] == whole[: len(result.metrics)]


def test_patience_counts_evaluations(tiny, run):
    """With a step of 1e-12 the accuracy stays: the first evaluation is the best, the next two are not better."""
    still = ("client.optimizer.lr=1e-12", "rounds=20", "eval.every=3", "stop.patience=2")
    result = run(tiny(*still))
    assert result.state.round == 6
    assert result.state.progress.best_round == 0
    assert "in 2 evaluations" in result.state.progress.reason


def test_a_metric_without_test_judges_every_round(tiny, run):
    result = run(tiny("rounds=4", "eval.every=4", "stop.metric=train_loss"))
    losses = [metrics["train_loss"] for metrics in result.metrics[1:]]
    assert result.state.progress.best == min(losses)
    assert result.state.progress.best_round == 1 + losses.index(min(losses))


def test_nothing_happens_after_the_end(tiny):
    sim = prepare(tiny())
    state = initial_state(sim)
    assert len(list(simulate(sim, state))) == 3
    assert list(simulate(sim, state)) == []


@dataclass(frozen=True)
class Broken:
    """Synthetic data with one number that is not one, in the training or the test samples."""

    data: Synthetic
    split: str

    def load(self, seed):
        dataset = self.data.load(seed)
        split = getattr(dataset, self.split)
        inputs = split.inputs.copy()
        inputs[:, 0, 1] = np.nan
        return replace(dataset, **{self.split: replace(split, inputs=inputs)})


@pytest.mark.parametrize("engine", [TORCH, NUMBA, SEQUENTIAL])
class TestDivergence:
    def test_by_steps_too_long(self, tiny, run, engine):
        """An error of 1e30 has a square beyond the largest float32, 3e38."""
        base = replace(tiny("client.optimizer.lr=1e30", task=Task.REGRESSION), engine=engine, dtype="float32")
        with pytest.raises(Diverged, match=r"round 1: .* client 'client_"):
            run(base)

    def test_by_training_data(self, tiny, run, engine):
        base = replace(tiny(), engine=engine, dtype="float32")
        with pytest.raises(Diverged, match=r"round 1: the local model of client 'client_0' \(and of 4 more of 5\)"):
            run(replace(base, data=Broken(base.data, "train")))

    def test_by_test_data(self, tiny, run, engine):
        base = replace(tiny(), engine=engine, dtype="float32")
        with pytest.raises(Diverged, match="round 0: the test loss"):
            run(replace(base, data=Broken(base.data, "test")))


def test_divergence_on_the_server(tiny, run):
    base = tiny("aggregator.server_optimizer.lr=1e308")
    with pytest.raises(Diverged, match=r"round [12]: "):
        run(base)


def test_a_diverged_round_leaves_the_state_of_the_round_before(tiny):
    base = tiny()
    sim = prepare(replace(base, data=Broken(base.data, "train")))
    state = initial_state(sim)
    before = state.row.clone()
    rounds = simulate(sim, state)
    next(rounds)
    with pytest.raises(Diverged):
        next(rounds)
    assert (state.round, int(state.drawers["traffic"]["up"])) == (0, 0)
    assert torch.equal(state.row, before)


def test_what_does_not_go_together_is_refused(tiny, uneven):
    with pytest.raises(UserError, match=r"stop\.metric=test_rmse"):
        prepare(replace(tiny(), stop=Stop(metric="test_rmse")))
    regression = tiny("client.validation_fraction=0.3", task=Task.REGRESSION)
    by_accuracy = tiny("client.validation_fraction=0.3", "aggregator.combine.by=accuracy").aggregator
    with pytest.raises(UserError, match=r"aggregator\.combine\.by=accuracy"):
        prepare(replace(regression, partition=uneven((2, 9, 5, 3, 8)), aggregator=by_accuracy))
    with pytest.raises(UserError, match=r"sampler\.cohort_size=9"):
        prepare(tiny("sampler.cohort_size=9"))
    with pytest.raises(UserError, match=r"model\.embedding_size=3"):
        prepare(tiny("model.embedding_size=3"))


# ---------------------------------------------------------------------------------------------------------------------
# resumable


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", [TORCH, SEQUENTIAL])
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(everything, run, tmp_path, engine, dtype):
    everything = replace(everything, engine=engine, dtype=dtype)
    whole = run(everything)
    sim = prepare(everything)
    state = initial_state(sim)
    rounds = simulate(sim, state)
    first = [next(rounds).metrics for _ in range(4)]
    path = save_checkpoint(tmp_path, state)
    del sim, state, rounds

    loaded = load_checkpoint(path, torch.device("cpu"))
    assert loaded.round == 3
    assert {name.split("/")[0] for name in loaded.store.state_dict()} == {
        f"optimizer.{name}" for name in ("mean", "square", "steps")
    }
    rest = run(everything, loaded)
    assert first + rest.metrics == whole.metrics
    assert torch.equal(loaded.row, whole.state.row)
    assert loaded.progress == whole.state.progress
    assert loaded.drawers.keys() == whole.state.drawers.keys() == {"server", "traffic"}
    for group, drawer in whole.state.drawers.items():
        assert loaded.drawers[group].keys() == drawer.keys()
        for name, value in drawer.items():
            assert torch.equal(loaded.drawers[group][name], value)
    for name, value in whole.state.store.state_dict().items():
        assert torch.equal(loaded.store.state_dict()[name], value)


def test_a_run_that_stopped_stays_stopped(tiny, tmp_path):
    sim = prepare(replace(tiny("rounds=9"), stop=Stop(metric="test_loss", target=100.0)))
    state = initial_state(sim)
    assert len(list(simulate(sim, state))) == 1
    loaded = load_checkpoint(save_checkpoint(tmp_path, state), torch.device("cpu"))
    assert loaded.progress == state.progress
    assert loaded.progress.reason


def test_forgetting_any_part_would_show(everything, run):
    """The checkpoint test would not notice a lost state if it made no difference: it does."""
    sim = prepare(everything)
    state = initial_state(sim)
    rounds = simulate(sim, state)
    for _ in range(4):
        next(rounds)
    whole = run(everything).state.row

    def finish(store, drawers):
        progress, drawers = replace(state.progress), copy.deepcopy(drawers)  # what one run changes is not the next's
        return run(everything, replace(state, progress=progress, store=store, drawers=drawers)).state.row

    forgotten = state.drawers | {"server": initial_state(sim).drawers["server"]}
    store = ClientStore(5)
    store.load_state_dict(state.store.state_dict())
    assert not torch.equal(finish(ClientStore(5), state.drawers), whole)
    assert not torch.equal(finish(copy.deepcopy(store), forgotten), whole)
    assert torch.equal(finish(store, state.drawers), whole)


# ---------------------------------------------------------------------------------------------------------------------
# learning


def test_the_default_learns_japanese_vowels(compose, run):
    """The defaults alone: ten clients, at most fifty rounds, and 370 utterances of nine speakers to tell apart."""
    result = run(compose("eval.every=5", "stop.target=0.93"))
    assert result.metrics[0]["test_accuracy"] < 0.3
    assert result.metrics[-1]["test_accuracy"] >= 0.93


def test_the_regression_learns(compose, run):
    result = run(compose("experiment=gru_regression"))
    assert result.metrics[-1]["test_loss"] <= result.metrics[0]["test_loss"] / 2


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        (("client.epochs=2",), 60),  # 2 + 13 + 5 + 1 + 9 = 30 samples, twice
        # In five steps of at most four samples, clients of 2, 13, 5, 1 and 9 samples go through
        # 5 * 2, 13 + 4 (a pass has four steps), 2 * 5 + 4, 5 * 1 and 9 + 2 * 4 samples.
        (("client.epochs=null", "client.steps=5"), 10 + 17 + 14 + 5 + 17),
        (("client.epochs=null", "client.steps=5", "client.batch_size=null"), 150),
    ],
)
def test_a_round_says_how_many_samples_it_went_through(tiny, settings, samples):
    simulation = prepare(tiny(*settings, "rounds=1"))
    untrained, trained = simulate(simulation, initial_state(simulation))
    assert (untrained.samples, trained.samples) == (0, samples)
