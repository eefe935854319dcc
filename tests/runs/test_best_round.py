"""The best round so far has a checkpoint, whenever the others are due."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from fedsim.config.compose import record_of, to_yaml
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.runs.checkpoints import checkpoint_path, checkpoint_rounds
from fedsim.runs.resume import resume_run
from fedsim.runs.run import run_experiment
from fedsim.runs.saved_model import read_model

pytestmark = pytest.mark.usefixtures("one_thread")


def best_of(directory):
    """The best round by the rows of ``metrics.csv`` alone, the first of equals; and whether it was evaluated at all."""
    table = pd.read_csv(directory / "metrics.csv")
    return int(table["round"][table["test_accuracy"].idxmax()])


SMALL = (
    *("data=synthetic", "data.clients=6", "data.samples_per_client=5", "data.test_samples_per_client=9"),
    *("data.length=3", "data.features=2", "partition=natural", "model.hidden_size=2", "client.epochs=1"),
    *("client.batch_size=2", "engine.kernels=torch", "device=cpu", "threads=1", "console=none"),
)
LONG = ("rounds=23", "checkpoint.every=9", "client.optimizer.lr=2.0")


@pytest.mark.parametrize("seed", range(4))
def test_the_best_round_is_saved(compose, tmp_path, seed):
    """Though checkpoints are due in rounds 9, 18 and 23 only; and it is the state of that round."""
    experiment = compose(*SMALL, *LONG, f"seed={seed}")
    assert run_experiment(experiment, to_yaml(record_of(experiment)), tmp_path) == "done"
    best = best_of(tmp_path)
    rounds = checkpoint_rounds(tmp_path)
    assert set(rounds) <= {best, 9, 18, 23}
    if best > 0:
        saved = read_model(tmp_path, "best")
        assert saved.state.round == best == saved.state.progress.best_round
        short = prepare(replace(experiment, rounds=best))
        state = initial_state(short)
        *_, last = simulate(short, state)
        assert torch.equal(saved.state.row, state.row)
        assert last.metrics["test_accuracy"] == saved.state.progress.best
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best"]["round"] == best


def test_a_run_goes_on_from_the_best_checkpoint_to_the_byte(compose, tmp_path):
    """All later checkpoints lost: the rounds after the best one are played again."""
    experiment = compose(*SMALL, *LONG, "checkpoint.every=100")
    record = to_yaml(record_of(experiment))
    for name in ("whole", "lost"):
        (tmp_path / name).mkdir()
        assert run_experiment(experiment, record, tmp_path / name) == "done"
    best = best_of(tmp_path / "lost")
    assert 0 < best < 23
    assert checkpoint_rounds(tmp_path / "lost") == [best, 23]
    (tmp_path / "lost" / "summary.json").unlink()
    checkpoint_path(tmp_path / "lost", 23).unlink()
    assert resume_run(tmp_path / "lost") == "done"
    assert (tmp_path / "lost" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_a_diverged_run_keeps_its_best_round(compose, tmp_path, capsys):
    wild = (
        "rounds=9",
        "attack=scale",
        "attack.factor=1e308",
        "dtype=float64",
        "attack.start_round=4",
        "checkpoint.every=100",
    )
    experiment = compose(*SMALL, *wild)
    assert run_experiment(experiment, to_yaml(record_of(experiment)), tmp_path) == "diverged"
    assert "under attack=scale, since round 4" in capsys.readouterr().err
    best = best_of(tmp_path)
    assert checkpoint_rounds(tmp_path) == ([best] if best else [])


def test_a_best_round_without_a_checkpoint_is_said(compose, tmp_path, capsys):
    experiment = compose(*SMALL, *LONG, "checkpoint.every=1")
    assert run_experiment(experiment, to_yaml(record_of(experiment)), tmp_path) == "done"
    best = best_of(tmp_path)
    assert best > 0
    checkpoint_path(tmp_path, best).unlink()
    taken = read_model(tmp_path, "best").state.round
    assert f"the best test_accuracy is that of round {best}, of which there is no checkpoint; taking round {taken}" in (
        " ".join(capsys.readouterr().err.split())
    )
