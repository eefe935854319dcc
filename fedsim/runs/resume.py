"""Resume a run from its last good checkpoint, or fork it.

The state in a checkpoint, the rows up to its round and the record determine all later rounds: every random draw is
keyed by its round, and the best round so far follows from the rows. So the ``metrics.csv`` of a resumed run equals that
of an uninterrupted one byte for byte, on the same machine with the same number of threads.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fedsim.config.command_line import check_tracker
from fedsim.config.compose import record_of, to_yaml
from fedsim.config.loader import parse
from fedsim.config.recorded import amend, place_of, split_place
from fedsim.config.request import Request, normalise
from fedsim.core import stopping
from fedsim.core.results import Metrics
from fedsim.core.state import State
from fedsim.errors import Diverged, UserError, printable, show
from fedsim.evaluation.evaluate import default_metric
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation, prepare
from fedsim.json_bounds import read_json
from fedsim.parallel.processes import world
from fedsim.recording.lock import locked
from fedsim.recording.run_directory import write_atomically, write_json
from fedsim.recording.run_log import logging_to
from fedsim.recording.settings import Console
from fedsim.runs.checkpoints import checkpoint_path, checkpoint_rounds, load_checkpoint, read_run_facts
from fedsim.runs.digests import devices_hash
from fedsim.runs.dry_run import refuse_impossible
from fedsim.runs.facts import versions
from fedsim.runs.failures import guarded
from fedsim.runs.fit import changes, check_facts, check_fit, check_record, check_rounds, warn
from fedsim.runs.forks import finish_fork, free_directory, last_round, make_fork, refuse_target, with_own_noise
from fedsim.runs.history import marked_content, parse_rows, replay, timing_size
from fedsim.runs.record import check_rows, in_place, is_finished, read_record, read_status, started_elsewhere
from fedsim.runs.run import TIMING_COLUMNS, Start, record_run
from fedsim.runs.saved_model import first_state, prepared, recorded_preparation

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # messages for users are printed as well

POINTS = "resumed.json"
MORE = "rounds=N goes on, and so does another stop setting"


def continue_run(directory: Path, request: Request, after_round: int | None = None) -> tuple[str, Path]:
    """Carry out ``fedsim resume``: resume the run in place, or fork it if that is asked for.

    A fork is asked for by a new directory, by `after_round`, or by changes that cannot be made in place.

    Returns:
        the status, and the directory of the run or the fork.

    Raises:
        UserError: if an override is wrong, or the record of the run cannot be read.
        KeyboardInterrupt: after recording that the run was interrupted.
    """
    rest, _ = split_place(request)
    recorded = read_experiment(directory, request.allow_modules)
    wanted = amend(read_record(directory), normalise(dataclasses.replace(request, overrides=rest)))
    check_tracker(wanted, [parse(text) for text in request.overrides])
    target = place_of(request, wanted)
    if target is None and after_round is None and all(in_place(key) for key in changes(recorded, wanted)):
        return resume_run(directory, wanted, request.allow_modules), directory
    target = target or free_directory(directory)
    return fork_run(directory, wanted, target, request.allow_modules, after_round), target


def resume_run(
    directory: Path, experiment: Experiment | None = None, allow_modules: Sequence[str] = (), silent: bool = False
) -> str:
    """Continue the run in a directory, in place, and return its status as `fedsim.runs.run.run_experiment` does.

    Args:
        directory: the run's directory (see `fedsim.runs.record.run_state`).
        experiment: the settings to continue with, which may differ from the record only in
            `fedsim.runs.record.IN_PLACE`; None takes those of the record.
        allow_modules: modules other than fedsim whose dataclasses the record may name.
        silent: whether to show nothing this time, whatever its ``console`` says, which stays in the record.

    Raises:
        KeyboardInterrupt: after recording that the run was interrupted.
    """

    def resume() -> str:
        recorded = read_experiment(directory, allow_modules)
        wanted = experiment or recorded
        if experiment is None:
            check_tracker(recorded, ())
        changed = changes(recorded, wanted)
        if outside := [key for key in changed if not in_place(key)]:
            raise UserError(f"{directory}: {', '.join(outside)} cannot change within a run; that would be a fork of it")
        with locked(directory), logging_to(directory):
            if is_finished(directory, changed):
                check_rows(directory)
                status = str(read_status(directory))
                _say(wanted, f"{directory}: {status} already, nothing to do; {MORE}", silent)
                return status
            check_rounds(recorded, wanted)
            return guarded(wanted, lambda: _resume_in_place(directory, wanted, changed, silent))

    return guarded(None, resume)


def _resume_in_place(
    directory: Path, experiment: Experiment, changed: Mapping[str, tuple[Any, Any]], silent: bool
) -> str:
    experiment.tracker.check()
    with started_elsewhere(directory, experiment):
        simulation = _prepared(directory, experiment)
    for partial in (*directory.glob(".*.partial"), *directory.glob("checkpoints/.*.partial")):
        partial.unlink(missing_ok=True)
    found = _find_start(directory, simulation)
    start = found.start
    finish_fork(directory)
    for path in found.unusable:
        path.replace(path.with_name(f"{path.name}.unusable"))  # so that it is not counted as one to keep
    start.points.append(_point(start, changed))
    for name in ("summary.json", "clients.csv"):  # written at an end that no longer holds
        (directory / name).unlink(missing_ok=True)
    _write_record(directory, start, experiment)
    _say(experiment, f"going on after round {start.state.round}{_list(changed)}", silent)
    if silent:
        shown = dataclasses.replace(simulation.experiment, console=Console("none"))
        simulation = dataclasses.replace(simulation, experiment=shown)
    return record_run(simulation, directory, start)


def fork_run(
    directory: Path,
    experiment: Experiment,
    target: Path,
    allow_modules: Sequence[str] = (),
    after_round: int | None = None,
) -> str:
    """Continue the run in a directory with other settings, in a new directory; the old one stays as it is.

    The new directory begins with the rows so far and the state of the checkpoint from which the run continues. The old
    one is only read, and may belong to a run that still goes on.

    Args:
        directory: the old run's directory.
        experiment: the settings of the rounds after the fork.
        target: the new directory.
        allow_modules: modules other than fedsim whose dataclasses the record may name.
        after_round: a round with a checkpoint; None takes the last one.

    Raises:
        KeyboardInterrupt: after recording that the run was interrupted.
    """

    def fork() -> str:
        recorded = read_experiment(directory, allow_modules)
        wanted = with_own_noise(experiment, changes(recorded, experiment), after_round or last_round(directory))
        changed = changes(recorded, wanted)
        refuse_target(target)
        wanted.tracker.check()
        check_rounds(recorded, wanted)
        with started_elsewhere(directory, wanted):
            simulation = _prepared(directory, wanted)
        refuse_impossible(simulation)
        found = _find_start(directory, simulation, recorded, after_round)
        if found.start.state.round == 0:
            raise UserError(f"{directory}: has no checkpoint to fork from; fedsim run starts a new run")
        target.mkdir(parents=True, exist_ok=True)
        with locked(target), logging_to(target):
            refuse_target(target)  # again, as nobody else can write there now
            start = make_fork(directory, target, simulation, *found[:3])
            start.points.append(_point(start, changed) | {"fork_of": str(directory.resolve())})
            _write_record(target, start, wanted)
            finish_fork(target)
            _say(wanted, f"a fork of {directory} after round {start.state.round}{_list(changed)}")
            return guarded(wanted, lambda: record_run(simulation, target, start))

    return guarded(experiment, fork)


def _prepared(directory: Path, experiment: Experiment) -> Simulation:
    """Prepare the data as the run did: labels and scales are those of its record, whatever the files hold by now."""
    found = recorded_preparation(directory)
    return prepared(experiment, world()) if found is None else prepare(experiment, *found, here=world())


def read_experiment(directory: Path, allow_modules: Sequence[str] = ()) -> Experiment:
    """Return the recorded experiment of a run directory, checked like any config.

    Raises:
        UserError: if the record is missing or not valid; it names the file and the key.
    """
    record = read_record(directory)
    try:
        return amend(record, Request(allow_modules=tuple(allow_modules)))
    except UserError as error:
        raise UserError(f"{directory / 'config.yaml'}: {error}") from None


# ---------------------------------------------------------------------------------------------------------------------
# where to continue


class Found(NamedTuple):
    """Where to start, the rows of ``metrics.csv`` up to there, the checkpoint's facts, and files that are no good."""

    start: Start
    content: bytes
    facts: Mapping[str, Any]
    unusable: list[Path]


def _find_start(
    directory: Path,
    simulation: Simulation,
    recorded: Experiment | None = None,
    after_round: int | None = None,
) -> Found:
    """Return where to start, and the unusable checkpoint files found on the way.

    The start is the last good checkpoint, round 0 without one, or the checkpoint of `after_round`.

    Raises:
        UserError: if the settings do not fit the checkpoint, or `after_round` has none.
    """
    points, unusable = _read_points(directory), list[Path]()
    seen = set[int]()
    while waiting := [n for n in _rounds(directory, after_round) if n not in seen]:  # a run that goes on makes new ones
        round_number = waiting[-1]
        seen.add(round_number)
        path = checkpoint_path(directory, round_number)
        try:
            facts = read_run_facts(path)
            content = _content(directory, path, facts)
            state = load_checkpoint(path, simulation.task.population.train.inputs.device)
            if state.round != round_number:
                raise UserError(f"{path}: is of round {state.round}")
        except UserError as error:
            if path.exists():
                warn(f"{error}; it is not used")
                unusable.append(path)
            continue
        if round_number > simulation.experiment.rounds:
            raise UserError(f"rounds={simulation.experiment.rounds}: {directory} has done {round_number} already")
        check_record(facts, recorded or simulation.experiment, directory)
        check_facts(facts, simulation)
        now = simulation.experiment
        same = recorded is None or (recorded.system, recorded.schedule) == (now.system, now.schedule)
        if same and facts.get("devices") != devices_hash(simulation):
            what = "devices, edges or neighbours" if simulation.schedule.fingerprint() else "devices"
            raise UserError(
                f"the clients do not have the {what} with which the run began (the file has changed); fedsim run "
                "starts a new run"
            )
        check_fit(state, simulation, recorded or simulation.experiment)
        return Found(_start(directory, simulation, state, content, points), content, facts, unusable)
    if after_round is not None:
        has = ", ".join(str(number) for number in checkpoint_rounds(directory) if number != after_round) or "none"
        raise UserError(f"--after-round {after_round}: {directory} has no good checkpoint of that round; it has {has}")
    if parents := [point["fork_of"] for point in points if "fork_of" in point]:
        raise UserError(f"{directory}: has no usable checkpoint, and is a fork of {parents[-1]}: fork that again")
    if recorded is None:
        warn(f"{directory}: there is no usable checkpoint; starting over from round 0")
    return Found(Start(first_state(simulation), size=0, timing_size=0, points=points), b"", {}, unusable)


def _rounds(directory: Path, after_round: int | None) -> list[int]:
    return [n for n in checkpoint_rounds(directory) if after_round in (None, n)]


def _content(directory: Path, path: Path, facts: Mapping[str, Any]) -> bytes:
    try:
        return marked_content(directory / "metrics.csv", facts.get("metrics"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _start(
    directory: Path, simulation: Simulation, state: State, content: bytes, points: list[dict[str, Any]]
) -> Start:
    """Return the start after the state's round, as if the run had reached it under the current settings.

    The last round is always evaluated, other rounds perhaps not. So the row of this round changes if it was the last
    one and no longer is, or the other way round.
    """
    e, round_number, size = simulation.experiment, state.round, len(content)
    rows = parse_rows(content, [column.name for column in simulation.columns], directory / "metrics.csv")
    if len(rows) != round_number + 1:
        raise UserError(f"{directory / 'metrics.csv'}: has {len(rows)} rows at the checkpoint of round {round_number}")
    again: Metrics | None = None
    evaluation = None
    was_evaluated = rows[-1]["test_loss"] is not None
    if simulation.evaluates(round_number):
        try:
            evaluation = simulation.examine(state)
        except Diverged as error:
            raise UserError(f"{checkpoint_path(directory, round_number)}: {error}") from None
        again = None if was_evaluated else {**rows[-1], **evaluation.metrics}
    elif was_evaluated:
        again = rows[-1] | {column.name: None for column in simulation.columns if column.evaluated}
    if again is not None:
        size = content.rstrip(b"\n").rfind(b"\n") + 1
        rows.pop()
    progress = stopping.start(e.stop, default_metric(simulation.population), simulation.columns)
    state.progress = replay(progress, e.stop, [*rows, again] if again else rows)
    kept, seconds = timing_size(directory / "timing.csv", TIMING_COLUMNS, round_number)
    return Start(state, rows, size, kept, again, evaluation, seconds, points)


def _read_points(directory: Path) -> list[dict[str, Any]]:
    """The points at which the run was resumed so far; none if the file cannot be read, since no round depends on it."""
    path, found = directory / POINTS, None
    if not path.exists():
        return []
    with suppress(UserError):
        found = read_json(path)
    points = found.get("resumed") if isinstance(found, dict) else None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        warn(f"{path}: cannot be read; at which rounds the run was resumed before is no longer known")
        return []
    return points


def _point(start: Start, changed: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    point: dict[str, Any] = {"after_round": start.state.round, "threads": torch.get_num_threads()}
    point["processes"] = world().size
    return point | {"versions": versions(), "changed": {key: list(values) for key, values in changed.items()}}


def _write_record(directory: Path, start: Start, experiment: Experiment) -> None:
    write_json(directory / POINTS, {"resumed": start.points})
    write_atomically(directory / "config.yaml", to_yaml(record_of(experiment)).encode())


def _list(changed: Mapping[str, tuple[Any, Any]]) -> str:
    def words(value: Any) -> str:
        return str(value["_target_"]).rpartition(".")[2] if isinstance(value, Mapping) else show(value)

    return "".join(f", {key} {words(old)} -> {words(new)}" for key, (old, new) in changed.items())


def _say(experiment: Experiment, text: str, silent: bool = False) -> None:
    log.info(printable(text))
    if experiment.console.mode != "none" and not silent:
        print(text)
