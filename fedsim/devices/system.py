"""Systems: the devices of the clients, and the rules by which the server waits for them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fedsim.clients.engine import training_bytes
from fedsim.core.cohort import Cohort
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Federation, Round, System
from fedsim.core.results import Metrics
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.devices.clock import Clock, Fleet, ending, online, sample_flops, stay, transfer
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of
from fedsim.metrics import COLUMNS, Column
from fedsim.samplers.choose import choose_cohort
from fedsim.samplers.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor

MOST_DROPOUT = 0.99
"""The highest dropout at which a server that waits for a number of arrivals does not wait (almost) for ever."""

SECONDS = "virtual_seconds"
"""The drawer entry of the virtual seconds of all rounds so far."""


@dataclass(frozen=True)
class NoSystem(System):
    """All devices are alike, every client is online and arrives, and time is not counted."""

    facts: ClassVar[Facts] = frozenset()

    def cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Return the sampler's cohort, all of which arrives."""
        clients, informed = choose_cohort(federation, state, round_number)
        return Cohort(clients, federation.task.steps(clients), informed)


@dataclass(frozen=True, kw_only=True)
class Timed(System, ABC):
    """What all systems have in common: how long the server waits, and for which clients.

    Attributes:
        latency: virtual seconds from asking a client to the first byte, the same for every client and round.
        over_selection: factor on the number of clients that are asked. The first to finish are kept, as many as the
            sampler would have asked.
        min_clients: fewest arrivals with which a round counts; with fewer it is given up and changes nothing.
        dropout: probability that a client that is online vanishes in the middle of a round.
        deadline: virtual seconds after which a round ends at the latest, or None.
        late: what happens to clients that would miss the deadline: ``drop`` leaves them out; ``partial`` lets them take
            as many local steps as they have time for, and leaves out those without time for a single one.
    """

    latency: float = 0.1
    over_selection: float = 1.0
    min_clients: int = 1
    dropout: float = 0.0
    deadline: float | None = None
    late: str = "drop"

    facts: ClassVar[Facts] = frozenset({Fact.TIMED, Fact.EXCHANGES})
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["dropped"], COLUMNS["virtual_seconds"])
    origin: ClassVar[str]
    """Where the devices come from, in a word or two, for ``--dry-run``."""

    def __post_init__(self) -> None:
        check_between(self, 0, 1e9, "latency")
        check_between(self, 1, 1e6, "over_selection")
        check_at_least(self, 1, "min_clients")
        check_between(self, 0, 1, "dropout", open_high=True)
        check_above(self, 0, "deadline")
        check_one_of(self, "late", ("drop", "partial"))
        if self.late == "partial" and self.deadline is None:
            raise FieldError("late", self.late, "nobody is late without a deadline; set system.deadline")
        if self.deadline is not None and self.deadline <= self.latency:
            raise FieldError("deadline", self.deadline, f"must be greater than the latency of {self.latency:g} s")

    @abstractmethod
    def fleet(self, names: Sequence[str], seed: int) -> Fleet:
        """Return the devices of the clients with these names.

        Raises:
            UserError: if some client has no device.
        """

    @abstractmethod
    def always_there(self) -> bool:
        """Whether every client is online whenever it is asked."""

    def conditional_facts(self) -> Mapping[Fact, str]:
        """The facts that follow from the rules about the end of a round."""
        return {
            **({Fact.DEADLINE: f"system.deadline={self.deadline:g}"} if self.deadline is not None else {}),
            **(
                {Fact.OVER_SELECTS: f"system.over_selection={self.over_selection:g}"} if self.over_selection > 1 else {}
            ),
            **({Fact.NEEDS_ARRIVALS: f"system.min_clients={self.min_clients}"} if self.min_clients > 1 else {}),
            **({Fact.HARDLY_ARRIVES: f"system.dropout={self.dropout:g}"} if self.dropout > MOST_DROPOUT else {}),
            **({Fact.SHORTENS: "system.late=partial"} if self.late == "partial" else {}),
        }

    def check_clients(self, setting: Setting) -> None:
        """Refuse options that have no effect with the sampler's cohorts, or that no round could satisfy."""
        (smallest, largest), num_clients = setting.sampled, setting.num_clients
        if self.over_selection > 1 and largest == num_clients:
            raise UserError(
                f"system.over_selection={self.over_selection:g}: has no effect where all {num_clients} client(s) are "
                "asked anyway; take a smaller sampler.fraction or sampler.cohort_size"
            )
        if self.min_clients > largest:
            raise UserError(f"system.min_clients={self.min_clients}: a round has at most {largest} client(s)")
        if 1 < self.min_clients <= smallest and not self.loses():
            raise UserError(
                f"system.min_clients={self.min_clients}: has no effect where all of at least {smallest} clients "
                "arrive; set a dropout, a deadline or an availability, or take system.min_clients=1"
            )

    def loses(self) -> bool:
        """Whether clients that are asked may fail to arrive, not counting the surplus of over-selection."""
        return self.dropout > 0 or self.deadline is not None or not self.always_there()

    def cohort_sizes(self, smallest: int, largest: int) -> tuple[int, int]:
        """Return `smallest` and `largest`, with `min_clients` as the smallest if clients may fail to arrive."""
        return (self.min_clients if self.loses() else max(smallest, self.min_clients)), largest

    def bind(self, bound: Bound) -> TimedInRun:
        """Give the clients devices, and find those with enough memory to train.

        Raises:
            UserError: if some client has no device, or none has enough memory.
        """
        population = bound.population
        fleet = self.fleet(population.client_names, bound.seed)
        needed = training_bytes(bound.task, bound.dtype)
        fitting = (fleet.memory_mb * 1e6 >= needed).nonzero()[:, 0]
        clock = Clock(fleet, self.latency, sample_flops(bound.task, bound.gradients), fitting)
        short = population.num_clients - len(fitting)
        if short > 0:
            left = f"{short} of {population.num_clients} clients have"
            message = f"{left} less memory than training takes ({int(needed.min()) / 1e6:,.1f} MB or more)"
            if len(fitting) == 0:
                raise UserError(f"system: {message}; take a smaller model or client.batch_size, or more memory")
            if Fact.PRIVATE_MEAN in bound.facts:
                raise UserError(
                    f"system: {message}. That depends on their data, and who is left decides how likely the others are "
                    "drawn, which the accountant does not know; take a smaller model or more memory"
                )
        return TimedInRun(self, clock, bound.seed, bound.sampler, short)


@dataclass(frozen=True)
class TimedInRun(System):
    """A system, bound to a population and a task.

    How long clients take depends on their devices, their data and the bytes they exchange, but not on what they learn.
    So it is known before any client trains, and only those that arrive are trained: one that does not arrive leaves no
    trace, except that the model was sent to it.

    Attributes:
        settings: the rules by which the server waits.
        clock: how long clients take.
        seed: the run's seed.
        sampler: draws the clients that are asked.
        short: how many clients have too little memory to train.
    """

    settings: Timed
    clock: Clock
    seed: int
    sampler: Any
    short: int

    def eligible(self, num_clients: int) -> int:
        """Return the number of clients with enough memory."""
        return len(self.clock.fitting)

    def start(self, row: Tensor) -> Drawer:
        """Return a virtual clock at 0 seconds."""
        return {SECONDS: torch.zeros((), dtype=torch.float64)}

    def close(self, round: Round) -> None:
        """Advance the clock by the duration of the round."""
        drawer = round.drawer(self)
        drawer[SECONDS] = drawer[SECONDS] + round.cohort.seconds

    def measure(self, round: Round) -> Metrics:
        """Return how many asked clients did not arrive, and the virtual time so far."""
        return {"dropped": round.cohort.dropped, "virtual_seconds": float(round.drawer(self)[SECONDS])}

    def summary(self, state: State) -> dict[str, Any]:
        """Return the virtual time of the run so far."""
        return {"virtual_seconds": float(state.drawers[self.group][SECONDS])}

    def fingerprint(self) -> list[Tensor]:
        """Return the columns of the fleet, which may come from a file that can change."""
        return [getattr(self.clock.fleet, column.name) for column in fields(Fleet)]

    def introduce(self) -> list[str]:
        """Return a line if some clients have too little memory, else none."""
        if self.short == 0:
            return []
        count = self.short + len(self.clock.fitting)
        return [f"{self.short} of {count} clients have too little memory to train and are never asked"]

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Show how long clients and round 1 take on the virtual clock."""
        clients, fleet = self.clock.fitting, self.clock.fleet
        speed, down, up = (float(column.median()) for column in (fleet.gflops, fleet.down_mbps, fleet.up_mbps))
        seconds = self.client_seconds(federation, state, clients, federation.task.steps(clients), 1)
        places = torch.tensor([0, 0.5, 0.9, 1], dtype=torch.float64)
        low, median, high, top = torch.quantile(seconds, places).tolist()
        arrive = f"; {len(cohort.clients)} of {len(cohort.clients) + cohort.dropped} asked arrive"
        left_out = self.introduce()
        return {
            "devices": f"{self.settings.origin}; medians {speed:.3g} Gflop/s, {down:.3g} Mbit/s down, "
            f"{up:.3g} Mbit/s up",
            "seconds of a client": f"min {low:.4g}, median {median:.4g}, 90% within {high:.4g}, "
            f"max {top:.4g} (virtual)",
            "seconds of round 1": f"{cohort.seconds:.4g} (virtual)" + ("" if cohort.versions is not None else arrive),
            **({"left out": left_out[0]} if left_out else {}),
        }

    def check_bound(self, federation: Federation, state: State) -> None:
        """Refuse a deadline that no client can ever meet."""
        deadline, clients = self.settings.deadline, self.clock.fitting
        if deadline is None:
            return
        steps = federation.task.steps(clients)
        least = torch.ones_like(steps) if self.settings.late == "partial" else steps
        traffic = federation.traffic(state, clients[:1], 1)
        # With a lossy downlink, later rounds send less than the first; no download at all is a lower bound.
        down = torch.tensor(0) if Fact.LOSSY_DOWN in federation.bound.facts else traffic.down[0]
        samples = federation.task.samples(clients, least)
        fastest = float(self.clock.seconds(clients, samples, down, torch.tensor(traffic.up)).min())
        if fastest > deadline:
            what = "a single local step" if self.settings.late == "partial" else "its local steps"
            raise UserError(
                f"system.deadline={deadline:g}: no client makes it; with {what} the fastest takes {fastest:.4g} "
                "virtual seconds"
            )

    def client_seconds(
        self, federation: Federation, state: State, clients: Tensor, steps: Tensor, round_number: int
    ) -> Tensor:
        """Virtual seconds ``[k]`` that clients ``[k]`` need for `steps` ``[k]`` local steps and their messages."""
        traffic = federation.traffic(state, clients, round_number)
        samples = federation.task.samples(clients, steps)
        return self.clock.seconds(clients, samples, traffic.down, torch.tensor(traffic.up))

    def ask(self, federation: Federation, over_selection: float, round_number: int) -> tuple[Tensor, int]:
        """Return the clients ``[A]`` that are asked, and how many of them are wanted."""
        sizes = federation.population.train.sizes[self.clock.fitting]

        def drawn(sampler: Sampler) -> Tensor:
            return sampler.cohort(sizes, round_number, self.seed, _refuse_losses)

        asked = drawn(self.sampler)
        wanted = len(asked)
        if over_selection > 1 and wanted > 0:
            count = math.ceil(round(over_selection * wanted, 9))  # 1.1 * 10 is a little more than 11
            asked = drawn(self.sampler.resized(min(count, len(sizes))))
        return self.clock.fitting[asked], wanted

    def cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Draw the clients that are asked, and return those that arrive before the round ends."""
        rules, task, clock = self.settings, federation.task, self.clock
        asked, wanted = self.ask(federation, rules.over_selection, round_number)
        there = asked[online(clock.fleet, asked, self.seed, round_number)]
        steps = task.steps(there)
        seconds = self.client_seconds(federation, state, there, steps, round_number)
        if rules.late == "partial":
            steps, seconds = self._shortened(federation, state, there, steps, seconds, round_number)
        stays = stay(rules.dropout, there, self.seed, round_number)
        kept, end = ending(rules, seconds, stays, wanted)
        late = (stays == 1) & ~kept
        traffic = federation.traffic(state, there, round_number)
        sending = transfer(torch.tensor(traffic.up), clock.fleet.up_mbps[there[late]])
        share = (1 - (seconds[late] - end) / sending).clamp(0, 1)
        sent = (traffic.up * share + 1e-6).floor().long()  # a product just below a whole number is that number
        sent = (sent - traffic.before).clamp(min=0)  # `before` is counted for every client whose row does not arrive
        return Cohort(
            clients=there[kept],
            steps=steps[kept],
            informed=there,
            dropped=len(asked) - int(kept.sum()),
            seconds=end,
            late=there[late][sent > 0],
            late_bytes=int(sent.sum()),
        )

    def _shortened(
        self,
        federation: Federation,
        state: State,
        clients: Tensor,
        steps: Tensor,
        seconds: Tensor,
        round_number: int,
    ) -> tuple[Tensor, Tensor]:
        """The steps ``[k]`` that clients have time for, and when they finish; without time for one, they stay late."""
        deadline = self.settings.deadline
        assert deadline is not None, "checked in __post_init__"
        spare = deadline - self.client_seconds(federation, state, clients, torch.zeros_like(steps), round_number)
        possible = federation.task.steps_within(clients, self.clock.samples_in(clients, spare.clamp(min=0)))
        short = (seconds > deadline) & (possible > 0)
        steps = torch.where(short, torch.minimum(possible, steps), steps)
        done = self.client_seconds(federation, state, clients, steps, round_number)
        return steps, torch.where(short, done.clamp(max=deadline), done)


def _refuse_losses(clients: Tensor) -> Tensor:
    raise UserError("sampler: asks clients for their losses, which takes time that the virtual clock does not know")
