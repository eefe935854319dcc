"""The federated loop. Start reading here.

A model is a row ``[P]``; a cohort is a matrix ``[C, P]`` of such rows, one per client. A round is:

    cohort     <- sampler(population), or those of it who arrive in time (`fedsim.federation.arrivals`)
    deltas     <- every client of the cohort trains from the global row; delta = local - global
    deltas     <- what arrives of them: privatise, attack, encode and decode (all off by default)
    delta      <- combine(deltas)
    global row <- server optimizer(global row, delta), which adds it

as in FedOpt (Reddi 2021, Algorithm 1), of which FedAvg (McMahan 2017, Algorithm 1) is the special case of a weighted
mean and a server step of length 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedsim.aggregation.rules import combine_chunks, whole_reports
from fedsim.asynchrony.queue import aged, keep_waiting, scheduled, staleness_metrics
from fedsim.attacks.attack import DataAttack, NoAttack
from fedsim.attacks.backdoor import Backdoor
from fedsim.audits.audit import ModelAudit, UpdateAudit, overheard
from fedsim.client_store import ClientStore
from fedsim.clients.report import Report
from fedsim.clients.task import LocalTask
from fedsim.core import stopping
from fedsim.data.dataset import Dataset
from fedsim.data.population import build_population, to_device
from fedsim.errors import Diverged, UserError
from fedsim.evaluation.evaluate import (
    Evaluation,
    check_testable,
    default_metric,
    evaluate,
    evaluate_own,
    metric_names,
    score_samples,
)
from fedsim.federation.arrivals import Arrivals, count_time, make_clock, refuse_hopeless
from fedsim.federation.cohort import (
    local_models,
    private_parameters,
    sent_row,
    share_of,
    shared_parameters,
    train_in_chunks,
    workers,
)
from fedsim.federation.exchange import broadcast, combine_rule, count_bytes, exchange_metrics, exchanged
from fedsim.federation.experiment import Experiment, load_dataset
from fedsim.federation.state import Metrics, RoundResult, Simulation, State
from fedsim.models.recurrent import architecture, initial_row
from fedsim.personalization.personalization import NoPersonalization
from fedsim.privacy.privacy import CentralPrivacy
from fedsim.privacy.secure import SecureAggregation
from fedsim.runs.saved_model import initial_model
from fedsim.server.optimizers import learning_rate

EVALUATED = ("test_", "personal_", "attack_success", "membership_")
"""How the columns begin that are filled in by evaluations."""


def prepare(experiment: Experiment) -> Simulation:
    """Load the data, give them to clients and bind the engine; nothing is trained.

    Raises:
        UserError: if data, partition and settings do not go together.
    """
    experiment = experiment.baseline.apply(experiment)
    device, dtype = experiment.torch_device(), experiment.torch_dtype()
    dataset = load_dataset(experiment.data, experiment.seed)
    columns = _columns(experiment, dataset)
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
    experiment.check_population(population.num_clients)
    if isinstance(experiment.privacy, SecureAggregation):
        experiment.privacy.numbers(experiment, population.train.sizes)  # refused where they do not fit
    experiment.audit.check(experiment, population)
    population = to_device(population, device)
    arch = architecture(experiment.model, population)
    task = LocalTask(arch, population, experiment.client, experiment.aggregator.correction, experiment.seed)
    private = private_parameters(arch.layout, experiment.aggregator.blocks)
    personal_task = experiment.personalize.task(task)
    attack, poisoned = experiment.attack, None
    malicious = attack.malicious(population.num_clients, experiment.seed)
    if isinstance(attack, DataAttack):
        bad = replace(task, population=attack.poison(population, malicious, experiment.seed))
        poisoned = bad, experiment.engine.trainer(bad, device, dtype)
    simulation = Simulation(
        experiment,
        population,
        task,
        trainer=experiment.engine.trainer(task, device, dtype),
        chunk_size=experiment.engine.chunk_size(task, dtype),
        columns=columns,
        private=None if private is None else private.to(device),
        personal=None if personal_task is None else experiment.engine.trainer(personal_task, device, dtype),
        shared=None if private is None else shared_parameters(private, arch.layout.num_parameters).to(device),
        malicious=None if isinstance(attack, NoAttack) else malicious,
        poisoned=poisoned,
        trial=attack.trial(population.test) if isinstance(attack, Backdoor) else None,
        budget=experiment.privacy.budget(experiment, population.num_clients),
        clock=make_clock(experiment, population, task),
    )
    refuse_hopeless(simulation)
    return simulation


def initial_state(sim: Simulation) -> State:
    """The untrained model, or the one of ``init_from``, and empty memories."""
    e = sim.experiment
    if e.init_from is None:
        row = initial_row(sim.task.arch, e.seed, e.torch_dtype()).to(e.torch_device())
    else:
        row = initial_model(sim, e.init_from).row.to(e.torch_device(), e.torch_dtype(), copy=True)
    progress = stopping.start(e.stop, default_metric(sim.population.task))
    server, store = e.aggregator.server_optimizer.init(row), ClientStore(sim.population.num_clients)
    memory = torch.zeros_like(row) if e.aggregator.correction.remembers else None
    return State(row, server, store, progress, memory)


def simulate(sim: Simulation, state: State) -> Iterator[RoundResult]:
    """Run rounds until the limit or early stopping, changing `state`; yield after each one.

    Raises:
        Diverged: when a loss or a parameter is no longer finite.
    """
    if state.round == 0:
        yield _evaluate_untrained(sim, state)
    while not is_over(sim, state):
        yield _run_round(sim, state)


def is_over(sim: Simulation, state: State) -> bool:
    """Whether a run has no more rounds to do."""
    return state.round >= sim.experiment.rounds or bool(state.progress.reason)


def is_evaluated(experiment: Experiment, number: int) -> bool:
    """Whether round `number` ends with an evaluation."""
    return number % experiment.eval.every == 0 or number == experiment.rounds


def evaluate_again(sim: Simulation, state: State) -> tuple[Metrics, Evaluation]:
    """Evaluate what a state holds: the test columns, and what every client scored."""
    metrics: Metrics = {}
    evaluation = _evaluate(sim, state, metrics)
    return metrics, evaluation


def _run_round(sim: Simulation, state: State) -> RoundResult:
    e = sim.experiment
    number = state.round + 1
    started = time.perf_counter()

    broadcast(sim, state, number)
    coming = scheduled(sim, state, number)
    cohort = coming.clients
    metrics: Metrics = dict.fromkeys(sim.columns)
    metrics |= {"round": number, "clients": len(cohort)}
    begun = isinstance(e.privacy, SecureAggregation) and len(coming.informed) > 0  # and may have to be aborted
    if len(cohort) > 0 or begun or isinstance(e.privacy, CentralPrivacy):  # without clients nothing changes
        metrics |= _train_cohort(sim, state, coming, number)
    keep_waiting(state, coming)
    state.round = number
    count_bytes(sim, state, coming.informed, len(cohort), number)
    metrics |= {**count_time(sim, state, coming), **staleness_metrics(coming, number)}
    metrics |= {"bytes_down": state.bytes_down, "bytes_up": state.bytes_up, **exchange_metrics(sim, state, cohort)}
    trained = time.perf_counter()

    evaluation = None
    if is_evaluated(e, number):
        evaluation = _evaluate(sim, state, metrics)
    _judge(sim, state, metrics)
    seconds = {"train": trained - started, "evaluate": time.perf_counter() - trained}
    steps = sim.task.steps(cohort) if coming.steps is None else coming.steps
    return RoundResult(metrics, evaluation, seconds, int(sim.task.samples(cohort, steps).sum()))


def _train_cohort(sim: Simulation, state: State, coming: Arrivals, number: int) -> Metrics:
    """Train, combine and take the server step; returns what there is to record."""
    e = sim.experiment
    reports: list[Report] = []
    sent, change = sent_row(state), torch.zeros_like(state.row, dtype=torch.float64)
    share = share_of(sim, coming.clients, coming.steps)  # all of it, where one process does everything
    own, seen = coming.part(share), list[Tensor]()
    rule = combine_rule(sim, state, number, coming.informed, coming.clients, own.clients)
    with share.keeping(state.store):
        chunks = train_in_chunks(sim, state, own.clients, number, reports, own.steps, own.versions)
        arrived = overheard(e.audit, exchanged(sim, state, chunks, number, change, share), number, share, seen)
        if rule is None:  # clients train, but the server learns nothing
            share.exhaust(arrived)
        else:
            delta, spread = combine_chunks(rule, state.row, aged(sim, state, own, arrived), share)
    reports = whole_reports(share, reports)
    if rule is None:
        return _losses(reports) if reports else {}
    adjusted = delta
    if state.memory is not None:
        change = share.add_up(change)
        state.memory = (state.memory + change / sim.population.num_clients).to(state.row.dtype)
        adjusted = e.aggregator.correction.adjust(delta, state.memory)
    optimizer = e.aggregator.server_optimizer
    row, server = optimizer.step(state.row, adjusted, state.server, learning_rate(optimizer, number, e.rounds))
    if not bool(torch.isfinite(row).all()):
        raise Diverged(f"round {number}: the global model is no longer finite after the server step")
    state.row, state.server = row, server
    metrics: Metrics = {"delta_norm": float(delta.double().norm())}
    if isinstance(e.audit, UpdateAudit) and number == e.audit.round and len(coming.clients) > 0:
        updates = share.whole_first(seen)
        metrics |= e.audit.inspect(workers(sim, number)[0], sent, coming.clients[: len(updates)], updates, number)
    if reports:
        metrics |= {**_losses(reports), "client_drift": spread.drift(delta)}
    return metrics


def _evaluate_untrained(sim: Simulation, state: State) -> RoundResult:
    started = time.perf_counter()
    metrics: Metrics = dict.fromkeys(sim.columns)
    metrics |= {"round": 0, "clients": 0, "bytes_down": 0, "bytes_up": 0}
    nobody = torch.zeros(0, dtype=torch.int64)
    metrics |= {**exchange_metrics(sim, state, nobody), **count_time(sim, state, Arrivals(nobody, nobody))}
    evaluation = _evaluate(sim, state, metrics)
    _judge(sim, state, metrics)
    return RoundResult(metrics, evaluation, {"train": 0.0, "evaluate": time.perf_counter() - started})


def _evaluate(sim: Simulation, state: State, metrics: Metrics) -> Evaluation:
    """Fill in the test columns."""
    e, population = sim.experiment, sim.population

    def federated(clients: Tensor) -> Tensor:
        models = local_models(sim, state, clients, state.row)
        return models.expand(len(clients), -1)

    if sim.private is None:
        evaluation = evaluate(sim.trainer, state.row, population, sim.world)
    else:
        evaluation = evaluate_own(sim.trainer, federated, population, sim.chunk_size, "test", sim.world)
    if not math.isfinite(evaluation.metrics["test_loss"]):
        raise Diverged(f"round {state.round}: the test loss is no longer finite")
    if (trainer := sim.personal) is not None:

        def personal(clients: Tensor) -> Tensor:
            return e.personalize.rows(trainer, federated(clients), clients, state.round, state.store)

        own = evaluate_own(trainer, personal, population, sim.chunk_size, "personal", sim.world)
        evaluation = Evaluation(evaluation.metrics | own.metrics, evaluation.clients | own.clients)
    metrics |= evaluation.metrics
    if sim.trial is not None:
        sums = score_samples(sim.trainer, state.row, sim.trial, sim.world)
        metrics["attack_success"] = float(sums.hits.sum() / sums.count.sum())
    if isinstance(e.audit, ModelAudit):
        metrics |= e.audit.examine(sim.trainer, state.row, population)
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


def _columns(experiment: Experiment, dataset: Dataset) -> tuple[str, ...]:
    prefixes = ("test",) if isinstance(experiment.personalize, NoPersonalization) else ("test", "personal")
    tests = tuple(name for prefix in prefixes for name in metric_names(dataset.task, dataset.score, prefix))
    validation = ("validation_loss",) if experiment.client.validation_fraction > 0 else ()
    ends = ("delta_norm", "client_drift", "bytes_down", "bytes_up")
    adding = (experiment.attack, experiment.privacy, experiment.system, experiment.schedule, experiment.audit)
    parts = tuple(name for part in adding for name in part.columns)
    return ("round", "clients", "train_loss", *validation, *tests, *ends, *parts)
