"""A sweep from beginning to end: which jobs have to run, running one of them, and the table of their results.

``sweep.yaml``, written at the start, lists the overrides of every job; ``sweep.csv``, written at the end, the results.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from fedsim.config.compose import launcher_of, record_of, to_yaml
from fedsim.config.launch import first_line, launch
from fedsim.config.loader import SafeLoader
from fedsim.config.request import Job, Request
from fedsim.core.stopping import start
from fedsim.errors import UserError, print_error, printable
from fedsim.evaluation.evaluate import default_metric
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation
from fedsim.machine import allowed_cores
from fedsim.recording.lock import locked
from fedsim.recording.run_directory import (
    FORMAT_VERSION,
    refuse_links,
    refuse_other_sweep,
    write_atomically,
    write_files,
)
from fedsim.recording.settings import Console as ConsoleSetting
from fedsim.runs import side_by_side, sweep_jobs
from fedsim.runs.dry_run import refuse_impossible
from fedsim.runs.run import run_experiment
from fedsim.runs.saved_model import first_row, prepared
from fedsim.runs.sweep_screen import Seen, watching
from fedsim.runs.sweep_table import FINISHED, Row, differing_overrides, read_row, show, trials, write_table

MOST_WORKERS = 10_000


class JobFailed(Exception):
    """Reports to Optuna that a job has failed or has no value."""


def check(jobs: Sequence[Job]) -> list[str]:
    """Check jobs by preparing them, only one of those that differ in nothing but seed and labels.

    Returns:
        what there is to say about their data and settings, each line once.

    Raises:
        UserError: if data, partition and settings do not go together.
    """
    seen: set[str] = set()
    notes: dict[str, None] = {}
    for job in jobs:
        key = repr(replace(job.experiment, seed=0, name=None, tags=[]))
        if key not in seen:
            seen.add(key)
            job.experiment.tracker.check()
            simulation = prepared(job.experiment)
            refuse_impossible(simulation)
            first_row(simulation)
            notes |= dict.fromkeys(f"data: {note}" for note in simulation.population.notes)
            notes |= dict.fromkeys(f"note: {line}" for line in simulation.advice)
    return list(notes)


def run(request: Request, jobs: Sequence[Job], loader: SafeLoader, notes: Sequence[str] = ()) -> list[str]:
    """Run the jobs of a sweep, or those that are not finished yet, and write the table.

    Args:
        request: what was asked for, normalised.
        jobs: all jobs, checked.
        loader: the one that they were checked with.
        notes: lines about their data, which are shown where the jobs do not show them themselves.

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
    concurrent, workers = concurrency(settings, len(jobs) if not optuna else 0), None
    if not optuna and settings["names"]["launcher"] == "basic":
        concurrent = side_by_side.at_once(jobs, settings["sweeper"].get("max_batch_size"), request.allow_modules)
        workers = side_by_side.workers_for(pending, concurrent)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with locked(folder):
        if request.resume is None:
            refuse_other_sweep(folder, "hydra.sweep.dir")
        share = share_of_threads(side_by_side.usable_cores(), concurrent, settings["launcher"].get("cpus_per_task"))
        modes = {job.experiment.console.mode for job in jobs}
        together = concurrent > 1 or modes == {"auto"}  # one line per job, instead of one per round
        task = partial(run_job, share=share, silent=together, objective=objective, allow_modules=request.allow_modules)
        if not optuna:
            record = {"format_version": FORMAT_VERSION, "jobs": {k: list(job.overrides) for k, job in enumerate(jobs)}}
            write_atomically(
                folder / "sweep.yaml", yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode()
            )
        rows: list[Row] = []
        labels = [" ".join(f"{key}={value}" for key, value in own.items()) for own in differing_overrides(jobs)]
        seen = [Seen(k, labels[k], job.directory, job.experiment.rounds) for k, job in pending if not optuna]
        if together and modes != {"none"}:
            for line in (*notes, f"{len(pending)} of {len(jobs)} jobs to run; writing to {folder}"):
                print(printable(line), flush=True)
        try:
            with watching(seen, together and modes != {"none"}):
                whole = _launch(request, task, loader, pending, workers)
        except KeyboardInterrupt as error:
            error.__notes__ = [] if optuna else [_way_on(request, folder)]
            raise
        finally:
            differing = differing_overrides(jobs)
            rows = [read_row(k, own, job) for k, (job, own) in enumerate(zip(jobs, differing, strict=True))]
            if optuna:
                rows = trials(folder)
            if rows and folder.exists():
                write_table(folder / "sweep.csv", rows)
                show(rows, folder)
    return [row.status for row in rows] + ([] if whole else ["failed"])


def _way_on(request: Request, folder: Path) -> str:
    """The command that finishes a sweep, for an error message."""
    typed = [text for text in request.overrides if not text.startswith("hydra.sweep.dir=")]
    options = [*(["--config-dir", request.config_dir] if request.config_dir else [])]
    options += [word for module in request.allow_modules for word in ("--allow-module", module)]
    return f"to go on: {shlex.join(['fedsim', 'run', '-m', *typed, *options, '--resume', str(folder)])}"


def _launch(
    request: Request, task: Any, loader: SafeLoader, pending: Sequence[tuple[int, Job]], workers: int | None
) -> bool:
    """Launch jobs; if a worker is killed, resume the jobs it took down one at a time, so that none harms another.

    Returns:
        whether the launcher came to its end, however the jobs ended.
    """
    try:
        launch(request, task, loader=loader, pending=pending, workers=workers)
    except (UserError, KeyboardInterrupt, OSError):
        raise
    except BrokenExecutor as error:
        print_error(f"a worker was killed, by the system if memory was short: {first_line(error)}")
        left = [(k, job) for k, job in pending if sweep_jobs.unfinished(job.directory)]
        begun = [pair for pair in left if sweep_jobs.has_begun(pair[1].directory)] or left[:1]
        for pair in begun:
            try:
                launch(request, task, loader=loader, pending=[pair], workers=workers and 1)
            except BrokenExecutor:
                print_error(f"job {pair[0]} was killed twice; see {pair[1].directory}")
        if rest := [pair for pair in left if pair not in begun]:
            return _launch(request, task, loader, rest, workers)
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
        silent: whether to show no rounds, because the sweep shows one line per job.
        objective: ``best`` or ``final``, to return that value of the metric that judges; None returns the status.
        allow_modules: modules other than fedsim whose dataclasses a record may name.

    Raises:
        JobFailed: if `objective` asks for a value and the job has none.
    """
    before = torch.get_num_threads()
    shown = replace(experiment, console=ConsoleSetting("none")) if silent else experiment
    try:
        allotted = os.environ.get("SLURM_CPUS_PER_TASK", "")
        if allotted.isdecimal():
            share = min(int(allotted), share or int(allotted))
        if share is not None and experiment.threads is None:
            torch.set_num_threads(max(1, min(share, before)))
        if sweep_jobs.has_begun(directory):
            status = sweep_jobs.go_on(experiment, directory, allow_modules, silent)
        else:
            status = run_experiment(shown, to_yaml(record_of(experiment)), directory, files)
    finally:
        torch.set_num_threads(before)
    if objective is None:
        return status
    if silent and experiment.console.mode != "none":
        print(f"{directory}: {status}", flush=True)
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
    progress = start(simulation.stop, default_metric(simulation.population), simulation.columns)
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
        return max(1, min(together, asked if asked > 0 else len(allowed_cores()) + 1 + asked))
    return together if name == "submitit_local" else 1


def share_of_threads(available: int, concurrent: int, cpus_per_task: int | None = None) -> int | None:
    """Return the threads for one of `concurrent` jobs; None leaves the number to torch.

    `cpus_per_task`, as set for a scheduler, takes precedence. A job never takes more than Slurm really allots to it.
    """
    if cpus_per_task:
        return int(cpus_per_task)
    return None if concurrent <= 1 else max(1, available // concurrent)
