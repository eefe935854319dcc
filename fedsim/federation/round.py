"""One round of a federation. Start reading here.

    cohort   <- schedule                     who takes part, and from which model they start
    updates  <- train(cohort)                delta = local - anchor, in chunks [c, n] of the aggregated parameters
    updates  <- stage.pass_on(updates)       every stage in turn: privatise, attack, encode, remember, listen, age
    delta    <- rule(updates)                the aggregator's combine rule, or a private mean that replaces it
    row      <- server(row, delta)           which adds the delta

as in FedOpt (Reddi 2021, Algorithm 1), of which FedAvg (McMahan 2017, Algorithm 1) is the special case of a weighted
mean and a server step of length 1. See `fedsim.core.part` for what a part may do in a round, and
`fedsim.federation.prepare` for the order of the parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedsim.aggregation.rules import columns_of, combine, mean_losses
from fedsim.clients.report import Report
from fedsim.core.cohort import Cohort, Update
from fedsim.core.part import Federation, Round
from fedsim.core.results import Evaluation, Metrics, RoundResult, Stopwatch
from fedsim.core.state import State
from fedsim.errors import Diverged
from fedsim.federation.local import finite_deltas, train_chunk, train_personal


def simulate(federation: Federation, state: State) -> Iterator[RoundResult]:
    """Play rounds until the limit or early stopping; change `state` in place and yield each round's result.

    Raises:
        Diverged: if a loss or a parameter is no longer finite.
    """
    if state.round == 0:
        yield untrained(federation, state)
    while not federation.is_over(state):
        round_number = state.round + 1
        try:
            result = play_round(federation, state)
        except Diverged as error:
            raise Diverged(f"{error}{federation.attack.blame(round_number)}") from None
        yield result


def play_round(federation: Federation, state: State) -> RoundResult:
    """Play the next round: choose a cohort, learn from it, update the parts, and evaluate if the round is due."""
    watch, round_number = Stopwatch(), state.round + 1
    federation.link.broadcast(state, round_number)
    cohort = federation.schedule.next_cohort(federation, state, round_number)
    round = federation.begin(state, round_number, cohort)
    for part in federation.parts:
        part.open(round)
    learned = learn(federation, round)
    state.round = round_number
    for part in federation.parts:
        part.close(round)
    metrics = row_of(federation, round) | learned
    watch.lap("train")
    samples = int(round.task.samples(cohort.clients, cohort.steps).sum())
    return evaluated(federation, state, metrics, watch, samples)


def learn(federation: Federation, round: Round) -> Metrics:
    """Train the cohort, pass its updates through the stages, combine them, and step the server if any arrived."""
    rule = federation.privacy.rule(federation.bound.combine, round)
    with round.division.keeping(round.store, lambda: columns_of(round.reports)) as columns:
        updates = train(federation, round)
        for stage in federation.stages:
            updates = stage.pass_on(updates, round)
        combined = combine(rule, federation.blocks.cut(round.state.row), updates, round.division)
    metrics = mean_losses(Report(**columns)) if columns else {}
    if combined is None:
        if metrics:  # what the clients have remembered, the server has heard of
            federation.correction.settle(torch.zeros_like(round.state.row), round)
        return metrics
    delta = federation.blocks.scatter(combined.delta)
    federation.server.step(federation.correction.settle(delta, round), round)
    drift = {"client_drift": combined.spread.drift(combined.delta)} if combined.spread.count else {}
    return metrics | {"delta_norm": float(delta.double().norm())} | drift


def train(federation: Federation, round: Round) -> Iterator[Update]:
    """Train this process's part of the cohort in chunks of nearly equal size, and append their reports to the round."""
    blocks = federation.blocks
    for part in round.own.chunks(federation.chunk_size):
        clients, anchors = part.clients, federation.schedule.anchors(part, round)
        memory = federation.correction.recall(clients, round)
        deltas, report = train_chunk(part, anchors, memory, round)
        deltas = finite_deltas(deltas, report, clients, round)
        rows = blocks.cut(deltas)
        federation.correction.keep(memory, rows, report, clients, round)
        blocks.keep(anchors, deltas, clients, round.store)
        train_personal(part, anchors, round)
        report = federation.schedule.dated(report, part, round)
        round.reports.append(report)
        yield Update(clients, rows, report, memory)


def row_of(federation: Federation, round: Round) -> Metrics:
    """The row of a round in ``metrics.csv``, with what the parts measure; other cells are None."""
    metrics: Metrics = dict.fromkeys(column.name for column in federation.columns)
    metrics |= {"round": round.number, "clients": len(round.cohort.clients)}
    for part in federation.parts:
        metrics |= part.measure(round)
    return metrics


def untrained(federation: Federation, state: State) -> RoundResult:
    """Return the result of round 0, in which no client trains."""
    watch, no_clients = Stopwatch(), torch.zeros(0, dtype=torch.int64)
    round = federation.begin(state, 0, Cohort(no_clients, no_clients, no_clients))
    return evaluated(federation, state, row_of(federation, round), watch)


def evaluated(
    federation: Federation, state: State, metrics: Metrics, watch: Stopwatch, samples: int = 0
) -> RoundResult:
    """Evaluate the state if the round is due, fill in `metrics`, and update the run's progress."""
    evaluation: Evaluation | None = None
    if federation.evaluates(state.round):
        evaluation = federation.examine(state)
        metrics |= evaluation.metrics
    if (value := metrics[state.progress.metric]) is not None:
        state.progress.update(federation.stop, state.round, float(value))
    watch.lap("evaluate")
    return RoundResult(metrics, evaluation, watch.laps, samples)
