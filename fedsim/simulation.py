"""The federated loop. Start reading here.

A model is a row ``[P]``; a cohort is a matrix ``[C, P]`` of such rows, one per client. A round is:

    cohort     <- sampler(population)
    deltas     <- every client of the cohort trains from the global row; delta = local - global
    delta      <- combine(deltas)
    global row <- server optimizer(global row, delta), which adds it

as in FedOpt (Reddi 2021, Algorithm 1), of which FedAvg (McMahan 2017, Algorithm 1) is the special case of a weighted
mean and a server step of length 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim import stopping
from fedsim.aggregation.rules import combine_chunks
from fedsim.client_store import ClientStore
from fedsim.clients.local import LocalTask, Report, Trainer
from fedsim.errors import Diverged, UserError
from fedsim.evaluation import Evaluation, check_testable, default_metric, evaluate, metric_names
from fedsim.experiment import Experiment, load_dataset
from fedsim.models.recurrent import architecture, initial_row
from fedsim.population import Population, build_population, to_device

Metrics = dict[str, int | float | None]


@dataclass(frozen=True)
class Simulation:
    """Everything that stays the same during a run.

    Attributes:
        experiment: the settings.
        population: all clients and their samples.
        task: what the clients train.
        trainer: the engine, bound to that task.
        chunk_size: clients trained at a time.
        columns: of ``metrics.csv``, in order.
    """

    experiment: Experiment
    population: Population
    task: LocalTask
    trainer: Trainer
    chunk_size: int
    columns: tuple[str, ...]


@dataclass
class State:
    """Everything that changes from round to round; all of it is in a checkpoint.

    Attributes:
        row: the global model ``[P]``.
        server: the server optimizer's state.
        store: what is kept per client.
        progress: best value so far and early stopping.
        round: rounds done.
        bytes_down: bytes sent to clients so far.
        bytes_up: bytes received from clients so far.
    """

    row: Tensor
    server: dict[str, Tensor]
    store: ClientStore
    progress: stopping.Progress
    round: int = 0
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True)
class RoundResult:
    """What one round gives.

    Attributes:
        metrics: one row of ``metrics.csv``; None where a cell is empty.
        evaluation: per-client results, if this round was evaluated.
        seconds: wall-clock time by stage (``timing.csv``).
    """

    metrics: Metrics
    evaluation: Evaluation | None
    seconds: dict[str, float] = field(default_factory=dict)


def prepare(experiment: Experiment) -> Simulation:
    """Load the data, give them to clients and bind the engine; nothing is trained.

    Raises:
        UserError: if data, partition and settings do not go together.
    """
    device, dtype = experiment.torch_device(), experiment.torch_dtype()
    dataset = load_dataset(experiment.data, experiment.seed)
    columns = _columns(experiment, metric_names(dataset.task, dataset.score))
    experiment.check_task(dataset.task, list(columns))
    assignment = experiment.partition.assign(dataset, experiment.num_clients, experiment.seed)
    population = build_population(
        dataset,
        assignment,
        validation_fraction=experiment.client.validation_fraction,
        seed=experiment.seed,
        dtype=dtype,
    )
    try:
        check_testable(population)
    except ValueError as error:
        raise UserError(f"{dataset.name}: {error}") from None
    experiment.sampler.check(population.num_clients)
    population = to_device(population, device)
    arch = architecture(experiment.model, population)
    task = LocalTask(arch, population, experiment.client, experiment.aggregator.correction, experiment.seed)
    trainer = experiment.engine.trainer(task, device, dtype)
    chunk_size = experiment.engine.chunk_size(task, dtype)
    return Simulation(experiment, population, task, trainer, chunk_size, columns)


def initial_state(sim: Simulation) -> State:
    """The untrained model and empty memories."""
    e = sim.experiment
    row = initial_row(sim.task.arch, e.seed, e.torch_dtype()).to(e.torch_device())
    progress = stopping.start(e.stop, default_metric(sim.population.task))
    return State(row, e.aggregator.server_optimizer.init(row), ClientStore(sim.population.num_clients), progress)


def simulate(sim: Simulation, state: State) -> Iterator[RoundResult]:
    """Run rounds until the limit or early stopping, changing `state`; yield after each one.

    Raises:
        Diverged: when a loss or a parameter is no longer finite.
    """
    if state.round == 0:
        yield _evaluate_untrained(sim, state)
    while state.round < sim.experiment.rounds and not state.progress.reason:
        yield _run_round(sim, state)


def _run_round(sim: Simulation, state: State) -> RoundResult:
    e = sim.experiment
    number = state.round + 1
    started = time.perf_counter()

    cohort = e.sampler.cohort(sim.population.num_clients, number, e.seed)
    reports: list[Report] = []
    chunks = _train_in_chunks(sim, state, cohort, number, reports)
    delta, spread = combine_chunks(e.aggregator.combine, state.row, chunks)
    row, server = e.aggregator.server_optimizer.step(state.row, delta, state.server)
    if not bool(torch.isfinite(row).all()):
        raise Diverged(f"round {number}: the global model is no longer finite after the server step")

    state.row, state.server, state.round = row, server, number
    row_bytes = row.numel() * row.element_size()
    state.bytes_down += len(cohort) * row_bytes
    state.bytes_up += len(cohort) * row_bytes
    trained = time.perf_counter()

    metrics: Metrics = dict.fromkeys(sim.columns)
    metrics |= {"round": number, "clients": len(cohort), **_losses(reports)}
    metrics |= {"delta_norm": float(delta.double().norm()), "client_drift": spread.drift(delta)}
    metrics |= {"bytes_down": state.bytes_down, "bytes_up": state.bytes_up}
    evaluation = None
    if number % e.eval.every == 0 or number == e.rounds:
        evaluation = _evaluate(sim, state, metrics)
    _judge(sim, state, metrics)
    return RoundResult(metrics, evaluation, {"train": trained - started, "evaluate": time.perf_counter() - trained})


def _train_in_chunks(
    sim: Simulation, state: State, cohort: Tensor, number: int, reports: list[Report]
) -> Iterator[tuple[Tensor, Report]]:
    """Train the cohort a chunk at a time; yields ``(deltas [c, P], report)`` and keeps the reports."""
    for clients in cohort.split(sim.chunk_size):
        deltas, report = sim.trainer.train(state.row, clients, number, state.store)
        _check_finite(sim, deltas, report, clients, number)
        reports.append(report)
        yield deltas, report


def _check_finite(sim: Simulation, deltas: Tensor, report: Report, clients: Tensor, number: int) -> None:
    """Raise `Diverged` naming the first client whose loss or row is not finite."""
    if math.isfinite(float(deltas.sum())) and math.isfinite(float(report.train_loss.sum())):
        return  # a sum is not finite if any part is not; it is much cheaper than a look at every number
    broken = ~(torch.isfinite(report.train_loss) & torch.isfinite(deltas).all(1).cpu())
    if bool(broken.any()):
        name = sim.population.client_names[int(clients[broken][0])]
        others = f" (and of {int(broken.sum()) - 1} more of {len(clients)})" if int(broken.sum()) > 1 else ""
        raise Diverged(f"round {number}: the local model of client {name!r}{others} is no longer finite")


def _evaluate_untrained(sim: Simulation, state: State) -> RoundResult:
    started = time.perf_counter()
    metrics: Metrics = dict.fromkeys(sim.columns)
    metrics |= {"round": 0, "clients": 0, "bytes_down": 0, "bytes_up": 0}
    evaluation = _evaluate(sim, state, metrics)
    _judge(sim, state, metrics)
    return RoundResult(metrics, evaluation, {"train": 0.0, "evaluate": time.perf_counter() - started})


def _evaluate(sim: Simulation, state: State, metrics: Metrics) -> Evaluation:
    """Fill in the test columns."""
    evaluation = evaluate(sim.trainer, state.row, sim.population)
    if not math.isfinite(evaluation.metrics["test_loss"]):
        raise Diverged(f"round {state.round}: the test loss is no longer finite")
    metrics |= evaluation.metrics
    return evaluation


def _judge(sim: Simulation, state: State, metrics: Metrics) -> None:
    """Keep the best value so far and decide whether to stop."""
    value = metrics[state.progress.metric]
    if value is not None:
        state.progress.update(sim.experiment.stop, state.round, float(value))


def _losses(reports: list[Report]) -> Metrics:
    """Sample-weighted means over the cohort, in float64."""
    samples = torch.cat([r.num_samples for r in reports]).double()

    def mean(values: list[Tensor]) -> float:
        return float((torch.cat(values) * samples).sum() / samples.sum())

    losses: Metrics = {"train_loss": mean([r.train_loss for r in reports])}
    validation = [r.validation_loss for r in reports if r.validation_loss is not None]
    if validation:
        losses["validation_loss"] = mean(validation)
    return losses


def _columns(experiment: Experiment, tests: tuple[str, ...]) -> tuple[str, ...]:
    validation = ("validation_loss",) if experiment.client.validation_fraction > 0 else ()
    ends = ("delta_norm", "client_drift", "bytes_down", "bytes_up")
    return ("round", "clients", "train_loss", *validation, *tests, *ends)
