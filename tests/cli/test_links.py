"""A run's directory from a stranger: what looks like its files is not followed to others, and a pipe is not read."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = (".lock", "metrics.csv", "timing.csv", "run.log", "summary.json", "config.yaml", "checkpoints", ".hydra")
COMMANDS = (("resume", "run", "rounds=3"), ("evaluate", "run"), ("export", "run"), ("compare", "run"))


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
        alone = command[0] == "compare" and name == "metrics.csv" and by == "victim"  # a folder is no file of rounds
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
