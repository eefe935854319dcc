"""Who arrives for the next version of the model: clients at work as events on the virtual clock.

What clients learn does not change when they arrive. So the queue runs ahead, without training, until the buffer is
full; then all who are in it train in one stack, each from the model that it was given. Models of which somebody at work
was given a copy are kept for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.asynchrony.schedule import Asynchronous
from fedsim.clients.report import Report
from fedsim.devices.clock import Clock, online, stay
from fedsim.devices.system import Timed
from fedsim.federation.arrivals import Arrivals, arrivals, ask, client_seconds
from fedsim.federation.cohort import given_rows
from fedsim.federation.state import Metrics, Simulation, State
from fedsim.samplers.sampler import WeightedBySize

SAME = 1e-12
"""Times that differ by less, relatively, differ by rounding only."""


class Flight(NamedTuple):
    """A client at work; flights sort by time, and of equal times by client.

    Attributes:
        finish: when its last byte arrives, or when it vanishes.
        client: its number.
        version: of the model that it was given.
        vanishes: whether it does.
    """

    finish: float
    client: int
    version: int
    vanishes: bool


@dataclass
class Queue:
    """What happens between two versions.

    Attributes:
        now: virtual seconds.
        flying: a heap of who is at work.
        buffer: who has arrived.
        informed: to whom a model was sent.
        dropped: how many were asked and were offline or have vanished.
        turns: how often somebody was asked.
    """

    now: float
    flying: list[Flight]
    buffer: list[Flight] = field(default_factory=list)
    informed: list[Tensor] = field(default_factory=list)
    dropped: int = 0
    turns: int = 0

    def land(self, size: int) -> None:
        """All who are due now: the first clients by number fill the buffer, the others wait for the next."""
        due = []
        while self.flying and self.flying[0].finish <= self.now * (1 + SAME):
            due.append(heappop(self.flying))
        for flight in sorted(due, key=lambda flight: flight.client):
            if flight.vanishes:
                self.dropped += 1
            elif len(self.buffer) < size:
                self.buffer.append(flight)
            else:
                heappush(self.flying, flight)


def scheduled(sim: Simulation, state: State, number: int) -> Arrivals:
    """Who takes part in round `number`, by whichever schedule; changes nothing."""
    if not isinstance(sim.experiment.schedule, Asynchronous):
        return arrivals(sim, state, number)
    schedule, clock = sim.experiment.schedule, sim.clock
    assert clock is not None, "checked before the run"
    concurrency = sim.experiment.sampler.limits(len(clock.fitting))[1]
    size = schedule.buffer(concurrency)
    queue, order = Queue(state.virtual_seconds, _read(state)), _order(sim, clock, number)
    while True:
        queue.land(size)
        if len(queue.buffer) == size:
            break
        _refill(sim, state, clock, number, order, concurrency, queue)
        if not queue.flying:  # nobody is there: this version is given up, and the buffer is kept for the next
            queue.flying, queue.buffer = queue.buffer, []
            break
        queue.now = max(queue.now, queue.flying[0].finish)
    arrived = sorted(queue.buffer, key=lambda flight: flight.client)
    nobody = torch.zeros(0, dtype=torch.int64)
    return Arrivals(
        torch.tensor([flight.client for flight in arrived], dtype=torch.int64),
        torch.cat([nobody, *queue.informed]),
        dropped=queue.dropped,
        seconds=queue.now - state.virtual_seconds,
        versions=torch.tensor([flight.version for flight in arrived], dtype=torch.int64),
        waiting=_written(queue.flying, state, number - 1),
    )


def aged(
    sim: Simulation, state: State, coming: Arrivals, chunks: Iterable[tuple[Tensor, Report]]
) -> Iterator[tuple[Tensor, Report]]:
    """The chunks that have arrived, as the server takes them: stale ones count less."""
    schedule, versions = sim.experiment.schedule, coming.versions
    if not isinstance(schedule, Asynchronous) or versions is None:
        yield from chunks
        return
    first = 0
    for deltas, report in chunks:
        given = versions[first : first + len(deltas)]
        first += len(deltas)
        yield schedule.apply(deltas, state.round - given, partial(_behind, state, given)), report


def _behind(state: State, versions: Tensor) -> Tensor:
    """How far the models of certain versions ``[C]`` are from the newest: ``[C, P]``, or ``[P]`` of zeros."""
    return given_rows(state, versions) - state.row


def keep_waiting(state: State, coming: Arrivals) -> None:
    """Put into `state` who is still at work, after a round."""
    if coming.waiting is not None:
        for name in [name for name in state.parts if name.startswith("schedule.")]:
            del state.parts[name]
        state.parts |= coming.waiting


def staleness_metrics(coming: Arrivals, number: int) -> Metrics:
    """What an asynchronous schedule adds to the row of round `number`."""
    if coming.versions is None or len(coming.versions) == 0:
        return {}
    staleness = number - 1 - coming.versions
    return {"staleness": float(staleness.double().mean()), "staleness_max": int(staleness.max())}


def describe_schedule(sim: Simulation) -> dict[str, str]:
    """A line for the plan."""
    schedule = sim.experiment.schedule
    if not isinstance(schedule, Asynchronous) or sim.clock is None:
        return {}
    concurrency = sim.experiment.sampler.limits(len(sim.clock.fitting))[1]
    size = schedule.buffer(concurrency)
    return {"schedule": f"{schedule.name}: {concurrency} clients at work at once, a version per {size} arrival(s)"}


def _order(sim: Simulation, clock: Clock, number: int) -> Tensor:
    """In which order clients are asked: the sampler's cohort of this number, shuffled, and then all the others.

    These are drawn one after another as the sampler draws: all alike, or in proportion to their samples.
    """
    clients, e = clock.fitting, sim.experiment
    chosen = torch.isin(clients, ask(sim, clock, 1.0, number)[0])
    drawn = seeding.uniforms(seeding.stream_key(e.seed, "schedule.order", number), clients)
    weights = sim.population.train.sizes[clients].double() if isinstance(e.sampler, WeightedBySize) else 1.0
    race = -(1 - drawn).log() / weights  # the first of these exponential times are a draw by weight
    return clients[torch.argsort(torch.where(chosen, drawn - 1, race), stable=True)]


def _refill(
    sim: Simulation, state: State, clock: Clock, number: int, order: Tensor, concurrency: int, queue: Queue
) -> None:
    """Ask idle clients, each once, until as many are at work as there should be."""
    slots = concurrency - len(queue.flying)
    busy = torch.tensor([flight.client for flight in (*queue.flying, *queue.buffer)], dtype=torch.int64)
    idle = order[~torch.isin(order, busy)]
    if slots <= 0 or len(idle) == 0:
        return
    e, system = sim.experiment, sim.experiment.system
    assert isinstance(system, Timed)
    # The first to be asked have the luck of a round of this number, and who is asked later has other luck each time.
    seed = e.seed if queue.turns == 0 else seeding.stream_key(e.seed, "schedule.turn", queue.turns)
    there = online(clock.fleet, idle, seed, number)
    asked = there.cumsum(0) - there.long() < slots
    given = idle[asked & there]
    queue.turns += 1
    queue.dropped += int((asked & ~there).sum())
    queue.informed.append(given)
    stays = stay(system, given, seed, number)
    seconds = client_seconds(sim, state, given, sim.task.steps(given), number) * stays
    for client, after, share in zip(given.tolist(), seconds.tolist(), stays.tolist(), strict=True):
        heappush(queue.flying, Flight(queue.now + after, client, number - 1, share < 1))


def _read(state: State) -> list[Flight]:
    """A heap of who is at work."""
    if "schedule.clients" not in state.parts:
        return []
    columns = (state.parts[f"schedule.{name}"].tolist() for name in ("finish", "clients", "versions", "vanishes"))
    return sorted(Flight(*row) for row in zip(*columns, strict=True))


def _written(flying: list[Flight], state: State, version: int) -> dict[str, Tensor]:
    """Who is at work and the models that they were given, for `State.parts`."""
    if not flying:
        return {}
    flights = sorted(flying)
    parts = {
        "schedule.finish": torch.tensor([flight.finish for flight in flights], dtype=torch.float64),
        "schedule.clients": torch.tensor([flight.client for flight in flights]),
        "schedule.versions": torch.tensor([flight.version for flight in flights]),
        "schedule.vanishes": torch.tensor([flight.vanishes for flight in flights]),
    }
    for needed in {flight.version for flight in flights if not flight.vanishes}:
        name = f"schedule.row.{needed}"
        parts[name] = state.row if needed == version else state.parts[name]
    return parts
