"""A run taken up again where its last good checkpoint left it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsim.experiment import Experiment


def resume_run(directory: Path, experiment: Experiment | None = None, allow_modules: Sequence[str] = ()) -> str:
    """Continue the run in a directory, in place, and return its status as `fedsim.runner.run_experiment` does.

    Args:
        directory: of a run (see `fedsim.recording.record.run_state`).
        experiment: what it should become; may differ from its record in `fedsim.recording.record.IN_PLACE` only.
            None: as recorded.
        allow_modules: modules besides fedsim whose dataclasses the record may name.
    """
    raise NotImplementedError


def fork_run(directory: Path, experiment: Experiment, target: Path, allow_modules: Sequence[str] = ()) -> str:
    """Continue the run in a directory with other settings, in a new directory; the old one stays as it is."""
    raise NotImplementedError
