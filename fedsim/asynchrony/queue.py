"""Which clients arrive for the next version of the model: clients at work as events on the virtual clock.

When clients arrive does not depend on what they learn. So the queue runs ahead, without training, until the buffer is
full; then all clients in it train in one stack, each from the model that it was given. For this, the models of clients
still at work are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from fedsim import seeding
from fedsim.core.cohort import Cohort
from fedsim.core.facts import Fact, facts_of
from fedsim.core.part import Federation, Schedule
from fedsim.core.state import State
from fedsim.devices.clock import online, stay
from fedsim.devices.system import SECONDS, TimedInRun

if TYPE_CHECKING:
    from torch import Tensor

GROUP = Schedule.group

SAME = 1e-12
"""Times whose relative difference is smaller are equal up to rounding."""


class Flight(NamedTuple):
    """A client at work; flights sort by time, then by client.

    Attributes:
        finish: virtual time at which its last byte arrives, or at which it vanishes.
        client: its client number.
        version: version of the model that it was given.
        vanishes: whether it drops out before it arrives.
    """

    finish: float
    client: int
    version: int
    vanishes: bool


@dataclass
class Queue:
    """The events between two versions of the model.

    Attributes:
        now: virtual time in seconds.
        flying: a heap of the clients at work.
        buffer: the clients that have arrived.
        informed: the clients to which a model was sent, one tensor per turn.
        dropped: how many clients were asked but were offline, or have vanished.
        turns: how many times clients have been asked.
    """

    now: float
    flying: list[Flight]
    buffer: list[Flight] = field(default_factory=list)
    informed: list[Tensor] = field(default_factory=list)
    dropped: int = 0
    turns: int = 0

    def land(self, size: int) -> None:
        """Land all flights that are due: the lowest client numbers fill the buffer, the rest wait for the next one."""
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


def fill_buffer(buffer: Callable[[int], int], federation: Federation, state: State, round_number: int) -> Cohort:
    """Return the clients that make the next version of the model; changes no state.

    Args:
        buffer: returns how many arrivals make a version, given how many clients are at work at once.
        federation: the federation, whose system has a clock.
        state: the state before the round.
        round_number: number of the next version.
    """
    system = cast(TimedInRun, federation.system)  # a schedule without a clock is refused
    concurrency = system.sampler.limits(len(system.clock.fitting))[1]
    size = buffer(concurrency)
    now = float(state.drawers[system.group][SECONDS])
    queue, order = Queue(now, _read(state)), _order(system, federation, round_number)
    while True:
        queue.land(size)
        if len(queue.buffer) == size:
            break
        _refill(system, federation, state, round_number, order, concurrency, queue)
        if not queue.flying:  # no client is online: give up this version, and keep the buffer for the next
            queue.flying, queue.buffer = queue.buffer, []
            break
        queue.now = max(queue.now, queue.flying[0].finish)
    arrived = sorted(queue.buffer, key=lambda flight: flight.client)
    clients = torch.tensor([flight.client for flight in arrived], dtype=torch.int64)
    no_clients = torch.zeros(0, dtype=torch.int64)
    return Cohort(
        clients=clients,
        steps=federation.task.steps(clients),
        informed=torch.cat([no_clients, *queue.informed]),
        versions=torch.tensor([flight.version for flight in arrived], dtype=torch.int64),
        dropped=queue.dropped,
        seconds=queue.now - now,
        waiting=_written(queue.flying, state, round_number - 1),
    )


def given_rows(state: State, versions: Tensor) -> Tensor:
    """The models ``[c, P]`` of `versions` ``[c]``, or ``[P]`` if all are the newest."""
    newest = state.round
    if bool((versions == newest).all()):
        return state.row
    drawer = state.drawers[GROUP]
    return torch.stack([state.row if v == newest else drawer[f"row.{v}"] for v in versions.tolist()])


def is_whole(state: State, round_number: int) -> bool:
    """Whether the clients at work after a round, if the state has any, could have been written by `fill_buffer`.

    A state may come from a file of someone else: a time that is no number would never be reached.
    """
    drawer, names = state.drawers.get(GROUP, {}), {"finish", "clients", "versions", "vanishes"}
    columns = [drawer[name] for name in sorted(names & drawer.keys())]
    if not drawer:
        return True
    types = {"finish": torch.float64, "clients": torch.int64, "versions": torch.int64, "vanishes": torch.bool}
    if len(columns) < len(names) or any(drawer[name].dtype != kind for name, kind in types.items()):
        return False
    clients, versions = drawer["clients"], drawer["versions"]
    if any(column.ndim != 1 or len(column) != len(clients) for column in columns):
        return False
    rows = {name: row for name, row in drawer.items() if name not in names}
    needed = {f"row.{version}" for version in versions[~drawer["vanishes"]].tolist()}
    return (
        bool(torch.isfinite(drawer["finish"]).all())
        and bool(((clients >= 0) & (clients < state.store.num_clients)).all())
        and len(clients.unique()) == len(clients)
        and bool(((versions >= 0) & (versions <= round_number)).all())
        and needed <= rows.keys()
        and all((row.shape, row.dtype) == (state.row.shape, state.row.dtype) for row in rows.values())
    )


def _order(system: TimedInRun, federation: Federation, round_number: int) -> Tensor:
    """The order in which clients are asked: the sampler's cohort of this round, shuffled, and then all other clients.

    The latter are drawn one after another as the sampler draws: uniformly, or in proportion to their samples.
    """
    clients = system.clock.fitting
    chosen = torch.isin(clients, system.ask(federation, 1.0, round_number)[0])
    drawn = seeding.uniforms(seeding.stream_key(system.seed, "schedule.order", round_number), clients)
    by_size = Fact.ASKS_SIZES in facts_of("sampler", system.sampler)
    weights = federation.population.train.sizes[clients].double() if by_size else 1.0
    race = -(1 - drawn).log() / weights  # ascending exponential times are a draw by weight
    return clients[torch.argsort(torch.where(chosen, drawn - 1, race), stable=True)]


def _refill(
    system: TimedInRun,
    federation: Federation,
    state: State,
    round_number: int,
    order: Tensor,
    concurrency: int,
    queue: Queue,
) -> None:
    """Ask idle clients, each once, until `concurrency` clients are at work."""
    slots = concurrency - len(queue.flying)
    busy = torch.tensor([flight.client for flight in (*queue.flying, *queue.buffer)], dtype=torch.int64)
    idle = order[~torch.isin(order, busy)]
    if slots <= 0 or len(idle) == 0:
        return
    # The first turn draws availability and dropouts as a synchronous round would; each later turn has its own stream.
    seed = system.seed if queue.turns == 0 else seeding.stream_key(system.seed, "schedule.turn", queue.turns)
    there = online(system.clock.fleet, idle, seed, round_number)
    asked = there.cumsum(0) - there.long() < slots
    given = idle[asked & there]
    queue.turns += 1
    queue.dropped += int((asked & ~there).sum())
    queue.informed.append(given)
    stays = stay(system.settings.dropout, given, seed, round_number)
    steps = federation.task.steps(given)
    seconds = system.client_seconds(federation, state, given, steps, round_number) * stays
    for client, after, share in zip(given.tolist(), seconds.tolist(), stays.tolist(), strict=True):
        heappush(queue.flying, Flight(queue.now + after, client, round_number - 1, share < 1))


def _read(state: State) -> list[Flight]:
    """The clients at work, as a heap."""
    drawer = state.drawers.get(GROUP, {})
    if "clients" not in drawer:
        return []
    columns = (drawer[name].tolist() for name in ("finish", "clients", "versions", "vanishes"))
    return sorted(Flight(*row) for row in zip(*columns, strict=True))


def _written(flying: list[Flight], state: State, version: int) -> dict[str, Tensor]:
    """The clients at work and the models that they were given, for the drawer."""
    if not flying:
        return {}
    flights = sorted(flying)
    kept = {
        "finish": torch.tensor([flight.finish for flight in flights], dtype=torch.float64),
        "clients": torch.tensor([flight.client for flight in flights]),
        "versions": torch.tensor([flight.version for flight in flights]),
        "vanishes": torch.tensor([flight.vanishes for flight in flights]),
    }
    for needed in {flight.version for flight in flights if not flight.vanishes}:
        name = f"row.{needed}"
        kept[name] = state.row if needed == version else state.drawers[GROUP][name]
    return kept
