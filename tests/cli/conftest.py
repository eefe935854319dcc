"""The command line, called in this process as `fedsim` calls it, or in a separate process where that matters."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from fedsim.cli import main as cli

TINY = (
    *("data=synthetic", "data.clients=3", "data.samples_per_client=4", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=natural", "model.hidden_size=2", "client.epochs=1", "rounds=2"),
    *("engine.kernels=torch", "device=cpu", "threads=1", "console=plain"),
)


class Answer(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def tiny():
    """Overrides of a run that takes a tenth of a second."""
    return list(TINY)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


@pytest.fixture
def fedsim(capsys, monkeypatch):
    """Return ``fedsim(*arguments)``, which runs the command in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsim", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        return Answer(exit_info.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def refused(fedsim, elsewhere):
    """Return ``refused(*arguments)``: the one line with which a command is refused before anything is written."""

    def tree():
        return {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")}

    def check(*arguments):
        before = tree()
        answer = fedsim(*arguments)
        assert answer.code == 2, answer
        assert answer.out == ""
        assert answer.err.startswith("error: ")
        assert answer.err.endswith("\n")
        assert answer.err.count("\n") == 1
        assert tree() == before
        return answer.err.removeprefix("error: ").removesuffix("\n")

    return check


@pytest.fixture
def run_directory(fedsim, elsewhere, tiny):
    """Return ``run_directory(*overrides, name=...)``: a finished tiny run."""

    def run(*overrides, name="run", code=0):
        answer = fedsim("run", *tiny, *overrides, f"hydra.run.dir={name}")
        assert answer.code == code, answer
        return elsewhere / name

    return run


@pytest.fixture
def process():
    """Return ``process(*arguments)``, which starts ``python -m fedsim`` and returns the process."""
    started = []

    def start(*arguments, **options):
        command = [sys.executable, "-m", "fedsim", *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        options["env"] = os.environ | {"COLUMNS": "80"} | options.pop("env", {})
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


@pytest.fixture
def write_config(tmp_path):
    """Return ``write_config(name, text)``, which puts a YAML into a config folder and returns the folder."""
    folder = tmp_path / "configs"

    def write(name, text):
        file = folder / Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return folder

    folder.mkdir()
    return write
