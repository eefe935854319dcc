"""``fedsim evaluate``: a saved model scored on the data of its run, or on any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch

from fedsim.baselines.baseline import NoBaseline, plain_aggregator
from fedsim.config.compose import amend
from fedsim.config.request import Request
from fedsim.core.results import Evaluation
from fedsim.core.stopping import Stop
from fedsim.errors import Diverged, UserError, print_error
from fedsim.evaluation.evaluate import evaluate
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation, prepare
from fedsim.personalization.personalization import NoPersonalization
from fedsim.runs.digests import data_hash
from fedsim.runs.fit import changes
from fedsim.runs.record import read_record, started_elsewhere
from fedsim.runs.resume import read_experiment
from fedsim.runs.saved_model import SavedModel, read_model
from fedsim.samplers.uniform import Uniform

DATA = ("data", "partition", "num_clients", "seed", "dtype")
"""Keys that decide who holds which samples."""
SETTABLE = (*DATA, "engine", "device", "threads")


def evaluate_run(directory: Path, request: Request, which: str = "last") -> tuple[SavedModel, Evaluation]:
    """Score the saved model of a run.

    Without changes of the data that is what the run recorded, personal and private parts of the clients included; on
    other data it is the global model alone.

    Args:
        directory: of the run.
        request: overrides of its record; only what decides the data and how they are computed on may change.
        which: ``last`` or ``best``, see `fedsim.runs.saved_model.read_model`.

    Raises:
        UserError: naming the key, the value and what is allowed, or the first difference between model and data.
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
        sim = _prepared(wanted)
    warn_of_other_data(sim, saved)
    state = saved.state
    state.row = state.row.to(wanted.torch_device())
    try:
        return saved, sim.examine(state)
    except Diverged as error:
        raise UserError(f"{saved.path}: {error}") from None


def _on_other_data(saved: SavedModel, wanted: Experiment) -> Evaluation:
    """Whom training would choose, or what it would do, does not matter here, and must not be refused."""
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
    )
    threads(neutral)
    sim = _prepared(neutral)
    saved.check(sim.task.arch)
    if sim.population.vocabulary_size is not None:
        print_error("the score means something only if these data number their tokens as the run's did", "warning")
    row = saved.state.row.to(wanted.torch_device(), wanted.torch_dtype())
    return evaluate(sim.trainer, row, sim.population)


def _prepared(experiment: Experiment) -> Simulation:
    """A simulation; what is to be known of its data is told."""
    sim = prepare(experiment)
    for note in sim.population.notes:
        print_error(note, "data")
    return sim


def threads(experiment: Experiment) -> None:
    """Use as many threads as the experiment says."""
    torch.set_num_threads(experiment.threads or torch.get_num_threads())


def warn_of_other_data(sim: Simulation, saved: SavedModel) -> None:
    """Tell if the data are no longer those that the run had."""
    if saved.run_facts.get("data_hash") != data_hash(sim.population):
        print_error("the data are not those that the run had (files have changed since)", "warning")


def show(saved: SavedModel, evaluation: Evaluation) -> None:
    """Print the metrics, one a line."""
    print(f"round {saved.state.round}, {saved.path}")
    rows: Iterable[tuple[str, float]] = evaluation.metrics.items()
    for name, value in rows:
        print(f"{name:<20} {value:.6g}")
