"""A cohort trains: what its clients start from, what they send, and what they keep for themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fedsim.aggregation.rules import BLOCK
from fedsim.clients.corrections import Memory
from fedsim.clients.local import Report
from fedsim.clients.measures import add_measures, training_loss
from fedsim.errors import Diverged, UserError, did_you_mean
from fedsim.parameters import ParameterLayout
from fedsim.state import Simulation, State


def choose_cohort(sim: Simulation, state: State, number: int) -> tuple[Tensor, int]:
    """The clients ``[C]`` of round `number`, and to how many a model was sent to choose and train them."""
    asked: list[Tensor] = []

    def losses(clients: Tensor) -> Tensor:
        asked.append(clients)
        parts = clients.split(sim.chunk_size)
        models = (local_models(sim, state, part) for part in parts)
        return torch.cat([training_loss(sim.task, sim.trainer, m, p) for m, p in zip(models, parts, strict=True)])

    e = sim.experiment
    cohort = e.sampler.cohort(sim.population.train.sizes, number, e.seed, losses)
    return cohort, len(torch.cat([cohort, *asked]).unique())


def train_in_chunks(
    sim: Simulation, state: State, cohort: Tensor, number: int, reports: list[Report], change: Tensor
) -> Iterator[tuple[Tensor, Report]]:
    """Train the cohort in chunks of nearly equal size; yields ``(deltas [c, P], report)`` and keeps the reports.

    What the clients remember for the correction changes by `change` ``[P]`` in all.
    """
    e, store = sim.experiment, state.store
    correction = e.aggregator.correction
    for clients in cohort.tensor_split(math.ceil(len(cohort) / sim.chunk_size)):
        memory, anchors = None, local_models(sim, state, clients)
        if state.memory is not None:
            memory = Memory(
                store.read("memory", clients, state.row.new_zeros(len(clients), len(state.row))), state.memory
            )
        deltas, report = sim.trainer.train(anchors, clients, number, store, memory)
        _check_finite(sim, deltas, report, clients, number)
        if memory is not None:
            own = correction.remember(memory, deltas, report.local_steps, sim.task.lr(number))
            store.write("memory", clients, own)
            for new, old in zip(own.split(BLOCK), memory.own.split(BLOCK), strict=True):
                change += (new.double() - old.double()).sum(0)
        if sim.private is not None:
            store.write("private", clients, (anchors + deltas)[:, sim.private])
            deltas[:, sim.private] = 0
        if sim.personal is not None:
            e.personalize.train(sim.personal, state.row, clients, number, store)
        needs = getattr(e.aggregator.combine, "needs", ())
        report = add_measures(report, needs, sim.task, sim.trainer, anchors, clients, number)
        reports.append(report)
        yield deltas, report


def local_models(sim: Simulation, state: State, clients: Tensor) -> Tensor:
    """What clients ``[C]`` start from: the global row ``[P]``, or ``[C, P]`` with each one's private parameters."""
    if sim.private is None:
        return state.row
    rows = state.row.repeat(len(clients), 1)
    rows[:, sim.private] = state.store.read("private", clients, rows[:, sim.private])
    return rows


def bytes_per_client(sim: Simulation) -> tuple[int, int]:
    """Bytes that one client receives and sends in a round: the aggregated parameters, and a correction's rows."""
    private = 0 if sim.private is None else len(sim.private)
    row = (sim.task.arch.layout.num_parameters - private) * sim.experiment.torch_dtype().itemsize
    correction = sim.experiment.aggregator.correction
    return row * (1 + correction.extra_down), row * (1 + correction.extra_up)


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


def _check_finite(sim: Simulation, deltas: Tensor, report: Report, clients: Tensor, number: int) -> None:
    """Raise `Diverged` naming the first client whose loss or row is not finite."""
    if math.isfinite(float(deltas.sum())) and math.isfinite(float(report.train_loss.sum())):
        return  # a sum is not finite if any part is not; it is much cheaper than a look at every number
    broken = ~(torch.isfinite(report.train_loss) & torch.isfinite(deltas).all(1).cpu())
    if bool(broken.any()):
        name = sim.population.client_names[int(clients[broken][0])]
        others = f" (and of {int(broken.sum()) - 1} more of {len(clients)})" if int(broken.sum()) > 1 else ""
        raise Diverged(f"round {number}: the local model of client {name!r}{others} is no longer finite")
