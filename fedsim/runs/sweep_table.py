"""The table of a sweep: how every job ended (``sweep.csv``), and in which settings the jobs differ."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.config.request import Job
from fedsim.recording.run_directory import Cell, write_csv
from fedsim.runs import sweep_jobs
from fedsim.runs.console import format_value

NOT_STARTED, KILLED = "not started", "killed"
FINISHED = ("done", "stopped")


@dataclass(frozen=True)
class Row:
    """How one job ended; unknown values are None."""

    number: int
    parameters: Mapping[str, str]
    status: str
    path: Path
    rounds: int | None = None
    metric: str | None = None
    final: float | None = None
    best: float | None = None
    best_round: int | None = None
    to_target: int | None = None


def differing_overrides(jobs: Sequence[Job]) -> list[dict[str, str]]:
    """For every job, those of its overrides in which the jobs differ."""
    given: list[dict[str, str]] = []
    for job in jobs:
        own: dict[str, str] = {}
        for key, _, value in (text.partition("=") for text in job.overrides):
            own[key] = f"{own[key]} {value}" if key in own and "{" in value else value
        given.append(own)
    keys = dict.fromkeys(key for overrides in given for key in overrides)
    differing = [key for key in keys if len({overrides.get(key) for overrides in given}) > 1]
    return [{key: overrides.get(key, "") for key in differing} for overrides in given]


def trials(folder: Path) -> list[Row]:
    """The jobs that Optuna made, one for every folder with Hydra's overrides in it."""
    found = []
    for file in folder.glob("**/.hydra/overrides.yaml"):
        directory = file.parents[1]
        overrides = yaml.safe_load(file.read_text(encoding="utf-8"))
        facts = yaml.safe_load((file.parent / "hydra.yaml").read_text(encoding="utf-8"))["hydra"]
        found.append((int(facts["job"]["num"]), overrides, directory))
    found.sort(key=lambda trial: trial[0])
    jobs = [Job(tuple(overrides), None, directory) for _, overrides, directory in found]  # type: ignore[arg-type]
    return [read_row(n, own, job) for (n, _, _), own, job in zip(found, differing_overrides(jobs), jobs, strict=True)]


def read_row(number: int, parameters: Mapping[str, str], job: Job) -> Row:
    """Read how a job ended from the files in its directory."""
    status = NOT_STARTED if not sweep_jobs.has_begun(job.directory) else KILLED
    if status == NOT_STARTED and job.directory.exists():
        status = "failed"
    try:
        summary = json.loads((job.directory / "summary.json").read_text(encoding="utf-8"))
        best = summary["best"]
        metric, value = best["metric"], best["value"]
        row = Row(number, parameters, summary["status"], job.directory, summary["rounds"], metric)
        row = replace(row, final=summary["final"].get(metric), best=value, best_round=best["round"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Row(number, parameters, status, job.directory)
    target = None if job.experiment is None else job.experiment.stop.target
    reached = (
        target is not None and value is not None and (value <= target if best["mode"] == "min" else value >= target)
    )
    return replace(row, to_target=best["round"] if reached else None)


def write_table(file: Path, rows: Sequence[Row]) -> None:
    """Write ``sweep.csv``, whole or not at all."""
    keys = list(rows[0].parameters)
    header = ("job", *keys, "status", "rounds", "metric", "final", "best", "best_round", "rounds_to_target", "path")
    lines: list[list[Cell]] = [
        [
            *(row.number, *row.parameters.values(), row.status, row.rounds, row.metric, row.final, row.best),
            *(row.best_round, row.to_target, os.path.relpath(row.path, file.parent)),
        ]
        for row in rows
    ]
    write_csv(file, header, lines)


def show(rows: Sequence[Row], folder: Path) -> None:
    """Print the table."""
    metric = next((row.metric for row in rows if row.metric), None)
    targeted = any(row.to_target is not None for row in rows)
    numbers = ["final", "best", "round", *(["to target"] if targeted else [])]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    names = ["job", *rows[0].parameters, *numbers, "status", "path"]
    for name in names:
        justify: Any = "right" if name in ("job", *numbers) else "left"
        table.add_column(Text(name), justify=justify, overflow="fold")
    for row in rows:
        cells = [str(row.number), *row.parameters.values()]
        cells += [format_value(row.final), format_value(row.best), format_value(row.best_round)]
        cells += [format_value(row.to_target)] if targeted else []
        table.add_row(*map(Text, [*cells, row.status, os.path.relpath(row.path, folder)]))
    console = Console(highlight=False, emoji=False)
    console.print(table)
    judged = f", judged by {metric}" if metric else ""
    ended = sum(row.status in FINISHED for row in rows)
    print(f"{ended} of {len(rows)} jobs finished{judged}; see {folder / 'sweep.csv'}", file=sys.stdout)
