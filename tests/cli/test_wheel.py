"""The wheel, installed away from the sources, contains the configs and runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*command, cwd):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(tmp_path):
    source, outside = tmp_path / "source", tmp_path / "outside"
    source.mkdir()
    outside.mkdir()
    for name in ("fedsim", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source, cwd=outside)
    (wheel,) = tmp_path.glob("*.whl")

    venv.create(tmp_path / "venv", symlinks=os.name != "nt")
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=outside)
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=outside).strip())
    # The dependencies of this environment, without its packages that are installed in editable mode.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    found = Path(call(python, "-c", "import fedsim; print(fedsim.__file__)", cwd=outside).strip())
    assert found.is_relative_to(site)
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert files == {p.relative_to(found.parent / "configs") for p in (found.parent / "configs").rglob("*.yaml")}
    assert (found.parent / "py.typed").exists()

    listed = call(scripts / "fedsim", "list", cwd=outside)
    assert "aggregator=fedavg" in listed
    assert "FedAvg: mean of deltas weighted by samples" in listed
    assert "client.optimizer.lr  " in call(scripts / "fedsim", "list", "client=default", cwd=outside)
    doctor = call(scripts / "fedsim", "doctor", cwd=outside)
    assert str(found.parent) in doctor
    assert re.search(r"^(extras .*\bplot\b|  no plot +python -m pip install 'matplotlib>=)", doctor, re.M), doctor
    (command,) = call(scripts / "fedsim", "init", cwd=outside).splitlines()[1:]
    call(scripts / "fedsim", *shlex.split(command)[1:], "rounds=1", "engine.kernels=torch", cwd=outside)
    overrides = ("rounds=2", "data=synthetic", "engine.kernels=torch", "hydra.run.dir=run")
    call(scripts / "fedsim", "run", *overrides, cwd=outside)
    assert (outside / "run" / "metrics.csv").read_text().count("\n") == 4
    assert '"git_hash": null' in (outside / "run" / "summary.json").read_text()
    assert "fedsim" in call(python, "-m", "fedsim", "--version", cwd=outside)
    call(scripts / "fedsim", "report", "run", cwd=outside)  # its template and style are in the wheel
    assert "</html>" in (outside / "report.html").read_text()
