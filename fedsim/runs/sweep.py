"""A sweep from beginning to end: which jobs have to run, running one of them, and the table of their results.

``sweep.yaml``, written at the start, lists the overrides of every job; ``sweep.csv``, written at the end, the results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.config.compose import launcher_of, record_of, to_yaml
from fedsim.config.launch import first_line, launch
from fedsim.config.loader import SafeLoader
from fedsim.config.request import Job, Request
from fedsim.core.stopping import start
from fedsim.errors import UserError, print_error
from fedsim.evaluation.evaluate import default_metric
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation
from fedsim.json_bounds import read_json
from fedsim.recording.lock import locked
from fedsim.recording.run_directory import (
    FORMAT_VERSION,
    Cell,
    refuse_other_sweep,
    write_atomically,
    write_csv,
    write_files,
)
from fedsim.recording.settings import Console as ConsoleSetting
from fedsim.runs import sweep_jobs
from fedsim.runs.console import format_value
from fedsim.runs.dry_run import refuse_impossible
from fedsim.runs.run import run_experiment
from fedsim.runs.saved_model import first_row, prepared
from fedsim.yaml_bounds import read_bounded, read_yaml

NOT_STARTED, KILLED = "not started", "killed"
FINISHED = ("done", "stopped")
MOST_WORKERS = 10_000


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


class JobFailed(Exception):
    """Reports to Optuna that a job has failed or has no value."""


def check(jobs: Sequence[Job]) -> None:
    """Check jobs by preparing them, only one of those that differ in nothing but seed and labels.

    Raises:
        UserError: if data, partition and settings do not go together.
    """
    seen = set()
    for job in jobs:
        key = repr(replace(job.experiment, seed=0, name=None, tags=[]))
        if key not in seen:
            seen.add(key)
            job.experiment.tracker.check()
            simulation = prepared(job.experiment)
            refuse_impossible(simulation)
            first_row(simulation)


def run(request: Request, jobs: Sequence[Job], loader: SafeLoader) -> list[str]:
    """Run the jobs of a sweep, or those that are not finished yet, and write the table.

    Returns:
        the status of every job: that of its run, ``not started`` or ``killed``; and ``failed`` if the launcher did.

    Raises:
        UserError: before anything starts, if the folder holds jobs of another sweep.
        KeyboardInterrupt: after the table has been written.
    """
    settings = launcher_of(jobs[0], loader)
    optuna = settings["names"]["sweeper"] == "optuna"
    folder = jobs[0].folder
    objective = None
    if optuna:
        objective = request.objective or "best"
        check_search(settings["sweeper"])
        check_direction(settings["sweeper"], prepared(jobs[0].experiment))
    pending = [(k, job) for k, job in enumerate(jobs) if optuna or _is_pending(job, request)]
    concurrent = concurrency(settings, len(pending) if not optuna else 0)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if request.resume is None:
            refuse_other_sweep(folder, "hydra.sweep.dir")
        share = share_of_threads(cores(), concurrent, settings["launcher"].get("cpus_per_task"))
        quiet = all(job.experiment.console.mode == "none" for job in jobs)
        task = partial(
            run_job, share=share, silent=concurrent > 1, objective=objective, allow_modules=request.allow_modules
        )
        if not optuna:
            record = {"format_version": FORMAT_VERSION, "jobs": {k: list(job.overrides) for k, job in enumerate(jobs)}}
            write_atomically(
                folder / "sweep.yaml", yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode()
            )
        rows: list[Row] = []
        try:
            whole = _launch(request, task, loader, pending)
        finally:
            rows = [read_row(k, own, job) for k, (job, own) in enumerate(zip(jobs, _own(jobs), strict=True))]
            if optuna:
                rows = _trials(folder)
            if rows and folder.exists():
                write_table(folder / "sweep.csv", rows)
                if not quiet:
                    show(rows, folder)
    return [row.status for row in rows] + ([] if whole else ["failed"])


def _launch(request: Request, task: Any, loader: SafeLoader, pending: Sequence[tuple[int, Job]]) -> bool:
    """Launch jobs; if a worker is killed, resume the jobs it took down one at a time, so that none harms another.

    Returns:
        whether the launcher came to its end, however the jobs ended.
    """
    try:
        launch(request, task, loader=loader, pending=pending)
    except (UserError, KeyboardInterrupt, OSError):
        raise
    except BrokenExecutor as error:
        print_error(f"a worker was killed, by the system if memory was short: {first_line(error)}")
        left = [(k, job) for k, job in pending if sweep_jobs.unfinished(job.directory)]
        begun = [pair for pair in left if sweep_jobs.has_begun(pair[1].directory)] or left[:1]
        for pair in begun:
            try:
                launch(request, task, loader=loader, pending=[pair])
            except BrokenExecutor:
                print_error(f"job {pair[0]} was killed twice; see {pair[1].directory}")
        if rest := [pair for pair in left if pair not in begun]:
            return _launch(request, task, loader, rest)
    except JobFailed as error:
        print_error(f"more trials failed than hydra.sweeper.max_failure_rate allows: {error}")
    except Exception as error:  # raised by the launcher itself
        print_error(f"the sweep ended early: {type(error).__name__}: {first_line(error)}")
        return False
    return True


def run_job(
    experiment: Experiment,
    directory: Path,
    files: Mapping[str, str],
    share: int | None,
    silent: bool,
    objective: str | None,
    allow_modules: tuple[str, ...] = (),
) -> str | float:
    """Run one job, or resume an interrupted one, in the process that the launcher chose.

    Args:
        experiment: the checked settings.
        directory: the job's directory.
        files: Hydra's record of the job, to be written there if it has not begun.
        share: threads for a job whose config does not set them; None leaves the number to torch.
        silent: whether to show one line instead of a table, because other jobs run at the same time.
        objective: ``best`` or ``final``, to return that value of the metric that judges; None returns the status.
        allow_modules: modules other than fedsim whose dataclasses a record may name.

    Raises:
        JobFailed: if `objective` asks for a value and the job has none.
    """
    before = torch.get_num_threads()
    shown = replace(experiment, console=ConsoleSetting("none")) if silent else experiment
    try:
        allotted = os.environ.get("SLURM_CPUS_PER_TASK", "")
        share = int(allotted) if allotted.isdecimal() else share
        if share is not None and experiment.threads is None:
            torch.set_num_threads(max(1, min(share, before)))
        if sweep_jobs.has_begun(directory):
            status = sweep_jobs.go_on(experiment, directory, allow_modules, silent)
        else:
            status = run_experiment(shown, to_yaml(record_of(experiment)), directory, files)
    finally:
        torch.set_num_threads(before)
    if silent and experiment.console.mode != "none":
        print(f"{directory}: {status}", flush=True)
    if objective is None:
        return status
    row = read_row(0, {}, Job((), experiment, directory))
    value = row.best if objective == "best" else row.final
    if status not in FINISHED or value is None:
        if not sweep_jobs.has_begun(directory):
            write_files(directory, files)  # by which the table knows the trial
        raise JobFailed(f"{directory}: {status}")
    return value


def _is_pending(job: Job, request: Request) -> bool:
    """Whether a job has to run; raises `UserError` for one that cannot be resumed in its directory."""
    return True if request.resume is None else sweep_jobs.is_pending(job.experiment, job.directory)


def check_search(sweeper: Mapping[str, Any]) -> None:
    """Raise `UserError` for numbers of trials with which Optuna would never end, or not begin."""
    for name in ("n_trials", "n_jobs"):
        if sweeper[name] < 1:
            raise UserError(f"hydra.sweeper.{name}={sweeper[name]}: must be at least 1")
    if not 0 <= sweeper["max_failure_rate"] <= 1:
        raise UserError(f"hydra.sweeper.max_failure_rate={sweeper['max_failure_rate']}: must be from 0 to 1")


def check_direction(sweeper: Mapping[str, Any], simulation: Simulation) -> None:
    """Raise `UserError` if Optuna would search for the worst value instead of the best."""
    progress = start(simulation.stop, default_metric(simulation.population.task), simulation.columns)
    wanted = "minimize" if progress.mode == "min" else "maximize"
    given = str(getattr(sweeper["direction"], "name", sweeper["direction"]))
    if given != wanted:
        how = "lower" if wanted == "minimize" else "higher"
        raise UserError(
            f"hydra.sweeper.direction={given}: {progress.metric} is better the {how} it is; set "
            f"hydra.sweeper.direction={wanted}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# threads


def cores() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def concurrency(settings: Mapping[str, Any], num_jobs: int) -> int:
    """Return how many jobs run on this machine at the same time."""
    name, launcher, sweeper = settings["names"]["launcher"], settings["launcher"], settings["sweeper"]
    together = num_jobs
    if settings["names"]["sweeper"] == "optuna":
        together = sweeper["n_jobs"]
    elif sweeper.get("max_batch_size"):
        together = min(together, sweeper["max_batch_size"])
    if name == "joblib":
        asked = launcher["n_jobs"]
        if not isinstance(asked, int) or asked == 0 or abs(asked) > MOST_WORKERS:
            raise UserError(
                f"hydra.launcher.n_jobs={asked}: must be a number of jobs up to {MOST_WORKERS}, or -1 for one per core"
            )
        return max(1, min(together, asked if asked > 0 else cores() + 1 + asked))
    return together if name == "submitit_local" else 1


def share_of_threads(available: int, concurrent: int, cpus_per_task: int | None = None) -> int | None:
    """Return the threads for one of `concurrent` jobs; None leaves the number to torch.

    `cpus_per_task`, as set for a scheduler, takes precedence. `run_job` also reads what Slurm really allots to a job.
    """
    if cpus_per_task:
        return int(cpus_per_task)
    return None if concurrent <= 1 else max(1, available // concurrent)


# ---------------------------------------------------------------------------------------------------------------------
# the table


def _own(jobs: Sequence[Job]) -> list[dict[str, str]]:
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


def _trials(folder: Path) -> list[Row]:
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
    jobs = [Job(tuple(overrides), None, directory) for _, overrides, directory in found]  # type: ignore[arg-type]
    return [read_row(n, own, job) for (n, _, _), own, job in zip(found, _own(jobs), jobs, strict=True)]


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
    metric, value = best["metric"], best["value"]
    row = replace(row, status=summary["status"], rounds=summary["rounds"], metric=metric)
    row = replace(row, final=summary["final"].get(metric), best=value, best_round=best["round"])
    target = None if job.experiment is None else job.experiment.stop.target
    reached = (
        target is not None and value is not None and (value <= target if best["mode"] == "min" else value >= target)
    )
    return replace(row, to_target=best["round"] if reached else None)


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
