"""The table of a sweep: how every job ended (``sweep.csv``), and in which settings the jobs differ."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.config.request import Job
from fedsim.errors import UserError, print_error, printable
from fedsim.json_bounds import read_json
from fedsim.recording.run_directory import Cell, write_csv
from fedsim.runs import sweep_jobs
from fedsim.runs.console import format_value
from fedsim.yaml_bounds import read_bounded, read_yaml

NOT_STARTED, KILLED = "not started", "killed"
FINISHED = ("done", "stopped")


@dataclass(frozen=True)
class Row:
    """How one job ended; unknown values are None.

    `test` is the value on test data in the best round, if that was chosen on validation data.
    """

    number: int
    parameters: Mapping[str, str]
    status: str
    path: Path
    rounds: int | None = None
    metric: str | None = None
    final: float | None = None
    best: float | None = None
    best_round: int | None = None
    test: float | None = None
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
        directory, hydra = file.parents[1], file.parent / "hydra.yaml"
        try:
            overrides = read_yaml(read_bounded(file), str(file))
            number = int(read_yaml(read_bounded(hydra), str(hydra))["hydra"]["job"]["num"])
            if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
                raise TypeError
        except (UserError, LookupError, TypeError, ValueError, OverflowError):
            print_error(f"{file.parent}: is not what Hydra writes for a job; it is left out of the table", "warning")
            continue
        found.append((number, overrides, directory))
    found.sort(key=lambda trial: trial[0])
    # Their experiments are not composed again: of a trial, the table needs the files alone.
    jobs = [Job(tuple(overrides), None, directory) for _, overrides, directory in found]  # type: ignore[arg-type]
    return [read_row(n, own, job) for (n, _, _), own, job in zip(found, differing_overrides(jobs), jobs, strict=True)]


def read_row(number: int, parameters: Mapping[str, str], job: Job) -> Row:
    """Read how a job ended from the files in its directory."""
    status = NOT_STARTED if not sweep_jobs.has_begun(job.directory) else KILLED
    if status == NOT_STARTED and job.directory.exists():
        status = "failed"
    row = Row(number, parameters, status, job.directory)
    try:
        summary = read_json(job.directory / "summary.json")
    except UserError:
        return row
    if not _is_summary(summary):
        return row
    best = summary["best"]
    metric, value = best["metric"], best.get("value")
    row = replace(row, status=summary["status"], rounds=summary.get("rounds"), metric=metric)
    row = replace(row, final=summary["final"].get(metric), best=value, best_round=best.get("round"))
    reported = best.get("test")
    if best.get("on") == "validation" and isinstance(reported, dict):
        test = reported.get(f"test_{metric.partition('_')[2]}")
        row = replace(row, test=test if type(test) is float else None)
    target = None if job.experiment is None else job.experiment.stop.target
    reached = (
        target is not None and value is not None and (value <= target if best["mode"] == "min" else value >= target)
    )
    return replace(row, to_target=best.get("round") if reached else None)


def _is_summary(found: Any) -> bool:
    """Whether this is what a run writes to ``summary.json``, as far as the table needs it."""

    def holds(node: Any, texts: Sequence[str] = (), numbers: Sequence[str] = ()) -> bool:
        return (
            isinstance(node, dict)
            and all(isinstance(node.get(name), str) for name in texts)
            and all(node.get(name) is None or type(node[name]) in (int, float) for name in numbers)
        )

    return (
        holds(found, ("status",), ("rounds",))
        and holds(found.get("best"), ("metric", "mode"), ("value", "round"))
        and holds(found.get("final"), (), (found["best"]["metric"],))
    )


def write_table(file: Path, rows: Sequence[Row]) -> None:
    """Write ``sweep.csv``, whole or not at all."""
    keys = list(rows[0].parameters)
    judged = any(row.test is not None for row in rows)
    header = ("job", *keys, "status", "rounds", "metric", "final", "best", "best_round")
    header += (*(["chosen_test"] if judged else []), "rounds_to_target", "path")
    lines: list[list[Cell]] = [
        [
            *(row.number, *row.parameters.values(), row.status, row.rounds, row.metric, row.final, row.best),
            *(row.best_round, *([row.test] if judged else []), row.to_target, os.path.relpath(row.path, file.parent)),
        ]
        for row in rows
    ]
    write_csv(file, header, lines)


def show(rows: Sequence[Row], folder: Path) -> None:
    """Print the table."""
    metric = next((row.metric for row in rows if row.metric), None)
    targeted = any(row.to_target is not None for row in rows)
    judged = any(row.test is not None for row in rows)
    numbers = ["final", "best", "round", *(["test then"] if judged else []), *(["to target"] if targeted else [])]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    names = ["job", *rows[0].parameters, *numbers, "status", "path"]
    for name in names:
        justify: Any = "right" if name in ("job", *numbers) else "left"
        table.add_column(Text(printable(name)), justify=justify, overflow="fold")
    for row in rows:
        cells = [str(row.number), *row.parameters.values()]
        cells += [format_value(row.final), format_value(row.best), format_value(row.best_round)]
        cells += [format_value(row.test)] if judged else []
        cells += [format_value(row.to_target)] if targeted else []
        shown = [*cells, row.status, os.path.relpath(row.path, folder)]
        table.add_row(*(Text(printable(cell)) for cell in shown))
    console = Console(highlight=False, emoji=False)
    console.print(table)
    by = f", judged by {metric}" if metric else ""
    ended = sum(row.status in FINISHED for row in rows)
    print(f"{ended} of {len(rows)} jobs finished{by}; see {folder / 'sweep.csv'}", file=sys.stdout)
