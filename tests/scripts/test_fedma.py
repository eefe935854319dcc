"""`scripts/fedma.py`: a net whose units changed places computes the same, and is matched with what it was."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import fedsim
from fedsim.federation.prepare import initial_state, prepare

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "fedma.py"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch):
    spec = importlib.util.spec_from_file_location("fedma", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fedma", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_units_change_places(study, tiny, cell, layers):
    """The outputs stay as they were, and the mean of three nets that are the same but for that is any of them."""
    sim = prepare(tiny(f"model={cell}", f"model.num_layers={layers}", "model.hidden_size=5", "dtype=float64"))
    arch, row = sim.task.arch, initial_state(sim).row.double()
    draw = torch.Generator().manual_seed(1)
    places = [[torch.randperm(5, generator=draw) for _ in range(layers)] for _ in range(2)]
    rows = torch.stack([row, *(study.reordered(arch, row, orders) for orders in places)])
    for other in rows[1:]:
        assert not torch.equal(other, row)
        scores = [sim.trainer.score_samples(x, sim.population.test).loss for x in (row, other)]
        torch.testing.assert_close(*scores, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mean, changed = study.matched(arch, rows, weights)
    torch.testing.assert_close(mean, row, rtol=1e-12, atol=1e-12)
    moved = sum(float((order != torch.arange(5)).double().mean()) for orders in places for order in orders)
    assert changed == pytest.approx(moved / (3 * layers))
    assert not torch.allclose(weights @ rows, row)


def test_both_tables(study, monkeypatch, capsys):
    settings = ("data=synthetic", "data.samples_per_client=3", "num_clients=2", "partition=iid", "model.hidden_size=3")
    monkeypatch.setattr(sys, "argv", ["fedma.py", *settings, "--epochs", "1", "--rounds", "1", "--seeds", "1"])
    study.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == [
        *("1 local epochs from", "one model", "a model each"),
        *("1 rounds", "FedAvg", "matched"),
    ]
