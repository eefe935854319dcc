"""``fedsim run --dry-run``: what the runs would do, or why they would be refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsim.cli.partition_plot import check as check_picture
from fedsim.cli.window_plot import draw
from fedsim.config.request import Job
from fedsim.files import write_file
from fedsim.runs.console import format_bytes
from fedsim.runs.dry_run import refuse_impossible, show
from fedsim.runs.estimate import duration
from fedsim.runs.saved_model import prepared


def show_plans(jobs: Sequence[Job], plot: Path | None) -> None:
    """Print the plan of every job, and draw a few samples of the data to `plot`.

    Raises:
        UserError: if a job would be refused, be it for its tracker or its memory; or the picture cannot be drawn.
    """
    if plot is not None:
        check_picture(plot)
    found = []
    for job in jobs:
        job.experiment.tracker.check()
        simulation = prepared(job.experiment)
        refuse_impossible(simulation)
        found.append(show(simulation, job.overrides))
        if plot is not None:
            write_file(plot, draw(simulation.population, plot.suffix[1:].lower()))
            print(f"a few samples: {plot}")
    if len(jobs) > 1:
        seconds = [one.seconds for one in found if one.seconds is not None]
        long = (
            f"about {duration(sum(seconds))} one after another" if len(seconds) == len(found) else "of unknown length"
        )
        print(f"{len(jobs)} runs: {long}, about {format_bytes(sum(one.size for one in found))} of disk")
