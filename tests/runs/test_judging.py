"""What a run says of the round that was chosen, on which data, and of every client."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from fedsim.config.compose import record_of, to_yaml
from fedsim.core.results import Evaluation
from fedsim.runs.clients_table import spread
from fedsim.runs.resume import resume_run
from fedsim.runs.run import run_experiment
from fedsim.runs.saved_model import read_model

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = (
    *("data=synthetic", "data.clients=6", "data.samples_per_client=10", "data.test_samples_per_client=9"),
    *("data.length=3", "data.features=2", "partition=natural", "model.hidden_size=2", "client.epochs=1"),
    *("client.batch_size=2", "engine.kernels=torch", "device=cpu", "threads=1", "rounds=12", "checkpoint.every=5"),
    *("client.optimizer.lr=2.0", "eval.validation_fraction=0.2", "eval.unseen_clients=2", "personalize=finetune"),
)


@pytest.fixture(scope="module")
def ran(compose, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    directory.mkdir()
    experiment = compose(*SMALL, "console=none")
    assert run_experiment(experiment, to_yaml(record_of(experiment)), directory) == "done"
    return directory


def test_the_test_result_of_the_chosen_round_stands_beside_that_of_the_last(ran):
    table = pd.read_csv(ran / "metrics.csv", float_precision="round_trip")
    summary = json.loads((ran / "summary.json").read_text())
    chosen = table.loc[table["validation_accuracy"].idxmax()]
    best = summary["best"]
    assert (best["metric"], best["on"], best["round"]) == ("validation_accuracy", "validation", chosen["round"])
    assert best["round"] != table["test_accuracy"].idxmax()  # or this test would not tell them apart
    reported = [name for name in table if name.startswith(("test_", "unseen_", "personal_"))]
    assert best["test"] == pytest.approx({name: chosen[name] for name in reported}, rel=0, abs=0)
    assert summary["final"]["test_accuracy"] == table["test_accuracy"].iloc[-1]
    assert read_model(ran, "best").state.round == best["round"]


def test_items_are_the_predictions_that_are_scored(ran):
    """4 clients of 9 test samples and of round(0.2 * 10) = 2 held back, and 2 unseen clients of 9."""
    summary = json.loads((ran / "summary.json").read_text())
    assert summary["items"] == {"test": 36, "validation": 8, "unseen": 18}


def test_every_client_has_a_row(ran):
    with (ran / "clients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["client"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [row["seen"] for row in rows] == ["1"] * 4 + ["0"] * 2
    assert sorted(row["name"] for row in rows) == [f"client_{k}" for k in range(6)]
    assert [row["train_samples"] for row in rows] == ["8"] * 4 + ["10"] * 2
    assert {row["test_items"] for row in rows} == {"9"}
    assert all((row["test_accuracy"] == "") == (row["seen"] == "0") for row in rows)
    assert all((row["unseen_personal_accuracy"] == "") == (row["seen"] == "1") for row in rows)
    last = pd.read_csv(ran / "metrics.csv").iloc[-1]
    unseen = [float(row["unseen_accuracy"]) for row in rows if row["seen"] == "0"]
    assert np.mean(unseen) == pytest.approx(last["unseen_accuracy"])


def test_a_resumed_run_knows_the_chosen_round(ran, compose, tmp_path):
    """Longer by two rounds, it writes what a run of that length writes from the beginning."""
    found = []
    for name in ("whole", "resumed"):
        directory = tmp_path / name
        directory.mkdir()
        rounds = "rounds=14" if name == "whole" else "rounds=12"
        experiment = compose(*SMALL, "console=none", rounds)
        run_experiment(experiment, to_yaml(record_of(experiment)), directory)
        if name == "resumed":
            assert resume_run(directory, compose(*SMALL, "console=none", "rounds=14")) == "done"
        summary = json.loads((directory / "summary.json").read_text())
        found.append((summary["best"], summary["items"], summary["clients"], (directory / "clients.csv").read_text()))
    assert found[0] == found[1]


def test_the_end_says_what_chose(compose, tmp_path, capsys):
    for name, settings in (("held", SMALL), ("plain", [text for text in SMALL if not text.startswith("eval.val")])):
        (tmp_path / name).mkdir()
        experiment = compose(*settings, "console=plain")
        run_experiment(experiment, to_yaml(record_of(experiment)), tmp_path / name)
        lines = capsys.readouterr().out.splitlines()
        best = json.loads((tmp_path / name / "summary.json").read_text())["best"]
        if name == "held":
            assert lines[-3].startswith("validation_accuracy: final ")
            said = (
                f"round {best['round']}, chosen on validation data: test_accuracy {best['test']['test_accuracy']:.4f} ("
            )
            assert lines[-2].startswith(said)
            assert ", unseen_accuracy " in lines[-2]
        else:
            assert lines[-2].endswith(f"in round {best['round']}, chosen on test data: optimistic")


def test_how_clients_spread():
    """Ten bars of 0.1 over scores 0, 0.1, ..., 1; the last bar holds two. Percentiles of 11 equally spaced values."""
    scores = np.append(np.arange(11) / 10, [np.nan, np.inf])
    found = spread(Evaluation(clients={"test_items": scores, "test_accuracy": scores, "x": scores[-2:]}))
    assert list(found) == ["test_accuracy"]
    one = found["test_accuracy"]
    assert [one[name] for name in ("clients", "min", "p10", "p25", "median", "p75", "p90", "max")] == pytest.approx(
        [11, 0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
    )
    assert sum(one["histogram"]["clients"]) == 11
    assert one["histogram"]["edges"] == pytest.approx((np.arange(11) / 10).tolist())


@pytest.mark.parametrize("scores", [[0.5, 0.5], [1e300, 1e300], [1.0, 1.0 + 2**-52], [-1.7e308, 1.7e308]])
def test_scores_that_no_ten_bars_can_hold_apart(scores):
    one = spread(Evaluation(clients={"x": np.array(scores)}))["x"]["histogram"]
    assert one == {"edges": [min(scores), max(scores)], "clients": [2]}
