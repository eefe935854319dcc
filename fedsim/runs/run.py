"""One run from beginning to end: simulate, record, and report how it ended."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fedsim.core.results import Evaluation, Metrics, RoundResult
from fedsim.core.state import State
from fedsim.core.stopping import Progress
from fedsim.errors import Diverged, ProcessLost, RecordingFailed, UserError, printable
from fedsim.evaluation.evaluate import count_items, evaluated_samples
from fedsim.evaluation.to_beat import describe_scores, error_unit, rival
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation
from fedsim.interrupts import Interrupted, after_the_round
from fedsim.parallel.processes import world
from fedsim.recording.lock import locked
from fedsim.recording.run_directory import (
    FORMAT_VERSION,
    CsvWriter,
    refuse_used,
    write_atomically,
    write_csv,
    write_files,
    write_json,
)
from fedsim.recording.run_log import logging_to
from fedsim.runs.checkpoints import encode_state, prune_checkpoints, save_checkpoint, write_checkpoint
from fedsim.runs.chosen import chosen
from fedsim.runs.clients_table import clients_table, spread
from fedsim.runs.console import display, format_value
from fedsim.runs.digests import data_hash
from fedsim.runs.facts import git_hash, run_facts, versions
from fedsim.runs.failures import complain, guarded, in_words, recording_failed
from fedsim.runs.processes import in_step, lead
from fedsim.runs.saved_model import first_state, prepared
from fedsim.runs.screen import Screen
from fedsim.runs.tracking import Follower

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # messages for users are printed as well

REPORTED = ("test_", "unseen_", "personal_")
"""How the names of columns begin that are reported on, and not to be chosen by."""
TIMING_COLUMNS = ("round", "train", "evaluate", "elapsed")
DIVERGED_HINT = "try a smaller client.optimizer.lr, client.clip_norm=1, or a smaller server learning rate"


@dataclass(frozen=True)
class Start:
    """The point at which a run begins, or resumes.

    Attributes:
        state: the state after the last completed round; round 0 for a new run.
        rows: the rows of ``metrics.csv`` so far.
        size: bytes of ``metrics.csv`` that hold these rows; None if there is no file yet.
        timing_size: bytes of ``timing.csv`` that hold the rounds so far; None if there is no file yet.
        again: the row of the last completed round, if it changes and must be written anew; it is not in `rows` then.
        evaluation: the evaluation of the state, if its round ends with one.
        seconds: wall-clock seconds of the rounds so far.
        points: the points at which the run was resumed so far, for ``summary.json``.
    """

    state: State
    rows: list[Metrics] = field(default_factory=list)
    size: int | None = None
    timing_size: int | None = None
    again: Metrics | None = None
    evaluation: Evaluation | None = None
    seconds: float = 0.0
    points: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Recorder:
    """Writes the results of rounds to the run's files; all that it keeps is in these files, too."""

    directory: Path
    simulation: Simulation
    start: Start
    last: Metrics = field(default_factory=dict)
    final: Metrics = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        start, self.started = self.start, self.started - self.start.seconds
        columns = [column.name for column in self.simulation.columns]
        self.evaluation, self._saved = start.evaluation, -1
        self._best: tuple[int, bytes] | None = None  # the checkpoint of the best round, until one is written
        self.best: Metrics = {}  # the row of the best round
        self._metrics = CsvWriter(self.directory / "metrics.csv", columns, start.size)
        try:
            self._timing = CsvWriter(self.directory / "timing.csv", TIMING_COLUMNS, start.timing_size)
            for row in start.rows:
                self._take(row, start.state.progress)
            if start.again is not None:
                self._metrics.write(start.again)
                self._take(start.again, start.state.progress)
                self.save(start.state)
        except OSError:
            self._metrics.close()
            raise

    def _take(self, row: Metrics, progress: Progress) -> None:
        self.last = row
        if row["test_loss"] is not None:
            self.final = row
        if (judged := row[progress.metric]) is not None:
            self.scores[int(row["round"] or 0)] = float(judged)
        if row["round"] == progress.best_round:
            self.best = row

    def record(self, result: RoundResult, state: State) -> None:
        """Write the result of a round, and a checkpoint if one is due."""
        self._metrics.write(result.metrics)
        round_number, every = state.round, self.simulation.experiment.checkpoint.every
        self._timing.write({"round": round_number, **result.seconds, "elapsed": time.perf_counter() - self.started})
        if result.evaluation is not None:
            self.evaluation = result.evaluation
        self._take(result.metrics, state.progress)
        if every is not None and (self.simulation.is_over(state) or round_number % every == 0):
            self.save(state)
        elif every is not None and state.progress.best_round == round_number:
            self._best = round_number, encode_state(state, self._facts(state))

    def save(self, state: State) -> None:
        """Write a checkpoint of the state after the last row, unless it exists or checkpoints are switched off."""
        if self.simulation.experiment.checkpoint.every is None or state.round in (0, self._saved):
            return
        if state.progress.best_round == state.round:
            self._best = None
        self.save_best()
        self._metrics.sync()
        self._metrics.check()
        save_checkpoint(self.directory, state, self._facts(state))
        self._saved = state.round
        prune_checkpoints(self.directory, self.scores, state.progress.mode == "min")

    def save_best(self) -> None:
        """Write the checkpoint of the best round so far, if it has appeared since the last checkpoint.

        Until then it is kept in memory: there may be many new best rounds, and a killed run plays them again.
        """
        if self._best is not None:
            self._metrics.sync()
            write_checkpoint(self.directory, *self._best)
            self._best = None

    def _facts(self, state: State) -> dict[str, Any]:
        return run_facts(self.simulation, state, self._metrics.mark(), self.data_hash)

    @cached_property
    def data_hash(self) -> str:
        """The digest of the data, from `fedsim.runs.digests.data_hash`."""
        return data_hash(self.simulation.population)

    def check(self) -> None:
        """Raise `RecordingFailed` if ``metrics.csv`` does not hold what was written to it."""
        self._metrics.check(whole=True)

    def mark(self) -> dict[str, Any]:
        """Size and digest of ``metrics.csv``."""
        return self._metrics.mark()

    def close(self) -> None:
        """Close the CSV files."""
        self._metrics.close()
        self._timing.close()

    def write_clients(self) -> None:
        """Write each client's scores at the last evaluation to ``clients.csv``."""
        if self.evaluation is None:
            return
        write_csv(self.directory / "clients.csv", *clients_table(self.simulation.population, self.evaluation))


def run_experiment(
    experiment: Experiment, config_yaml: str, directory: Path, files: Mapping[str, str] | None = None
) -> str:
    """Run an experiment in its directory and return its status.

    Nothing is written before the directory is locked and known to be free of another run's files.

    Args:
        experiment: the checked settings.
        config_yaml: their record, written as ``config.yaml``.
        directory: an existing directory (Hydra makes it) that holds no run.
        files: further files to begin with, such as Hydra's own record: path within the directory to content.

    Returns:
        ``done``, ``stopped`` (early), ``diverged``, ``refused`` (a user error found late) or ``failed``. Exceptions are
        not passed on, because they would end the other jobs of a sweep.

    Raises:
        KeyboardInterrupt: after recording that the run was interrupted.
    """

    def run() -> str:
        experiment.tracker.check()
        simulation = prepared(experiment, world())
        write_atomically(directory / "config.yaml", config_yaml.encode())
        write_files(directory, files or {})
        return record_run(simulation, directory, Start(first_state(simulation)))

    def held() -> str:
        with locked(directory):
            refuse_used(directory, "hydra.run.dir")
            with logging_to(directory):
                return guarded(experiment, run)

    return guarded(None, held)


def record_run(simulation: Simulation, directory: Path, start: Start) -> str:
    """Run from `start` to the end, in a directory that this process holds, and return the status.

    Raises:
        Interrupted: if a signal ended the run; it has been recorded by then.
        OSError: if a file cannot be written.
    """
    experiment, state = simulation.experiment, start.state
    recorder = Recorder(directory, simulation, start)
    for note in simulation.population.notes:
        log.warning("data: %s", printable(note))
    # Before the display, because a tracker's library may ask the user something. A signal still ends the run at once.
    follower = Follower(experiment, directory, start.rows, start.again)
    simulation = lead(simulation, state, directory)
    status, reason = "failed", "an unexpected error; see the traceback"
    progress = state.progress
    columns = [column.name for column in simulation.columns]
    shown = display(experiment.console.mode, columns, experiment.rounds, metric=progress.metric, better=progress.mode)
    with Screen(shown) as screen, after_the_round(screen.say) as asked:
        screen.lost = asked.numbers.append
        try:
            for line in _introduction(simulation, directory):
                screen.say(line)
            for result in in_step(simulation, state, asked):
                recorder.record(result, state)
                follower.log(result.metrics)
                screen.show(result.metrics, result.samples, result.seconds.get("train", 0.0))
            recorder.check()
            if not simulation.is_over(state):
                recorder.save(state)
                screen.say(f"ended after round {state.round}")
                asked.end()
            status, reason = ("stopped", state.progress.reason) if state.progress.reason else ("done", "round limit")
        except Diverged as error:
            status, reason = "diverged", f"{error}; {DIVERGED_HINT}"
            recorder.save_best()
        except KeyboardInterrupt as error:
            status = "interrupted"
            reason = error.reason if isinstance(error, Interrupted) else "stopped by the user"
            error.add_note(f"to go on: fedsim resume {shlex.quote(str(directory))}")
            raise
        except UserError as error:  # which a part may find out in the middle of a run only
            reason = str(error)
            raise
        except (OSError, RecordingFailed) as error:
            reason = in_words(error, directory)
            raise recording_failed(error, directory) from error
        except ProcessLost as error:
            reason = str(error)
            if world().is_first_to_tell():  # at once: torchrun will soon end this process too
                complain(f"{error}; to go on: fedsim resume {directory}")
            raise
        finally:
            recorder.close()
            with suppress(OSError) if status == "failed" else nullcontext():  # a full disk has been reported already
                recorder.write_clients()
                write_json(directory / "summary.json", _summary(simulation, state, recorder, status, reason))
            follower.end(status)
            log.info("%s: %s", status, printable(reason))
    _conclude(screen, state, recorder, status, reason, directory)
    asked.end()  # if it came in the last round: the run is done, but a sweep must end
    return status


def _introduction(simulation: Simulation, directory: Path) -> list[str]:
    e, population = simulation.experiment, simulation.population
    arch = simulation.task.arch
    fitted = "" if e.model.parameters is None else f" (hidden_size={arch.hidden_size})"
    engine = e.engine.describe(e.torch_device(), e.torch_dtype(), e.model)
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    own = "test columns pool the evaluations of the clients' own models, for not all blocks are aggregated"
    return [
        f"{type(e.model).__name__} with {arch.layout.num_parameters:,} parameters{fitted}, "
        f"{population.num_clients} clients, {len(population.train):,} training and "
        f"{len(population.test):,} test samples",
        *(f"data: {note}" for note in population.notes),
        *describe_scores(population),
        *([f"chosen: {', '.join(settings)}"] if (settings := chosen(e)) else []),
        f"{engine} on {e.torch_device()}, {threads}, {_together(simulation)}seed {e.seed}",
        *([] if simulation.blocks.private is None else [own]),
        *(line for part in simulation.parts for line in part.introduce()),
        *(f"note: {line}" for line in simulation.advice),
        f"writing to {directory}",
    ]


def _together(simulation: Simulation) -> str:
    return "" if simulation.world.size == 1 else f"{simulation.world.size} processes, "


def _conclude(screen: Screen, state: State, recorder: Recorder, status: str, reason: str, directory: Path) -> None:
    progress = state.progress
    if progress.best is not None:
        final = recorder.final.get(progress.metric)
        screen.say(
            f"{progress.metric}: final {format_value(final)}, best {format_value(progress.best)} "
            f"in round {progress.best_round}" + (", chosen on test data: optimistic" if progress.on == "test" else "")
        )
        if progress.on == "validation":
            screen.say(_of_chosen(recorder, progress))
    if status == "diverged":
        complain(f"diverged: {reason}")
    else:
        screen.say(f"{status} after round {state.round} ({reason}); see {directory / 'metrics.csv'}")


def _of_chosen(recorder: Recorder, progress: Progress) -> str:
    """What is reported of the round that validation chose, beside the last one."""
    usual = "rmse" if "test_rmse" in recorder.best else "accuracy"
    judged = progress.metric.partition("_")[2]
    shown = [f"{kind}{name}" for kind in REPORTED for name in dict.fromkeys([usual, judged])]
    values = [
        f"{name} {format_value(recorder.best[name])} (last round {format_value(recorder.final[name])})"
        for name in shown
        if recorder.best.get(name) is not None
    ]
    return f"round {progress.best_round}, chosen on validation data: {', '.join(values)}"


def _summary(simulation: Simulation, state: State, recorder: Recorder, status: str, reason: str) -> dict[str, Any]:
    progress = state.progress
    return {
        "format_version": FORMAT_VERSION,
        "status": status,
        "reason": reason,
        "rounds": recorder.last.get("round", 0),
        "metrics": recorder.mark(),
        "final": {k: v for k, v in recorder.final.items() if v is not None},
        "best": {
            "metric": progress.metric,
            "mode": progress.mode,
            "value": progress.best,
            "round": progress.best_round,
            "on": progress.on,
            "test": {k: v for k, v in recorder.best.items() if v is not None and k.startswith(REPORTED)},
        },
        "items": {kind: count_items(samples) for kind, samples in evaluated_samples(simulation.population).items()},
        "clients": spread(recorder.evaluation) if recorder.evaluation is not None else {},
        "columns": {column.name: column.better for column in simulation.columns},
        "cumulative": [column.name for column in simulation.columns if column.cumulative],
        **{name: value for part in simulation.parts for name, value in part.summary(state).items()},
        "seconds": time.perf_counter() - recorder.started,
        "parameters": simulation.task.arch.layout.num_parameters,
        "hidden_size": simulation.task.arch.hidden_size,
        "seed": simulation.experiment.seed,
        "device": str(simulation.experiment.torch_device()),
        "threads": torch.get_num_threads(),
        "processes": simulation.world.size,
        "data": {
            "notes": [*simulation.population.notes],
            "errors": error_unit(simulation.population),
            "to_beat": dataclasses.asdict(rival(simulation.population)),
            "prepared": simulation.population.fitted.record(),
        },
        "data_hash": recorder.data_hash,
        "git_hash": git_hash(),
        "versions": versions(),
        "resumed": recorder.start.points,
    }
