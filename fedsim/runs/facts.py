"""What a run says about itself in its checkpoints and its summary."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import fedsim
from fedsim.core.origin import digest_of_names
from fedsim.core.state import State
from fedsim.extras import version
from fedsim.federation.prepare import Simulation
from fedsim.parallel.processes import world
from fedsim.runs.digests import data_hash, devices_hash
from fedsim.runs.record import plain_record
from fedsim.runs.saved_model import model_facts


def run_facts(simulation: Simulation, state: State, mark: dict[str, Any], digest: str | None = None) -> dict[str, Any]:
    """Return what a checkpoint says about its run: what a resumed run must find again, or is warned of.

    Args:
        simulation: the run.
        state: the state in the checkpoint.
        mark: what `CsvWriter.mark` says of ``metrics.csv``.
        digest: of the data, from `fedsim.runs.digests.data_hash`, if it is known.
    """
    return {
        "metrics": mark,
        "record": plain_record(simulation.experiment),
        "data_hash": digest or data_hash(simulation.population),
        "devices": devices_hash(simulation),
        "model": model_facts(simulation),
        "prepared": simulation.population.fitted.record(),
        "clients": digest_of_names(simulation.population.client_names),
        "privacy": simulation.privacy.summary(state).get("privacy"),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "processes": world().size,
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of fedsim, Python and the packages that results depend on."""
    packages = ("torch", "numpy", "numba", "hydra-core", "aeon", "pandas")
    ours = {"fedsim": fedsim.__version__, "python": platform.python_version()}
    return ours | {package: found for package in packages if (found := version(package)) is not None}


def git_hash() -> str | None:
    """Return the commit of fedsim's git checkout, or None if it was installed from a wheel."""
    root = Path(fedsim.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None  # git is missing or hangs: leave the commit out of the record
    return found.stdout.strip() if found.returncode == 0 else None
