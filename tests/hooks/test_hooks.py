"""Five algorithms of a user's own, each one file and one YAML.

No file of fedsim changes for them.

They lie in `mine/`, are copied to a folder of the test's, and run through ``--config-dir`` and ``--allow-module``.
"""

import csv
import shutil
import sys
from pathlib import Path

import pytest

from fedsim.cli.main import main
from fedsim.config.compose import Request, check_request, normalise
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

MINE = Path(__file__).parent / "mine"
GROUPS = {
    "my_mime": "aggregator/correction",
    "my_fedrep": "aggregator/correction",
    "my_apfl": "personalize",
    "edges": "schedule",
    "gossip": "schedule",
}
NEEDS = {"my_fedrep": ("aggregator.blocks=[recurrent]",), "gossip": ("aggregator=mean",)}
TINY = (
    *("data=synthetic", "data.clients=4", "data.samples_per_client=7", "data.test_samples_per_client=3"),
    *("data.length=4", "data.features=2", "partition=quantity", "num_clients=4", "model.hidden_size=3"),
    *("client.batch_size=2", "client.epochs=2", "rounds=4", "device=cpu", "threads=1"),
    *("dtype=float64", "seed=5", "console=none"),
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The user's folder, in which they type their commands: ``NAME.py`` beside ``configs/GROUP/NAME.yaml``."""
    for name, group in GROUPS.items():
        shutil.copy(MINE / f"{name}.py", tmp_path)
        folder = tmp_path / "configs" / group
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(MINE / f"{name}.yaml", folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in GROUPS:
        sys.modules.pop(name, None)


@pytest.fixture
def fedsim(mine, monkeypatch, capsys):
    """Return ``fedsim(*arguments)``, which runs a command and returns its exit code and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, "".join(capsys.readouterr())

    return call


def chosen(name, *more):
    """The overrides of a run with one of the hooks, or with none."""
    kernels = () if "engine=sequential" in more else ("engine.kernels=torch",)
    return (*TINY, *kernels, *((f"{GROUPS[name]}={name}", *NEEDS.get(name, ())) if name else ()), *more)


def allowed(name):
    return ("--config-dir", "configs", *(("--allow-module", name) if name else ()))


def rows_of(directory):
    with (Path(directory) / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


@pytest.fixture
def run(fedsim):
    """Return ``run(name, *more, to=)``, the rows of a run with one of the hooks, or with none (None)."""

    def run(name, *more, to="out"):
        code, text = fedsim("run", *chosen(name, *more), *allowed(name), f"hydra.run.dir={to}")
        assert code == 0, text
        return rows_of(to)

    return run


@pytest.mark.parametrize("name", GROUPS)
def test_both_engines_agree(run, name):
    stacked, sequential = run(name, to="stacked"), run(name, "engine=sequential", to="sequential")
    assert len(stacked) == 5
    for a, b in zip(stacked, sequential, strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-10)  # 1e-10 on deltas; what is made of small ones loses a digit


@pytest.mark.parametrize("name", GROUPS)
def test_a_resumed_run_has_the_same_bytes(fedsim, name, mine):
    def do(*arguments):
        code, text = fedsim(*arguments, *allowed(name))
        assert code == 0, text

    do("run", *chosen(name), "hydra.run.dir=whole")
    do("run", *chosen(name, "rounds=2"), "hydra.run.dir=broken")
    do("resume", "broken", "rounds=4")
    assert (mine / "broken/metrics.csv").read_bytes() == (mine / "whole/metrics.csv").read_bytes()


@pytest.mark.parametrize("name", GROUPS)
def test_chunks_change_results_by_rounding_only(mine, name):
    """With one client at a time, as with all at once."""
    request = normalise(Request(chosen(name), False, "configs", (name,)))
    experiment = check_request(request)[0].experiment
    results = []
    for size in (1, 4):
        simulation = prepare(experiment)
        object.__setattr__(simulation.bound, "chunk_size", size)
        results.append([result.metrics for result in simulate(simulation, initial_state(simulation))])
    for a, b in zip(*results, strict=True):
        assert {k: v for k, v in a.items() if v is not None} == pytest.approx(
            {k: v for k, v in b.items() if v is not None}, rel=1e-9, abs=1e-10
        )


def without_drift(rows):
    return [{k: v for k, v in row.items() if k not in ("client_drift", "bytes_down", "bytes_up")} for row in rows]


def test_mime_with_one_full_step_and_no_momentum_is_fedsgd(run):
    """Where ``y = x``, ``g(y) - g(x) + c`` is c: every client takes the step of the mean gradient."""
    once = ("client=full_batch", "aggregator/combine=mean", "aggregator/server_optimizer=sgd")
    plain = run(None, *once, "client.batch_size=null", "client.epochs=1", to="plain")
    full = ("client.batch_size=null", "client.epochs=1")
    mime = run("my_mime", "aggregator.correction.beta=0", *once, *full, to="mime")
    for a, b in zip(without_drift(mime), without_drift(plain), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    assert all(row["client_drift"] < 1e-12 for row in mime[1:])


def test_mime_counts_what_it_sends(run):
    plain, mime = run(None, to="plain")[-1], run("my_mime", to="my_mime")[-1]
    assert mime["bytes_down"] == 3 * plain["bytes_down"]
    assert mime["bytes_up"] == 2 * plain["bytes_up"]


def test_fedrep_trains_the_head_first(run):
    """As long as only heads are trained, the shared representation stays where it is, and the training loss falls."""
    rows = run("my_fedrep", "aggregator.correction.head_steps=1000")
    assert all(row["delta_norm"] == 0 for row in rows[1:])
    assert rows[-1]["train_loss"] < rows[1]["train_loss"]
    assert run("my_fedrep", to="then")[1]["delta_norm"] > 0


def test_fedrep_needs_a_private_head(fedsim):
    overrides = [text for text in chosen("my_fedrep") if not text.startswith("aggregator.blocks")]
    code, text = fedsim("run", *overrides, *allowed("my_fedrep"))
    assert (code, "needs a private head" in text) == (2, True)


def test_apfl_without_weight_is_the_global_model(run):
    for row in run("my_apfl", "personalize.weight=0"):
        for name in ("loss", "accuracy"):
            assert row[f"personal_{name}"] == pytest.approx(row[f"test_{name}"], rel=1e-12)


def test_apfl_of_one_client_with_all_weight_is_its_own_training(run):
    """Then its own model takes the steps of plain SGD, as the global one does, but for the order of the batches."""
    one = ("partition=iid", "num_clients=1", "client.batch_size=null")
    for row in run("my_apfl", "personalize.weight=1", *one):
        assert row["personal_loss"] == pytest.approx(row["test_loss"], rel=1e-12)


def test_edges_that_meet_every_round_are_fedavg(run):
    plain, edges = run(None, to="plain"), run("edges", "schedule.every=1", to="edges")
    for a, b in zip(without_drift(edges), without_drift(plain), strict=True):
        assert a == pytest.approx(b, rel=1e-12)
    later = run("edges", "schedule.every=3", to="later")
    assert later[1]["test_loss"] == pytest.approx(plain[1]["test_loss"], rel=1e-12)  # the first round is the same
    assert abs(later[3]["test_loss"] - plain[3]["test_loss"]) > 1e-6


def test_edges_count_what_the_cloud_hears(run):
    """Two edge servers and the cloud exchange a row each way in rounds 2 and 4; a client's row is as long."""
    plain, edges = run(None, to="plain")[-1], run("edges", to="edges")[-1]
    row = plain["bytes_up"] / (4 * 4)  # clients, rounds
    assert edges["bytes_up"] == plain["bytes_up"] + 2 * 2 * row
    assert edges["bytes_down"] == plain["bytes_down"] + 2 * 2 * row


def test_gossip_among_three_is_their_mean(run):
    """On a ring of three, thirds for the neighbours and itself are the mean of all: FedAvg with equal weights."""
    three = ("num_clients=3", "data.clients=3")
    plain = run(None, "aggregator=mean", *three, to="plain")
    gossip = run("gossip", *three, to="gossip")
    for a, b in zip(without_drift(gossip), without_drift(plain), strict=True):
        assert {k: v for k, v in a.items() if not k.startswith("personal")} == pytest.approx(b, rel=1e-9)
        assert a["personal_loss"] == pytest.approx(a["test_loss"], rel=1e-9)


def test_gossip_keeps_the_mean_and_brings_rows_together(run):
    rows = run("gossip", "num_clients=4", to="gossip")
    assert rows[1]["test_loss"] != rows[1]["personal_loss"]
    plain = run(None, "aggregator=mean", to="plain")
    assert rows[1]["test_loss"] == pytest.approx(plain[1]["test_loss"], rel=1e-9)  # W leaves the mean as it is


@pytest.mark.parametrize("name", ["edges", "gossip", "my_mime"])
def test_what_a_hook_reads_is_refused_where_it_is_hidden(fedsim, name):
    """Rows that only sums may leave the clients for: each of these hooks says that it needs more."""
    code, text = fedsim(
        "run", *chosen(name, "aggregator=mean"), f"{GROUPS[name]}={name}", "privacy=secure_aggregation", *allowed(name)
    )
    assert code == 2
    assert text.startswith("error: privacy=secure_aggregation: ")
    assert f"{GROUPS[name]}={name} " in text
