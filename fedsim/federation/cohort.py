"""A cohort trains: what its clients start from, what they send, and what they keep for themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.clients.measures import add_measures, training_loss
from fedsim.clients.report import Memory, Report
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.errors import Diverged, UserError, did_you_mean
from fedsim.federation.state import Simulation, State
from fedsim.models.parameters import ParameterLayout
from fedsim.parallel.share import Share, divide


class Chunk(NamedTuple):
    """What a part of the cohort has trained.

    Attributes:
        clients: ``[c]`` int64 client numbers.
        deltas: ``[c, P]``.
        report: of these clients.
        memory: what the correction remembered of them before, or None.
    """

    clients: Tensor
    deltas: Tensor
    report: Report
    memory: Memory | None


def workers(sim: Simulation, number: int) -> tuple[LocalTask, Trainer]:
    """What clients train in round `number`, and the engine bound to it."""
    if sim.poisoned is not None and number >= sim.experiment.attack.start_round:
        return sim.poisoned
    return sim.task, sim.trainer


def choose_cohort(sim: Simulation, state: State, number: int) -> tuple[Tensor, Tensor]:
    """The clients ``[C]`` of round `number`, and all to whom a model was sent to choose and train them."""
    task, trainer = workers(sim, number)
    asked: list[Tensor] = []

    def losses(clients: Tensor) -> Tensor:
        asked.append(clients)
        share = divide(sim.world, sim.population.train.sizes[clients])
        own = share.of(clients)
        parts = own.split(sim.chunk_size) if len(own) > 0 else ()
        models = (local_models(sim, state, part, sent_row(state)) for part in parts)
        found = [training_loss(task, trainer, m, p) for m, p in zip(models, parts, strict=True)]
        return share.whole({"loss": torch.cat(found)} if found else {})["loss"]

    e = sim.experiment
    cohort = e.sampler.cohort(sim.population.train.sizes, number, e.seed, losses)
    return cohort, torch.cat([cohort, *asked]).unique()


def share_of(sim: Simulation, clients: Tensor, steps: Tensor | None) -> Share:
    """This process's share of a cohort ``[C]``; what a client has to do is counted in samples."""
    taken = sim.task.steps(clients) if steps is None else steps
    return divide(sim.world, sim.task.samples(clients, taken))


def train_in_chunks(
    sim: Simulation,
    state: State,
    cohort: Tensor,
    number: int,
    reports: list[Report],
    steps: Tensor | None = None,
    versions: Tensor | None = None,
) -> Iterator[Chunk]:
    """Train the cohort in chunks of nearly equal size; yields them and keeps the reports.

    `steps` ``[C]`` are the clients' local steps, if not those of the task, and `versions` ``[C]`` those of the model
    that each of them was given, if not the newest.
    """
    e, store = sim.experiment, state.store
    task, trainer = workers(sim, number)
    correction = e.aggregator.correction
    taken = task.steps(cohort) if steps is None else steps
    count = math.ceil(len(cohort) / sim.chunk_size)
    given = torch.full_like(cohort, state.round) if versions is None else versions
    parts = (column.tensor_split(count) for column in (cohort, taken, given)) if count else ((), (), ())
    for clients, limit, version in zip(*parts, strict=True):
        memory, anchors = None, local_models(sim, state, clients, sent_row(state))
        if versions is not None:
            anchors = given_rows(state, version)
        if state.memory is not None:
            memory = Memory(
                store.read("memory", clients, state.row.new_zeros(len(clients), len(state.row))), state.memory
            )
        deltas, report = trainer.train(anchors, clients, number, store, memory, None, limit)
        _check_finite(sim, deltas, report, clients, number)
        if memory is not None:
            store.write("memory", clients, correction.remember(memory, deltas, report.local_steps, task.lr(number)))
        if sim.private is not None:
            store.write("private", clients, (anchors + deltas)[:, sim.private])
            deltas[:, sim.private] = 0
        if sim.personal is not None:
            e.personalize.train(sim.personal, anchors, clients, number, store)
        needs = getattr(e.aggregator.combine, "needs", ())
        report = add_measures(report, needs, task, trainer, anchors, clients, number)
        if versions is not None:
            report = replace(report, staleness=state.round - version)
        reports.append(report)
        yield Chunk(clients, deltas, report, memory)


def sent_row(state: State) -> Tensor:
    """The global model ``[P]`` as clients get it: a copy where the link downstream loses something."""
    return state.parts.get("link.copy", state.row)


def given_rows(state: State, versions: Tensor) -> Tensor:
    """The models ``[C, P]`` of certain versions ``[C]``, or ``[P]`` if all are the newest."""
    if bool((versions == state.round).all()):
        return state.row
    newest = state.round
    return torch.stack([state.row if v == newest else state.parts[f"schedule.row.{v}"] for v in versions.tolist()])


def local_models(sim: Simulation, state: State, clients: Tensor, row: Tensor) -> Tensor:
    """What clients ``[C]`` make of a global `row`: itself ``[P]``, or ``[C, P]`` with their private parameters."""
    if sim.private is None:
        return row
    rows = row.repeat(len(clients), 1)
    rows[:, sim.private] = state.store.read("private", clients, rows[:, sim.private])
    return rows


def private_parameters(layout: ParameterLayout, blocks: list[str] | None) -> Tensor | None:
    """Return which parameters ``[Q]`` are not in the `blocks` to be aggregated; None if all are.

    Raises:
        UserError: if the model has no such block.
    """
    if blocks is None:
        return None
    for block in blocks:
        if block not in layout.blocks:
            raise UserError(
                f"aggregator.blocks={blocks}: this model has {', '.join(layout.blocks)}, not {block!r}"
                + did_you_mean(block, layout.blocks)
            )
    shared = torch.zeros(layout.num_parameters, dtype=torch.bool)
    for name, place in layout.slices.items():
        shared[place] = name.split(".")[0] in blocks
    return None if bool(shared.all()) else (~shared).nonzero()[:, 0]


def shared_parameters(private: Tensor, count: int) -> Tensor:
    """The parameters ``[n]`` of `count` that are not among the private ones ``[Q]``."""
    shared = torch.ones(count, dtype=torch.bool)
    shared[private.cpu()] = False
    return shared.nonzero()[:, 0]


def _check_finite(sim: Simulation, deltas: Tensor, report: Report, clients: Tensor, number: int) -> None:
    """Raise `Diverged` naming the first client whose loss or row is not finite."""
    if math.isfinite(float(deltas.sum())) and math.isfinite(float(report.train_loss.sum())):
        return  # a sum is not finite if any part is not; it is much cheaper than a look at every number
    broken = ~(torch.isfinite(report.train_loss) & torch.isfinite(deltas).all(1).cpu())
    if bool(broken.any()):
        name = sim.population.client_names[int(clients[broken][0])]
        others = f" (and of {int(broken.sum()) - 1} more of {len(clients)})" if int(broken.sum()) > 1 else ""
        raise Diverged(f"round {number}: the local model of client {name!r}{others} is no longer finite")
