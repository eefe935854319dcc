"""How a sweep looks at a job's directory and takes the job up again: the one place that knows how runs resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedsim import build, config, runner
from fedsim.errors import UserError, show
from fedsim.experiment import Experiment

IN_PLACE = ("rounds", "stop", "console", "checkpoint", "threads", "format_version")
"""Keys that may change on the way: none of them changes the rounds that are done."""
ENDED = ("done", "stopped", "diverged")


def has_begun(directory: Path) -> bool:
    """Whether a run has recorded what it is."""
    return (directory / "config.yaml").exists()


def unfinished(directory: Path) -> bool:
    """Whether a run is still to be made or to be finished."""
    return status_of(directory) not in (*ENDED, "failed", "refused")


def status_of(directory: Path) -> str | None:
    """The status that ``summary.json`` names; None without one, as of a run that was killed."""
    try:
        content = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        return str(content["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_pending(experiment: Experiment, directory: Path) -> bool:
    """Whether a job of a sweep that is taken up again has something left to do.

    Raises:
        UserError: if the directory holds a run of another config; names the keys.
    """
    if not has_begun(directory):
        if (directory / "metrics.csv").exists():
            raise UserError(f"{directory}: holds a run without a config.yaml; move it away")
        return True
    try:
        recorded = config.from_yaml((directory / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{directory / 'config.yaml'}: cannot be read ({' '.join(str(error).split())})") from None
    changed = differences(recorded, build.record_of(experiment))
    foreign = {key: pair for key, pair in changed.items() if key.split(".")[0] not in IN_PLACE}
    if foreign:
        keys = ", ".join(f"{key}={show(new)} (recorded: {show(old)})" for key, (old, new) in foreign.items())
        raise UserError(f"{directory}: holds a run with another config; asked for is {keys}")
    more = any(key.split(".")[0] in ("rounds", "stop") for key in changed)
    status = status_of(directory)
    return status not in ENDED or (more and status != "diverged")


def go_on(shown: Experiment, experiment: Experiment, directory: Path, allow_modules: Sequence[str]) -> str:
    """Finish a run that was interrupted, in its directory; returns its status.

    Until runs can go on from a checkpoint, it starts again at round 0 and comes to the same numbers.
    """
    for name in ("metrics.csv", "timing.csv", "clients.csv", "summary.json", "config.yaml"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return runner.run_experiment(shown, config.to_yaml(config.record_of(experiment)), directory)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two records differ, with both values; a part of another class is one difference."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping) and one.get("_target_") == other.get("_target_"):
            found |= differences(one, other, f"{prefix}{key}.")
        elif one != other:
            both = [value.get("_target_") if isinstance(value, Mapping) else value for value in (one, other)]
            found[f"{prefix}{key}"] = (both[0], both[1])
    return found
