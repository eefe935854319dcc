"""What a sweep finds in a job's directory, and how it finishes an interrupted job (with `fedsim.runs.resume`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsim import build
from fedsim.errors import UserError, show
from fedsim.federation.experiment import Experiment
from fedsim.recording.lock import holder
from fedsim.runs.record import differences, in_place, is_finished, read_record, read_status
from fedsim.runs.resume import resume_run

FAILED = ("diverged", "failed", "refused")


def has_begun(directory: Path) -> bool:
    """Whether a job has started: its directory has a ``config.yaml``."""
    return (directory / "config.yaml").exists()


def unfinished(directory: Path) -> bool:
    """Whether a job still has to run, because it was interrupted or never started."""
    return not is_finished(directory) and read_status(directory) not in FAILED


def is_pending(experiment: Experiment, directory: Path) -> bool:
    """Whether a job of a resumed sweep has anything left to do: all but those that have ended or diverged.

    Raises:
        UserError: if the directory holds a run of another config (it names the keys), or a run in progress.
    """
    if not has_begun(directory):
        if (directory / "metrics.csv").exists():
            raise UserError(f"{directory}: holds a run without a config.yaml; move it away")
        return True
    changed = differences(read_record(directory), build.record_of(experiment))
    foreign = {key: pair for key, pair in changed.items() if not in_place(key)}
    if foreign:
        keys = ", ".join(f"{key}={_word(new)} (recorded: {_word(old)})" for key, (old, new) in foreign.items())
        raise UserError(f"{directory}: holds a run with another config; asked for is {keys}")
    if (who := holder(directory)) is not None:
        raise UserError(f"{directory}: in use by {who}")
    return not is_finished(directory, changed) and read_status(directory) != "diverged"


def go_on(experiment: Experiment, directory: Path, allow_modules: Sequence[str], silent: bool = False) -> str:
    """Resume an interrupted job in its directory, without output if it is `silent`, and return its status."""
    return resume_run(directory, experiment, allow_modules, silent)


def _word(value: object) -> str:
    return show(value.get("_target_") if isinstance(value, dict) else value)
