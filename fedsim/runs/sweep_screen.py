"""What a sweep shows while it runs: one line for every job that ends, and one bar for all of them.

The jobs may run in other processes or on other machines, so that their directories are looked at.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedsim.errors import printable
from fedsim.runs.console import format_value
from fedsim.runs.estimate import duration

EVERY = 0.25
"""Seconds between two looks."""
TOGETHER = 200
"""Jobs that are looked at, the first that have not ended: the others have hardly begun, and each look has a price."""


@dataclass
class Seen:
    """A job that is watched.

    Attributes:
        number: its number in the sweep.
        label: the settings in which it differs from the others.
        directory: its directory, which need not exist yet.
        rounds: its round limit.
        before: the modification time of a summary that an earlier attempt left.
        ended: whether its line has been printed.
        done: rounds that it has completed.
        read: bytes of its ``metrics.csv`` that have been looked at.
        lines: lines in those.
    """

    number: int
    label: str
    directory: Path
    rounds: int
    before: int | None = None
    ended: bool = False
    done: int = 0
    read: int = 0
    lines: int = 0

    def look(self) -> str | None:
        """Count the rounds so far; return the job's line if it has ended since the last look."""
        if self.ended:
            return None
        with suppress(OSError), (self.directory / "metrics.csv").open("rb") as file:
            file.seek(self.read)
            new = file.read()
            self.read += len(new)
            self.lines += new.count(b"\n")
            self.done = max(0, self.lines - 2)  # without the header and the untrained model
        if _modified(self.directory) in (None, self.before):
            return None
        try:
            summary = json.loads((self.directory / "summary.json").read_text(encoding="utf-8"))
            line = _line(summary)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is looked at again
            return None
        self.ended, self.done = True, self.rounds
        return f"job {self.number}  {self.label}{'  ' if self.label else ''}{line}"


def _modified(directory: Path) -> int | None:
    try:
        return (directory / "summary.json").lstat().st_mtime_ns
    except OSError:
        return None


def _line(summary: dict[str, Any]) -> str:
    """How a run ended: its metric, its status and its time."""
    best, cells = summary.get("best") or {}, []
    if metric := best.get("metric"):
        final = summary["final"].get(metric)
        cells.append(f"{metric} {format_value(final)} (best {format_value(best['value'])} in round {best['round']})")
    return "  ".join([*cells, f"{summary['status']} in {duration(summary['seconds'])}"])


@contextmanager
def watching(jobs: Sequence[Seen], shown: bool) -> Iterator[None]:
    """Show the jobs as they end while the context lasts.

    Args:
        jobs: those that are to run.
        shown: whether to show anything at all.
    """
    if not shown or not jobs:
        yield
        return
    for job in jobs:
        job.before = _modified(job.directory)
    console = Console(highlight=False, soft_wrap=True)
    live = console.is_terminal or console.is_jupyter
    progress = Progress(
        TextColumn("jobs {task.fields[ended]}/{task.fields[jobs]}  rounds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not live,
    )
    task = progress.add_task("", total=sum(job.rounds for job in jobs), jobs=len(jobs), ended=0)
    over = threading.Event()

    def look(most: int | None = TOGETHER) -> None:
        waiting = (job for job in jobs if not job.ended)
        for job in islice(waiting, most):
            if (line := job.look()) is not None:
                with suppress(OSError, ValueError):  # a closed output, which ends the runs themselves
                    console.print(printable(line), markup=False, emoji=False)
        ended = sum(job.ended for job in jobs)
        progress.update(task, completed=sum(min(job.done, job.rounds) for job in jobs), ended=ended)

    def watch() -> None:
        while not over.wait(EVERY):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    with progress:
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            look(None)
