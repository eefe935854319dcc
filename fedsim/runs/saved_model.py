"""Models saved by runs: finding and reading them, and checking that they fit an architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedsim.core.origin import Origin, read_origin, read_spending
from fedsim.core.state import State
from fedsim.data.fitted import Fitted, read_fitted
from fedsim.errors import UserError, print_error
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation, initial_state, prepare
from fedsim.models.recurrent import Architecture
from fedsim.parallel.processes import ALONE, World
from fedsim.recording.moved import moved
from fedsim.recording.run_directory import refuse_links
from fedsim.runs.checkpoints import checkpoint_path, checkpoint_rounds, load_checkpoint, read_run_facts
from fedsim.runs.history import marked_content, read_rows
from fedsim.runs.record import plain_record
from fedsim.runs.state_dict import is_state_dict, read_state_dict

if TYPE_CHECKING:
    from torch import Tensor

WHICH = ("last", "best")

NOT_PRIVATE = ("NoPrivacy", "SecureAggregation")
"""Classes of the group ``privacy`` that state no epsilon, as the records of all versions name them."""


@dataclass(frozen=True)
class SavedModel:
    """A checkpoint, read for its model.

    Attributes:
        path: the checkpoint file.
        state: the state in it, on the CPU.
        facts: the facts about the model that `model_facts` returned when it was saved.
        run_facts: all facts that the run recorded about itself.
    """

    path: Path
    state: State
    facts: dict[str, Any]
    run_facts: dict[str, Any]

    @property
    def fitted(self) -> Fitted | None:
        """How the data of the model were prepared; None if the run did not record it.

        Raises:
            UserError: if the record cannot be read.
        """
        return read_fitted(self.run_facts.get("prepared"), str(self.path))

    def check(self, arch: Architecture) -> None:
        """Raise `UserError`, naming the first difference, unless this is a whole model of the given architecture."""
        if (blocks := self.facts["blocks"]) is not None:
            raise UserError(
                f"{self.path}: holds no whole model, because its clients kept parts of it to themselves "
                f"(aggregator.blocks={blocks})"
            )
        if (difference := first_difference(self.facts, arch)) is not None:
            raise UserError(f"{self.path}: {difference}")

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raise `UserError` unless the numbers of the model are of the given type."""
        if self.state.row.dtype != dtype:
            raise UserError(f"{self.path}: holds numbers of type {self.state.row.dtype}, and its run has {dtype}")


def model_facts(simulation: Simulation) -> dict[str, Any]:
    """Return what a checkpoint records about its model, as plain data: enough to compare architectures."""
    arch = simulation.task.arch
    shapes = {name: list(shape) for name, shape in zip(arch.layout.names, arch.layout.shapes, strict=True)}
    return {"cell": _kind(arch), "blocks": simulation.experiment.aggregator.blocks, "parameters": shapes}


def _kind(arch: Architecture) -> str:
    """The cell, and what else decides a model's outputs and does not show in the shapes of its parameters."""
    model, more = arch.model, []
    if model.pooling != "last":
        more.append(f"{model.pooling} of its states")
    if model.head_activation != "none":
        more.append(f"{model.head_activation} before the head")
    return model.cell + (f" with {' and '.join(more)}" if more else "")


def first_difference(facts: Mapping[str, Any], arch: Architecture) -> str | None:
    """Return the first difference between a saved model and an architecture, in words; None if it fits."""
    if facts["cell"] != _kind(arch):
        return f"the saved model's cell is {facts['cell']}, the one it is wanted for {_kind(arch)}"
    saved = {name: tuple(shape) for name, shape in facts["parameters"].items()}
    wanted = dict(zip(arch.layout.names, arch.layout.shapes, strict=True))
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        if saved.get(name) != wanted.get(name):
            return f"the saved model has {_size(name, saved)}, the one it is wanted for {_size(name, wanted)}"
    return None


def _size(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name} of {' x '.join(map(str, shapes[name]))}" if name in shapes else f"no {name}"


def read_model(path: Path, which: str = "last") -> SavedModel:
    """Read a saved model.

    Args:
        path: a run directory, or a checkpoint in one.
        which: for a directory, ``last`` (the newest readable checkpoint) or ``best`` (the one with the best value of
            the metric that judges the run, of the checkpoints that were kept).

    Raises:
        UserError: if there is no usable checkpoint.
    """
    try:
        if path.is_file():
            return _read(path)
        if not path.is_dir():
            raise UserError(f"{path}: there is no such run directory or checkpoint")
    except (OSError, ValueError) as error:  # such as a name that is too long, or holds a NUL
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    refuse_links(path)
    for round_number in reversed(checkpoint_rounds(path)):
        try:
            last = _read(checkpoint_path(path, round_number), round_number)
        except UserError as error:
            print_error(f"{error}; it is not used", "warning")
            continue
        return last if which == "last" else _best(path, last)
    raise UserError(f"{path}: holds no saved model (there is no usable checkpoint)")


def _best(directory: Path, last: SavedModel) -> SavedModel:
    progress, values = last.state.progress, {}
    try:
        metrics = directory / "metrics.csv"
        rows = read_rows(marked_content(metrics, last.run_facts.get("metrics")), metrics)
    except UserError as error:
        raise UserError(f"{last.path}: {error}") from None
    kept = checkpoint_rounds(directory)
    for row in rows:
        value = row.get(progress.metric)
        if value is not None and math.isfinite(value):
            values[int(row["round"] or 0)] = value
    sign = 1 if progress.mode == "min" else -1
    measured = sorted(values, key=lambda round_number: (sign * values[round_number], round_number))
    values = {round_number: values[round_number] for round_number in measured if round_number in kept}
    if not values:
        raise UserError(f"{directory}: no checkpoint is of a round in which {progress.metric} was measured; take last")
    best = next(iter(values))
    if best != measured[0]:
        was = "the untrained model's" if measured[0] == 0 else f"that of round {measured[0]}"
        print_error(
            f"{directory}: the best {progress.metric} is {was}, of which there is no checkpoint; taking round {best}",
            "warning",
        )
    return _read(checkpoint_path(directory, best), best)


def _read(path: Path, round_number: int | None = None) -> SavedModel:
    """Read a checkpoint, of the given round if it is in the directory of a run."""
    state, run_facts = load_checkpoint(path, torch.device("cpu")), read_run_facts(path)
    if round_number is not None and state.round != round_number:
        raise UserError(f"{path}: is of round {state.round}")
    facts = run_facts.get("model")
    if not facts:
        raise UserError(f"{path}: does not say what model it holds")
    sizes = sum(math.prod(shape) for shape in facts["parameters"].values())
    if state.row.shape != (sizes,):
        raise UserError(f"{path}: holds {state.row.numel()} numbers, not the {sizes} of its model")
    return SavedModel(path, state, facts, run_facts)


def prepared(experiment: Experiment, here: World = ALONE) -> Simulation:
    """Prepare a run, whose data are prepared as those of the model that ``init_from`` names, if it names one.

    Args:
        experiment: the settings.
        here: the processes that are about to run it; see `prepare`.

    Raises:
        UserError: if that model cannot be read, or data, partition and settings do not go together.
    """
    init_from = experiment.init_from
    if init_from is None:
        return prepare(experiment, here=here)
    try:
        if is_state_dict(Path(init_from)):  # it does not say how its data were prepared, nor what was spent
            return prepare(experiment, origin=Origin(init_from), here=here)
        saved = read_model(Path(init_from))
        simulation = prepare(experiment, saved.fitted, origin_of(saved, experiment), here=here)
    except UserError as error:
        raise UserError(f"init_from={init_from}: {error}") from None
    return simulation


def recorded_preparation(directory: Path) -> tuple[Fitted, Origin | None] | None:
    """How the data of a run were prepared, and the model that it began with; None if no checkpoint says so.

    The newest readable checkpoint counts; what ``init_from`` names may be gone by now.
    """
    for round_number in reversed(checkpoint_rounds(directory)):
        path = checkpoint_path(directory, round_number)
        with suppress(UserError):
            facts = read_run_facts(path)
            if (fitted := read_fitted(facts.get("prepared"), str(path))) is not None:
                return fitted, read_origin((facts.get("privacy") or {}).get("origin"), str(path))
    return None


def origin_of(saved: SavedModel, experiment: Experiment) -> Origin:
    """Return what a saved model says of its training, for the accountant of a run that starts from it.

    Raises:
        UserError: if its record cannot be read.
    """
    facts, where = saved.run_facts, str(saved.path)
    record, now = moved(facts.get("record") or {}), plain_record(experiment)["data"]
    data, chosen = (_mapping(record.get(group)) for group in ("data", "privacy"))
    clients = facts.get("clients", "") if data.get("_target_") == now["_target_"] else ""
    origin = Origin(str(experiment.init_from), alike=data == now, clients=clients)
    if (privacy := facts.get("privacy")) is not None:
        told = _mapping(privacy).get("spent")
        if not isinstance(told, list):
            raise UserError(f"{where}: its record of the privacy that was spent cannot be read")
        spent = tuple(read_spending(one, where) for one in told)
        return replace(origin, private=True, spent=spent, warnings=_warnings(privacy))
    unprotected = str(chosen.get("_target_")).rpartition(".")[2] in NOT_PRIVATE
    return replace(origin, private=False if unprotected else None)


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _warnings(privacy: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run has said of the models before it, which holds for the models after it, too."""
    found = privacy.get("warnings")
    lines = found if isinstance(found, list) else []
    return tuple(line for line in lines if isinstance(line, str) and line.startswith("init_from="))


def first_row(simulation: Simulation) -> Tensor | None:
    """Return the model ``[P]`` that ``init_from`` names, or None if the run begins with an untrained one.

    Raises:
        UserError: if the model cannot be read or does not fit the run; it names the first difference.
    """
    init_from = simulation.experiment.init_from
    if init_from is None:
        return None
    try:
        if is_state_dict(Path(init_from)):
            return read_state_dict(Path(init_from), simulation.task.arch)
        saved = read_model(Path(init_from))
        saved.check(simulation.task.arch)
    except UserError as error:
        raise UserError(f"init_from={init_from}: {error}") from None
    return saved.state.row


def first_state(simulation: Simulation) -> State:
    """Return the state that a run begins with: untrained, or with the model that ``init_from`` names."""
    return initial_state(simulation, first_row(simulation))
