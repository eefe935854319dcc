"""A run's directory from a stranger: what looks like its files is not followed to others, and a pipe is not read."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = (".lock", "metrics.csv", "timing.csv", "run.log", "summary.json", "config.yaml", "checkpoints", ".hydra")
COMMANDS = (
    ("resume", "run", "rounds=3"),
    ("evaluate", "run"),
    ("export", "run"),
    ("compare", "run"),
    ("report", "run"),
)


@pytest.fixture
def run(fedsim, tiny):
    assert fedsim("run", *tiny, "hydra.run.dir=run", "checkpoint.every=1").code == 0
    Path("victim").mkdir()
    Path("victim/file").write_text("untouched")
    return Path("run")


def replaced(path, by):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if by == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(Path(by).resolve())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("by", ["victim/file", "victim", "missing", "pipe"])
def test_nothing_is_followed(fedsim, run, command, by):
    for name in NAMES:
        shutil.copytree("run", "kept")
        replaced(run / name, by)
        answer = fedsim(*command)
        assert answer.code in (1, 2), (name, answer)
        alone = (
            command[0] in ("compare", "report") and name == "metrics.csv" and by == "victim"
        )  # a folder is no file of rounds
        what = "no regular file" if by == "pipe" else "a link"
        assert alone or f"run/{name}: is {what}" in answer.err, answer
        assert Path("victim/file").read_text() == "untouched"
        assert not Path("missing").exists()
        shutil.rmtree(run)
        shutil.move("kept", "run")


def test_a_checkpoint_that_is_a_link(fedsim, run):
    (file,) = sorted(run.glob("checkpoints/*"))[-1:]
    shutil.copy(file, "elsewhere")
    replaced(file, "elsewhere")
    assert "is a link; nothing in the directory of a run is followed" in fedsim("resume", "run", "rounds=3").err


@pytest.mark.parametrize("name", [".lock", "run.log", "metrics.csv"])
def test_a_new_run_follows_nothing(fedsim, tiny, name):
    Path("new").mkdir()
    replaced(Path("new") / name, "missing")
    answer = fedsim("run", *tiny, "hydra.run.dir=new")
    assert answer.code == 2
    assert "is a link" in answer.err
    assert not Path("missing").exists()


def test_a_directory_may_be_a_link_and_trackers_keep_theirs(fedsim, run):
    """What the user names is the user's, and so are files that fedsim does not know."""
    Path("shortcut").symlink_to("run")
    (run / "wandb").mkdir()
    (run / "wandb" / "latest-run").symlink_to("missing")
    assert fedsim("resume", "shortcut", "rounds=3").code == 0


def test_a_job_that_is_a_link(fedsim, tiny):
    words = ("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep")
    assert fedsim(*words).code == 0
    shutil.move("sweep/1", "mine")
    before = {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()}
    Path("sweep/1").symlink_to(Path("mine").resolve())
    (Path("mine") / "summary.json").unlink()  # so that it would go on
    before.pop(Path("mine/summary.json"))
    answer = fedsim(*words[:-1], "--resume", "sweep")
    assert answer.code == 2
    assert "sweep/1: is a link" in answer.err
    assert {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", [".lock", "sweep.csv", "multirun.yaml", "sweep.yaml"])
@pytest.mark.parametrize("by", ["victim", "missing", "pipe"])
def test_a_sweep_follows_nothing(fedsim, tiny, name, by):
    words = ("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep")
    assert fedsim(*words).code == 0
    Path("victim").write_text("untouched")
    replaced(Path("sweep") / name, by)
    answer = fedsim(*words[:-1], "--resume", "sweep")
    assert answer.code == 2, answer
    assert Path("victim").read_text() == "untouched"
    assert not Path("missing").exists()


def test_what_is_written_under_a_temporary_name_first(fedsim, run):
    """Small files are renamed into place once they are whole; until then they are not written through a link either."""
    names = [".summary.json.partial", ".config.yaml.partial", ".tracker.json.partial", "checkpoints/.x.partial"]
    names += [f"checkpoints/.{path.name}.partial" for path in run.glob("checkpoints/*")]
    names += [f"checkpoints/.round_{number:06d}.safetensors.partial" for number in range(5)]
    for name in dict.fromkeys(names):
        (run / name).symlink_to(Path("victim/file").resolve())
    assert fedsim("resume", "run", "rounds=4").code in (0, 2)
    assert Path("victim/file").read_text() == "untouched"


@pytest.mark.parametrize("name", ["model.pt2", "model.json", "model.preprocessing.json", ".model.json.partial"])
def test_an_export_follows_no_link(fedsim, run, name):
    (run / "export").mkdir()
    for target in ("victim/file", "missing"):
        (run / "export" / name).symlink_to(Path(target).resolve())
        assert fedsim("export", "run").code in (0, 2)
        assert Path("victim/file").read_text() == "untouched"
        assert not Path("missing").exists()
        shutil.rmtree(run / "export")
        (run / "export").mkdir()
