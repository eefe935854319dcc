"""``fedsim evaluate``: score a saved model on the data of its run, or on other data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch

from fedsim.baselines.baseline import NoBaseline, plain_aggregator
from fedsim.config.recorded import amend
from fedsim.config.request import Request
from fedsim.core.results import Evaluation
from fedsim.core.stopping import Stop
from fedsim.errors import Diverged, UserError, print_error
from fedsim.evaluation.evaluate import evaluate
from fedsim.evaluation.settings import Eval
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation, initial_state, prepare
from fedsim.personalization.personalization import NoPersonalization
from fedsim.runs.digests import data_hash
from fedsim.runs.fit import changes, check_kept
from fedsim.runs.record import read_record, started_elsewhere
from fedsim.runs.resume import read_experiment
from fedsim.runs.saved_model import SavedModel, first_difference, read_model
from fedsim.samplers.uniform import Uniform

DATA = ("data", "partition", "num_clients", "seed", "dtype")
"""Keys that decide which client holds which samples."""
SETTABLE = (*DATA, "engine", "device", "threads")


def evaluate_run(directory: Path, request: Request, which: str = "last") -> tuple[SavedModel, Evaluation]:
    """Score the saved model of a run.

    On the data of the run, this gives the scores that the run recorded, personal models and private blocks included;
    on other data, only the global model is scored.

    Args:
        directory: the run's directory.
        request: overrides of its record; only settings of the data and of the computation may change.
        which: ``last`` or ``best``, see `fedsim.runs.saved_model.read_model`.

    Raises:
        UserError: if an override is not allowed, or the model cannot be read or does not fit the data.
    """
    recorded = read_experiment(directory, request.allow_modules)
    wanted = amend(read_record(directory), request)
    changed = changes(recorded, wanted)
    if outside := [key for key in changed if key.split(".")[0] not in SETTABLE]:
        raise UserError(
            f"{', '.join(outside)}: has no effect on a saved model's score; allowed are {', '.join(SETTABLE)}"
        )
    saved = read_model(directory, which)
    if any(key.split(".")[0] in DATA for key in changed):
        return saved, _on_other_data(saved, wanted)
    threads(wanted)
    with started_elsewhere(directory, wanted):
        simulation = _prepared(wanted, saved)
    warn_of_other_data(simulation, saved)
    state = saved.state
    _check_state(simulation, saved)
    state.row = state.row.to(wanted.torch_device())
    try:
        return saved, simulation.examine(state)
    except Diverged as error:
        raise UserError(f"{saved.path}: {error}") from None


def _check_state(simulation: Simulation, saved: SavedModel) -> None:
    """Raise `UserError` unless the state of a checkpoint is one that the simulation can have."""
    state, fresh = saved.state, initial_state(simulation)
    if (difference := first_difference(saved.facts, simulation.task.arch)) is not None:
        raise UserError(f"{saved.path}: {difference}")
    saved.check_dtype(fresh.row.dtype)
    if state.store.blocks and state.store.num_clients != fresh.store.num_clients:
        raise UserError(
            f"{saved.path}: keeps something for {state.store.num_clients} clients, and there are "
            f"{fresh.store.num_clients}"
        )
    for part in simulation.parts:
        if not part.accepts(state.drawers.get(part.group, {}), fresh.drawers.get(part.group, {})):
            raise UserError(f"{saved.path}: what it keeps for {part.group} does not fit the run")
    try:
        check_kept(state, simulation)
    except UserError as error:
        raise UserError(f"{saved.path}: {error}") from None


def _on_other_data(saved: SavedModel, wanted: Experiment) -> Evaluation:
    """Score the global model alone, with neutral settings of training, which must not cause errors here."""
    if not isinstance(wanted.personalize, NoPersonalization):
        print_error(
            "on other data only the global model is scored: personal models are of the run's clients", "warning"
        )
    neutral = dataclasses.replace(
        wanted,
        sampler=Uniform(),
        aggregator=plain_aggregator(None),
        personalize=NoPersonalization(),
        baseline=NoBaseline(),
        stop=Stop(),
        eval=Eval(),
    )
    threads(neutral)
    simulation = _prepared(neutral, saved)
    saved.check(simulation.task.arch)
    known = saved.fitted
    if known is None or (simulation.population.vocabulary_size is not None and not known.vocabulary):
        print_error(
            "the run did not record how its data were prepared: the score means something only if labels, scales and "
            "tokens of these data come out as those of the run did",
            "warning",
        )
    row = saved.state.row.to(wanted.torch_device(), wanted.torch_dtype())
    return evaluate(simulation.trainer, row, simulation.population)


def _prepared(experiment: Experiment, saved: SavedModel) -> Simulation:
    """Prepare data as those of the saved model were, and print the notes on them as warnings."""
    simulation = prepare(experiment, saved.fitted)
    for note in simulation.population.notes:
        print_error(note, "data")
    return simulation


def threads(experiment: Experiment) -> None:
    """Set the number of torch threads to that of the experiment, if it has one."""
    torch.set_num_threads(experiment.threads or torch.get_num_threads())


def warn_of_other_data(simulation: Simulation, saved: SavedModel) -> None:
    """Warn if the data are not those on which the run was trained."""
    if saved.run_facts.get("data_hash") != data_hash(simulation.population):
        print_error("the data are not those that the run had (files have changed since)", "warning")


def show(saved: SavedModel, evaluation: Evaluation) -> None:
    """Print the metrics, one per line."""
    print(f"round {saved.state.round}, {saved.path}")
    rows: Iterable[tuple[str, float]] = evaluation.metrics.items()
    width = max(20, *map(len, evaluation.metrics))
    for name, value in rows:
        print(f"{name:<{width}} {value:.6g}")
