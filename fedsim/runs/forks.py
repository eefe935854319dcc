"""The directory of a fork: whole, or recognisable as half made, so that the same command makes it again.

Nothing is written into the directory of the run that is forked, and no lock is taken there: it may be a read-only
archive, or still be running, since the rows before a checkpoint and the checkpoint itself do not change any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsim import seeding
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation
from fedsim.privacy.privacy import Clipped
from fedsim.recording.run_directory import CsvWriter, refuse_used, write_atomically, write_json
from fedsim.runs.checkpoints import checkpoint_rounds, save_checkpoint
from fedsim.runs.facts import run_facts
from fedsim.runs.record import HALF, half_of, in_place
from fedsim.runs.run import Start

KEPT = ("versions", "threads", "processes")
"""Facts about how the rounds before the fork were run; all others follow from the fork's settings."""


def free_directory(directory: Path) -> Path:
    """Return the default directory of a fork: ``RUN-fork-1`` next to the run, or the first free number after it."""
    base = directory.resolve()
    number = 1
    while (target := base.with_name(f"{base.name}-fork-{number}")).exists() and half_of(target) is None:
        number += 1
    return target


def last_round(directory: Path) -> int:
    """Return the round of the last checkpoint of a run; 0 if it has none."""
    return max(checkpoint_rounds(directory), default=0)


def with_own_noise(experiment: Experiment, changed: Mapping[str, Any], after_round: int) -> Experiment:
    """Return the settings of a fork, in which a private mechanism has noise of its own.

    With the noise of the run that it was forked from, or of another fork, the difference of the two would be without
    any. A fork in which nothing that matters changed goes on as the run does, and keeps its noise.

    Args:
        experiment: the settings that are wanted.
        changed: the dotted keys in which they differ from those of the run.
        after_round: where the fork begins.
    """
    key, privacy = "privacy.noise_stream", experiment.privacy
    matter = {name: values for name, values in changed.items() if not in_place(name)}
    if not isinstance(privacy, Clipped) or key in changed or not matter:
        return experiment
    purpose = f"fork {json.dumps(matter, default=str, sort_keys=True)}"
    stream = seeding.stream_key(privacy.noise_stream, purpose, after_round) % (1 << 31)
    return replace(experiment, privacy=replace(privacy, noise_stream=stream or 1))


def refuse_target(target: Path) -> None:
    """Raise `UserError` if a fork cannot be made in `target`; half a fork may be made again."""
    if half_of(target) is None:
        refuse_used(target, "hydra.run.dir")


def make_fork(
    source: Path, target: Path, simulation: Simulation, start: Start, content: bytes, facts: Mapping[str, Any]
) -> Start:
    """Write the rows so far and the checkpoint into the directory of a fork, which this process holds.

    The caller writes ``config.yaml``, which makes it a run, and lets `finish_fork` remove the mark of half a fork.

    Args:
        source: the directory of the run that is forked.
        target: the directory of the fork.
        simulation: the fork's.
        start: where the fork starts.
        content: the rows of ``metrics.csv`` up to the checkpoint.
        facts: those of the checkpoint.

    Returns:
        the start, whose last row is in ``metrics.csv`` as the fork's settings have it.
    """
    for pattern in (
        "metrics.csv",
        "timing.csv",
        "resumed.json",
        ".*.partial",
        "checkpoints/*",
        "checkpoints/.*.partial",
    ):
        for path in target.glob(pattern):  # of an earlier attempt
            path.unlink()
    write_json(target / HALF, {"fork_of": str(source.resolve())})
    metrics = target / "metrics.csv"
    write_atomically(metrics, content[: start.size])
    rows = CsvWriter(metrics, [column.name for column in simulation.columns], start.size)
    try:
        if start.again is not None:
            rows.write(start.again)
        rows.sync()
        mark = rows.mark()
    finally:
        rows.close()
    if start.timing_size is not None:
        with (source / "timing.csv").open("rb") as file:
            write_atomically(target / "timing.csv", file.read(start.timing_size))
    kept = {name: facts[name] for name in KEPT if name in facts}
    save_checkpoint(target, start.state, run_facts(simulation, start.state, mark) | kept)
    again = [] if start.again is None else [start.again]
    return replace(start, rows=[*start.rows, *again], again=None, size=mark["size"])


def finish_fork(target: Path) -> None:
    """Remove the mark of half a fork."""
    (target / HALF).unlink(missing_ok=True)
