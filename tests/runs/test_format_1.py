"""Run directories that fedsim wrote before each part had a drawer of its own are read as if written today.

The runs in `format_1/` come from the version before (checkpoints of format 1, components named by the modules in which
they lay then). Their data are whole numbers, their devices those of a CSV: digests are the same on every machine.
"""

import csv
import dataclasses
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fedsim.cli.main import main
from fedsim.config.compose import record_of, to_yaml
from fedsim.federation.prepare import initial_state, prepare
from fedsim.recording.moved import moved
from fedsim.runs.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from fedsim.runs.resume import read_experiment
from fedsim.runs.run import run_experiment
from fedsim.runs.saved_model import read_model

OLD = Path(__file__).parent / "format_1"
CLOCK = {"system": {"virtual_seconds"}}
DRAWERS = {
    "scaffold": {"correction": {"mean"}, "link": {"copy", "before"}, **CLOCK},
    "ditto": {"server": {"mean", "square"}},
    "fedbuff": {"schedule": {"clients", "finish", "vanishes", "versions", "row.1"}, **CLOCK},
    "privacy": {"privacy": {"clip_norm"}},
    "blocks": {},
}
"""What each of the runs has kept for its parts after round 2, besides the bytes."""
STORES = {
    "scaffold": {"correction.own", "link.seen"},
    "ditto": {"personalize.ditto", "link.error", "optimizer.momentum"},
    "fedbuff": set(),
    "privacy": set(),
    "blocks": {"private", "link.error"},
}
"""What each of them has kept per client."""
FORMER = {"correction.own": "memory", "personalize.ditto": "ditto"}
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def old(tmp_path, monkeypatch):
    """Return ``old(name)``: a copy of a run, in the folder in which its command was typed."""
    monkeypatch.chdir(tmp_path)
    for name in ("play.txt", "devices.csv"):
        shutil.copy(OLD / name, tmp_path)

    def old(name):
        if name == "privacy":
            pytest.importorskip("dp_accounting")
        return Path(shutil.copytree(OLD / name, name))

    return old


@pytest.fixture
def fedsim(monkeypatch, capfd):
    """Return ``fedsim(*arguments)``, which runs a command and returns its exit code and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, "".join(capfd.readouterr())

    return call


def written(directory):
    """The facts and tensors of the checkpoint as they lie in the file."""
    with safe_open(checkpoint_path(directory, 2), framework="pt") as file:
        return json.loads(file.metadata()["fedsim"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same(one, other):
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("name", DRAWERS)
def test_a_checkpoint_is_loaded(old, name):
    """Every number is where its part looks for it, and none is lost."""
    directory = old(name)
    facts, tensors = written(directory)
    assert facts["format_version"] == 1
    state = load_checkpoint(checkpoint_path(directory, 2), CPU)
    assert state.round == 2
    assert same(state.row, tensors.pop("row"))
    assert int(state.drawers["traffic"]["down"]) == facts["bytes_down"] > 0
    assert int(state.drawers["traffic"]["up"]) == facts["bytes_up"] > 0
    assert ("system" in state.drawers) == (facts["virtual_seconds"] > 0)
    if "system" in state.drawers:
        assert float(state.drawers["system"]["virtual_seconds"]) == facts["virtual_seconds"]
    kept = {group: set(drawer) for group, drawer in state.drawers.items()}
    assert kept == {**DRAWERS[name], "traffic": {"down", "up"}}
    for group, drawer in state.drawers.items():
        for key, value in drawer.items():
            if group not in ("traffic", "system"):
                former = {"server": f"server/{key}", "correction": "memory"}.get(group, f"parts/{group}.{key}")
                assert same(value, tensors.pop(former))
    assert set(state.store.blocks) == STORES[name]
    for key, value in state.store.state_dict().items():
        block, _, what = key.partition("/")
        assert same(value, tensors.pop(f"store/{FORMER.get(block, block)}/{what}"))
    assert not tensors


@pytest.mark.parametrize("name", DRAWERS)
def test_what_is_kept_fits_the_parts_of_now(old, name):
    directory = old(name)
    simulation = prepare(read_experiment(directory))
    state, fresh = load_checkpoint(checkpoint_path(directory, 2), CPU), initial_state(simulation)
    assert fresh.drawers.keys() <= state.drawers.keys()
    for part in simulation.parts:
        assert part.accepts(state.drawers.get(part.group, {}), fresh.drawers.get(part.group, {}))


@pytest.mark.parametrize("name", DRAWERS)
def test_it_comes_back_as_one_of_today(old, name):
    directory = old(name)
    before = load_checkpoint(checkpoint_path(directory, 2), CPU)
    save_checkpoint(directory, before)
    assert written(directory)[0]["format_version"] == 3
    after = load_checkpoint(checkpoint_path(directory, 2), CPU)
    assert (after.round, after.progress) == (before.round, before.progress)
    assert same(after.row, before.row)
    assert after.drawers.keys() == before.drawers.keys()
    for group, drawer in before.drawers.items():
        assert after.drawers[group].keys() == drawer.keys()
        assert all(same(value, after.drawers[group][key]) for key, value in drawer.items())
    kept, found = before.store.state_dict(), after.store.state_dict()
    assert kept.keys() == found.keys()
    assert all(same(value, found[key]) for key, value in kept.items())


def rows_of(path):
    with path.open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_private_run_of_before_does_not_go_on(old, fedsim):
    """It has not counted who took part, and its epsilon is another accountant's."""
    code, text = fedsim("resume", str(old("privacy")), "rounds=5")
    assert code == 2
    assert text.startswith("error: metrics.csv would have other columns (participations_max, rejected)")


@pytest.mark.parametrize("name", [name for name in DRAWERS if name != "privacy"])
def test_the_run_goes_on_to_the_bytes_of_one_without_a_break(old, fedsim, name):
    directory = old(name)
    begun = (directory / "metrics.csv").read_bytes()
    whole = Path("whole")
    whole.mkdir()
    experiment = dataclasses.replace(read_experiment(directory), rounds=5)
    assert run_experiment(experiment, to_yaml(record_of(experiment)), whole) == "done"
    code, text = fedsim("resume", str(directory), "rounds=5")
    assert code == 0, text
    assert "refused" not in text
    content, expected = ((folder / "metrics.csv").read_bytes() for folder in (directory, whole))
    assert content.startswith(begun)
    assert len(rows_of(directory / "metrics.csv")) == 6
    if expected.startswith(begun):
        assert content == expected
    else:  # on a machine whose last digits are others than on the one that wrote `format_1/`
        for one, other in zip(rows_of(directory / "metrics.csv"), rows_of(whole / "metrics.csv"), strict=True):
            assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
    assert json.loads((directory / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize("name", [name for name in DRAWERS if name != "privacy"])
def test_an_interrupted_run_of_before_is_resumed_without_a_change(old, fedsim, name):
    """Its record is the one of now, word for word, so that nothing has changed and nothing is left to do."""
    directory = old(name)
    record = to_yaml(record_of(read_experiment(directory)))
    assert "fedsim.clients.local" not in record
    code, text = fedsim("resume", str(directory))
    assert code == 0, text
    assert (directory / "metrics.csv").read_bytes() == (OLD / name / "metrics.csv").read_bytes()


@pytest.mark.parametrize("name", [name for name in DRAWERS if name != "blocks"])
def test_its_model_is_read(old, fedsim, name):
    directory = old(name)
    saved = read_model(directory)
    assert saved.state.round == 2
    saved.check(prepare(read_experiment(directory)).task.arch)
    code, text = fedsim("evaluate", str(directory))
    assert code == 0, text
    accuracy = rows_of(directory / "metrics.csv")[-1]["test_accuracy"]
    assert f"{accuracy:.6g}\n" in text


@pytest.mark.parametrize("target", (OLD / "components.txt").read_text().split())
def test_every_component_that_there_was_is_found(target):
    """All that the configs of that version, and its records, named."""
    module, _, name = moved({"_target_": target})["_target_"].rpartition(".")
    assert dataclasses.is_dataclass(getattr(importlib.import_module(module), name))
    assert name == target.rpartition(".")[2] or target == "fedsim.links.link.Link"  # which is the kind now


def test_components_are_found_at_any_depth():
    record = {"a": [{"_target_": "fedsim.stopping.Stop", "mode": "min"}], "b": {"_target_": "mine.Rule"}, "c": 3}
    found = {"a": [{"_target_": "fedsim.core.stopping.Stop", "mode": "min"}], "b": {"_target_": "mine.Rule"}, "c": 3}
    assert moved(record) == found
