"""`scripts/personal_methods.py`: every method runs, validation chooses the rate, and what is there is kept."""

import importlib.util
import sys
from pathlib import Path

import pytest

import fedsim

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "personal_methods.py"
ROLES = ("ANNA", "BORIS", "CLARA")
PLAY = "\n\n".join(f"{name}:\na cat sat on a mat and ate it all, the mat." for _ in range(10) for name in ROLES)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch, tmp_path):
    """Return ``study(*arguments)``, which runs the script on a small play, with the module as its attribute."""
    spec = importlib.util.spec_from_file_location("personal_methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "personal_methods", module)
    spec.loader.exec_module(module)
    small = "data=shakespeare", "data.sequence_length=10", "model=lstm", "model.hidden_size=3", "client.batch_size=4"
    monkeypatch.setitem(module.TASKS, "roles", module.TASKS["roles"]._replace(settings=small, rates=(0.01, 1.0)))
    (tmp_path / "play.txt").write_text(PLAY)

    def call(*arguments):
        paths = "--roles", str(tmp_path / "play.txt"), "--out", str(tmp_path / "out"), "--rounds", "1"
        monkeypatch.setattr(sys, "argv", ["personal_methods.py", *paths, *arguments])
        module.main()

    call.module, call.out = module, tmp_path / "out"
    return call


@pytest.mark.slow
def test_every_method(study):
    study("--seeds", "0")
    lines = (study.out / "roles.md").read_text().splitlines()
    assert len(lines) == 2 + len(study.module.METHODS)
    assert "nan" not in "".join(lines)


def test_validation_chooses_and_runs_are_kept(study, monkeypatch, capsys):
    """The rate of the better held-back accuracy, whatever the test accuracy; a second call makes no run."""
    study("--methods", "finetune", "--seeds", "0,1")
    module, task = study.module, study.module.TASKS["roles"]
    places = {rate: study.out / "roles" / "finetune" / f"lr_{rate:g}" / "seed_0" for rate in task.rates}
    best = max(places, key=lambda rate: module.result(places[rate], task).validation)
    rows = (study.out / "roles.csv").read_text().splitlines()
    assert [row.split(",")[:3] for row in rows[1:]] == [["finetune", str(best), seed] for seed in "01"]
    assert {place.name for place in (study.out / "roles" / "finetune" / f"lr_{best:g}").iterdir()} == {
        "seed_0",
        "seed_1",
    }
    monkeypatch.setattr(module.fedsim, "run", None)
    capsys.readouterr()
    study("--methods", "finetune", "--seeds", "0,1")
    assert (study.out / "roles.md").read_text().strip() in capsys.readouterr().out
    one = module.result(places[best], task)
    assert 0 <= one.own <= 1
    assert one.bytes > 0


def test_times(study, capsys):
    study("--times", "--methods", "fedavg,local")
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "FedAvg, one model for all",
        "local training, no exchange",
    ]
    assert not (study.out / "roles").exists()


def test_a_run_that_diverged_is_the_worst(study, tmp_path):
    (tmp_path / "summary.json").write_text('{"status": "diverged"}')
    task = study.module.TASKS["roles"]
    assert study.module.result(tmp_path, task).validation == float("-inf")
    assert study.module.result(tmp_path, task._replace(lower=True)).validation == float("inf")
    assert study.module.result(tmp_path / "nothing", task) is None


def test_unknown_methods_are_refused(study, capsys):
    with pytest.raises(SystemExit, match="2"):
        study("--methods", "fedavg,dito")
    assert "no such method: dito" in capsys.readouterr().err
