"""From settings to a federation: load the data, divide them among clients, and bind every part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fedsim.aggregation.rules import Layered, needs_of
from fedsim.client_store import ClientStore
from fedsim.clients.class_weights import BALANCED, class_weights
from fedsim.clients.malloc import return_freed_memory
from fedsim.clients.task import LocalTask
from fedsim.core import stopping
from fedsim.core.facts import Fact
from fedsim.core.origin import Origin
from fedsim.core.part import Bound, Federation, Part
from fedsim.core.state import State
from fedsim.data.dataset import Assignment, Dataset, Pooled
from fedsim.data.fitted import Fitted
from fedsim.data.population import build_population, to_device
from fedsim.data.source import load_dataset
from fedsim.errors import UserError
from fedsim.evaluation.evaluate import check_testable, default_metric, score_columns
from fedsim.evaluation.global_scores import GlobalScores
from fedsim.federation.advice import advise
from fedsim.federation.experiment import Experiment
from fedsim.federation.shared import Held, Laid, share
from fedsim.federation.traffic import Books
from fedsim.metrics import COLUMNS, Column
from fedsim.models.blocks import divide_parameters
from fedsim.models.recurrent import architecture, initial_row
from fedsim.parallel.processes import ALONE, World
from fedsim.partition.partition import Partition
from fedsim.server.screening import Screening
from fedsim.server.step import OptimizerStep

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Simulation(Federation):
    """A federation together with the experiment it was prepared from.

    Attributes:
        experiment: the settings.
        laid: where the other processes of this machine find the data, if there are any.
        advice: what a user may not expect of them, a line each.
    """

    experiment: Experiment
    laid: Laid | None = None
    advice: tuple[str, ...] = ()


def prepare(
    experiment: Experiment,
    fitted: Fitted | None = None,
    origin: Origin | None = None,
    held: Held | None = None,
    here: World = ALONE,
) -> Simulation:
    """Load the data, divide them among clients and bind all parts; nothing is trained.

    Args:
        experiment: the settings.
        fitted: how the data of a saved model were prepared, which is how these are to be; None fits them anew.
        origin: what is known of the model that the run starts from; None for an untrained one.
        held: the data, if another process has loaded and divided them; None loads them.
        here: the processes that are about to run this; the first of each machine lays the data down for the others.

    Raises:
        UserError: if data, partition and settings do not go together, or the data do not go with `fitted`.
    """
    dividing = experiment.dividing()
    changes = experiment.baseline.changes(dividing, experiment.client)
    e = replace(experiment, **changes)
    device, dtype = e.torch_device(), e.torch_dtype()
    facts = e.setting(e.claims()).facts
    held = held or share(_load(e, changes.get("partition", dividing), facts, fitted), here)
    if held.laid is not None:
        return_freed_memory()
    population = to_device(held.population, device)
    arch = replace(architecture(e.model, population), class_weights=class_weights(e.client.class_weights, population))
    if arch.class_weights and "start_loss" in needs_of(e.aggregator.combine):
        raise UserError(
            "client.class_weights: the losses by which aggregator.combine weighs clients are those of evaluations, "
            "which do not weigh classes; leave it null"
        )
    if e.client.class_weights == BALANCED:
        what = Pooled("how often classes occur", "give client.class_weights as numbers")
        population = replace(population, pooled=(*population.pooled, what))
    blocks = divide_parameters(arch.layout, e.aggregator.blocks, device)
    combine = e.aggregator.combine
    task = LocalTask(arch, population, e.client, e.aggregator.correction, blocks, e.seed)
    bound = Bound(
        seed=e.seed,
        rounds=e.rounds,
        population=population,
        task=task,
        blocks=blocks,
        make_trainer=lambda task: e.engine.trainer(task, device, dtype),
        chunk_size=e.engine.chunk_size(task, dtype),
        sampler=e.sampler,
        combine=combine.on_layers(blocks.slices(arch.layout)) if isinstance(combine, Layered) else combine,
        gradients=sum(part.gradients for part in e.parts()),
        dtype=dtype,
        facts=facts,
        origin=origin,
    )
    scores, books = GlobalScores(), Books()
    personal, link, correction, attack, privacy, system, schedule, audit = (part.bind(bound) for part in e.parts())
    server = OptimizerStep(e.aggregator.server_optimizer, e.rounds)
    # On the client: a correction whose clients send rows to the server sees the deltas as they were trained. On the way
    # to the server: privatise, attack, encode. At the server: a look whether the deltas are finite, a correction that
    # works from those that arrive, then the audit, and the age of the updates.
    tells = Fact.TELLS in facts
    screening = _screening(facts)
    stages = (
        *((correction,) if tells else ()),
        *(personal, privacy, attack, link, *screening),
        *(() if tells else (correction,)),
        *(audit, system, schedule, server),
    )
    sizes, fewest = population.train.sizes, e.system.cohort_sizes(*e.sampler.limits(population.num_clients))[0]
    advice = advise(facts, e.stop, equal_sizes=len(sizes.unique()) == 1, all_take_part=fewest == population.num_clients)
    simulation = Simulation(
        experiment=e,
        laid=held.laid,
        advice=tuple(advice),
        bound=bound,
        trainer=bound.make_trainer(task),
        columns=held.columns,
        needs=needs_of(combine),
        evaluates_round=partial(e.eval.evaluates, rounds=e.rounds),
        stop=e.stop,
        correction=correction,
        privacy=privacy,
        attack=attack,
        link=link,
        system=system,
        schedule=schedule,
        personal=personal,
        server=server,
        parts=(scores, personal, books, link, correction, attack, privacy, system, schedule, audit, *screening, server),
        stages=stages,
    )
    _check_bound(simulation)
    return simulation


def _load(e: Experiment, dividing: Partition, facts: Mapping[Fact, str], fitted: Fitted | None) -> Held:
    """Load the data and divide them among the clients."""
    dataset = load_dataset(e.data, e.seed, fitted)
    assignment = dividing.assign(dataset, e.num_clients, e.seed)
    columns = _columns(e, dataset, facts, assignment)
    e.check_columns(columns)
    population = build_population(
        dataset, assignment, validation_fraction=e.client.validation_fraction, seed=e.seed, dtype=e.torch_dtype()
    )
    if population.unseen is not None and Fact.NO_COMMON_MODEL in facts:
        raise UserError(
            f"eval.unseen_clients={e.eval.unseen_clients}: has nothing to judge, as with {facts[Fact.NO_COMMON_MODEL]} "
            "there is no common model that a new client could get"
        )
    try:
        check_testable(population)
    except ValueError as error:
        raise UserError(f"{dataset.name}: {error}") from None
    e.check_clients(population, population.num_clients)
    return Held(population, columns)


def initial_state(simulation: Simulation, row: Tensor | None = None) -> State:
    """Return the state before round 1, with nothing stored for any client.

    Args:
        simulation: the prepared simulation.
        row: ``[P]``, the model to start from; None draws an untrained one.
    """
    e = simulation.experiment
    device, dtype = e.torch_device(), e.torch_dtype()
    row = initial_row(simulation.task.arch, e.seed, dtype) if row is None else row
    row = row.to(device, dtype, copy=True)
    metric = simulation.stop.metric or default_metric(simulation.population)
    progress = stopping.start(simulation.stop, metric, simulation.columns)
    drawers = {part.group: kept for part in simulation.parts if (kept := part.start(row))}
    return State(row, ClientStore(simulation.population.num_clients), progress, drawers=drawers)


def _check_bound(simulation: Simulation) -> None:
    """Raise `UserError` for conflicts that only show once all parts are bound."""
    e, population = simulation.experiment, simulation.population
    eligible = simulation.system.eligible(population.num_clients)
    if eligible < population.num_clients:
        try:
            e.check_clients(population, eligible)
        except UserError as error:
            raise UserError(f"{error} (system: {'; '.join(simulation.system.introduce())})") from None
    nothing = torch.zeros((), dtype=e.torch_dtype()).expand(simulation.blocks.num_parameters)  # takes no memory
    blank = State(nothing, ClientStore(population.num_clients), stopping.Progress("", ""))
    for part in simulation.parts:
        part.check_bound(simulation, blank)


def _screening(facts: Collection[Fact]) -> tuple[Screening, ...]:
    """The look at what arrives, where rows may not be finite and the server sees rows at all."""
    accounted = Fact.ACCOUNTED in facts
    return (Screening(accounted),) if accounted or (Fact.FORGES in facts and Fact.HIDES_ROWS not in facts) else ()


def _columns(e: Experiment, dataset: Dataset, facts: Collection[Fact], assignment: Assignment) -> tuple[Column, ...]:
    """The columns of ``metrics.csv``: round, losses, scores, deltas, traffic, and those of the other parts."""
    known = dataset.groups_of(assignment.train) is not None

    def of(*parts: Part) -> tuple[Column, ...]:
        return tuple(column for part in parts for column in part.columns if known or not column.grouped)

    seen = ["test"] if assignment.validation is None else ["validation", "test"]
    unseen = [] if assignment.unseen is None else ["unseen"]
    if Fact.PERSONAL in facts:
        seen += ["personal"] if assignment.validation is None else ["validation_personal", "personal"]
        unseen += [f"{kind}_personal" for kind in unseen]
    judged = seen + unseen
    sampled = assignment.sampled_from is not None
    validation = ("local_validation_loss",) if e.client.validation_fraction > 0 else ()
    return (
        *(COLUMNS[name] for name in ("round", "clients", "train_loss", *validation)),
        *(one for kind in judged for one in score_columns(dataset, kind, sampled and not kind.startswith("unseen"))),
        *(COLUMNS[name] for name in ("delta_norm", "client_drift")),
        *of(Books(), *e.parts(), *_screening(facts)),
    )
