"""Trackers on the command line, and each extra installed as users do it."""

import os
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT = {
    "tensorboard": "tensorboard/events.out.tfevents.*",
    "mlflow": "tracker.json",
    "wandb": "wandb/offline-run-*/*.wandb",
}


@pytest.mark.parametrize("tracker", LEFT)
def test_without_its_library_nothing_is_written(refused, tiny, monkeypatch, tracker):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused("run", *tiny, f"tracker={tracker}")
    assert line.startswith(f"tracker={tracker}: needs {tracker}")
    assert line.endswith(f"(the extra '{tracker}')")
    assert refused("run", "-m", *tiny, f"tracker=none,{tracker}") == line


def test_a_dry_run_refuses_a_tracker_as_the_run_would(refused, tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused("run", *tiny, "tracker=wandb", "--dry-run") == refused("run", *tiny, "tracker=wandb")


def test_resume_says_what_is_missing_and_leaves_the_run(fedsim, run_directory, monkeypatch):
    folder = run_directory()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = fedsim("resume", folder, "rounds=3", "tracker=mlflow")
    assert answer.code == 2
    assert "tracker=mlflow: needs mlflow" in answer.err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}
    assert after == {path: content for path, content in before.items() if path.name != "run.log"}


def test_mistakes(refused, tiny):
    assert "tracker=wandbb: no such option (did you mean 'wandb'?)" in refused("run", *tiny, "tracker=wandbb")
    line = refused("run", *tiny, "tracker=mlflow", "tracker.tracking_uri=mlruns")
    assert line == "tracker.tracking_uri=mlruns: must be sqlite:///FILE or http(s)://HOST"
    assert "tracker.mode=on: must be one of" in refused("run", *tiny, "tracker=wandb", "tracker.mode=on")


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("extra", LEFT)
def test_an_extra_in_a_clean_environment(tmp_path, tiny, extra):
    """With the extra installed as users do it, a run is tracked silently, resumes, and has the same CSV as without."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}

    def call(*command):
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 1800}
        done = subprocess.run([*map(str, command)], check=False, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    call(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{ROOT}[{extra}]")
    quiet = [*tiny, "console=none"]
    call(python, "-m", "fedsim", "run", *quiet, "rounds=4", "hydra.run.dir=plain")
    done = call(python, "-m", "fedsim", "run", *quiet, f"tracker={extra}", "hydra.run.dir=tracked")
    assert done.stdout + done.stderr == ""
    done = call(python, "-m", "fedsim", "resume", "tracked", "rounds=4")
    assert done.stdout + done.stderr == ""
    assert (tmp_path / "tracked" / "metrics.csv").read_bytes() == (tmp_path / "plain" / "metrics.csv").read_bytes()
    assert list((tmp_path / "tracked").glob(LEFT[extra]))
