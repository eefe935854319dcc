"""Who takes part in a round: whom the sampler asks, and which of them arrive in time on the virtual clock.

How long clients take follows from their devices, their data and the bytes on the way, and not from what they learn. So
it is known before anybody trains, and only those who arrive are trained: a client that does not is as if it never had
been asked, except that the model was sent to it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.clients.engine import training_bytes
from fedsim.clients.task import LocalTask
from fedsim.data.population import Population
from fedsim.devices.clock import Clock, ending, online, sample_flops, stay, transfer
from fedsim.devices.system import Timed
from fedsim.errors import UserError
from fedsim.federation.cohort import choose_cohort
from fedsim.federation.exchange import bytes_before_row, bytes_per_client, count_participations, download_sizes
from fedsim.federation.experiment import Experiment
from fedsim.federation.state import Metrics, Simulation, State
from fedsim.parallel.share import Share
from fedsim.personalization.personalization import Ditto
from fedsim.privacy.privacy import CentralPrivacy, LocalPrivacy
from fedsim.samplers.sampler import Sampler, Sized


class Arrivals(NamedTuple):
    """Who takes part in a round.

    Attributes:
        clients: ``[C]`` int64, those who train and whose deltas are combined, ascending.
        informed: ``[k]`` int64, all to whom a model was sent.
        steps: ``[C]`` int64 local steps, or None for those of the task.
        dropped: how many were asked and are not combined.
        seconds: of the round, virtual.
        late: ``[l]`` int64, clients that were cut off while they sent.
        late_bytes: what these had sent by then.
        versions: ``[C]`` int64, the version of the model that each of `clients` started from, or None for the newest.
        waiting: who is still at work under an asynchronous schedule, for `State.parts`, or None under another.
    """

    clients: Tensor
    informed: Tensor
    steps: Tensor | None = None
    dropped: int = 0
    seconds: float = 0.0
    late: Tensor | None = None
    late_bytes: int = 0
    versions: Tensor | None = None
    waiting: dict[str, Tensor] | None = None

    def part(self, share: Share) -> Arrivals:
        """The same with `clients`, and what is told of each, cut to a share of them."""
        steps = None if self.steps is None else share.of(self.steps)
        versions = None if self.versions is None else share.of(self.versions)
        return self._replace(clients=share.of(self.clients), steps=steps, versions=versions)


def make_clock(e: Experiment, population: Population, task: LocalTask) -> Clock | None:
    """The virtual clock of a run, or None if it has none.

    Raises:
        UserError: if there are no devices for the clients, or too few with enough memory.
    """
    system = e.system
    if not isinstance(system, Timed):
        return None
    fleet = system.fleet(population.client_names, e.seed)
    needed = training_bytes(task, e.torch_dtype())
    fitting = (fleet.memory_mb * 1e6 >= needed).nonzero()[:, 0]
    if len(fitting) < population.num_clients:
        left = f"{population.num_clients - len(fitting)} of {population.num_clients} clients have"
        told = f"{left} less memory than training takes ({int(needed.min()) / 1e6:,.1f} MB or more)"
        if len(fitting) == 0:
            raise UserError(f"system: {told}; take a smaller model or client.batch_size, or more memory")
        if isinstance(e.privacy, CentralPrivacy):
            raise UserError(
                f"system: {told}. That depends on their data, and who is left decides how likely the others are drawn, "
                "which the accountant of privacy=central_dp does not know; take a smaller model or more memory"
            )
        try:
            e.check_population(len(fitting))
        except UserError as error:
            raise UserError(f"{error} (system: {told})") from None
    return Clock(fleet, system.latency, sample_flops(task, trainings(e)), fitting)


def trainings(e: Experiment) -> int:
    """Gradients that a client computes of every sample of every pass: Ditto trains a second model."""
    return e.aggregator.correction.gradients + isinstance(e.personalize, Ditto)


def arrivals(sim: Simulation, state: State, number: int) -> Arrivals:
    """Ask clients in round `number` and see who arrives; changes nothing."""
    e, clock, system = sim.experiment, sim.clock, sim.experiment.system
    if clock is None or not isinstance(system, Timed):
        return Arrivals(*choose_cohort(sim, state, number))
    asked, wanted = ask(sim, clock, system.over_selection, number)
    there = asked[online(clock.fleet, asked, e.seed, number)]
    steps = sim.task.steps(there)
    seconds = client_seconds(sim, state, there, steps, number)
    if system.late == "partial":
        steps, seconds = _shortened(sim, state, there, steps, seconds, number)
    stays = stay(system, there, e.seed, number)
    kept, end = ending(system, seconds, stays, wanted)
    late = (stays == 1) & ~kept
    up, before = bytes_per_client(sim, len(there))[1], bytes_before_row(sim, len(there))
    sending = transfer(torch.tensor(up), clock.fleet.up_mbps[there[late]])
    share = (1 - (seconds[late] - end) / sending).clamp(0, 1)
    sent = (up * share + 1e-6).floor().long()  # a product just below a whole number is that number
    sent = (sent - before).clamp(min=0)  # which `count_bytes` counts of all whose rows do not arrive
    return Arrivals(
        there[kept], there, steps[kept], len(asked) - int(kept.sum()), end, there[late][sent > 0], int(sent.sum())
    )


def client_seconds(sim: Simulation, state: State, clients: Tensor, steps: Tensor, number: int) -> Tensor:
    """Virtual seconds ``[C]`` of clients for `steps` ``[C]`` local steps and their messages in round `number`."""
    assert sim.clock is not None
    down, up = download_sizes(sim, state, clients, number), bytes_per_client(sim, len(clients))[1]
    return sim.clock.seconds(clients, sim.task.samples(clients, steps), down, torch.tensor(up))


def count_time(sim: Simulation, state: State, coming: Arrivals) -> Metrics:
    """Move the clock of `state`, and give what the clock adds to the row of a round."""
    if sim.clock is None:
        return {}
    state.virtual_seconds += coming.seconds
    state.bytes_up += coming.late_bytes
    if coming.late is not None and isinstance(sim.experiment.privacy, LocalPrivacy):
        count_participations(state, coming.late)  # what they have sent spends privacy, whether it is used or not
    return {"dropped": coming.dropped, "virtual_seconds": state.virtual_seconds}


def refuse_hopeless(sim: Simulation) -> None:
    """Raise `UserError` if nobody can ever make the deadline."""
    system, clock = sim.experiment.system, sim.clock
    if clock is None or not isinstance(system, Timed) or system.deadline is None:
        return
    steps = sim.task.steps(clock.fitting)
    least = torch.ones_like(steps) if system.late == "partial" else steps
    down, up = bytes_per_client(sim, 1)
    if not sim.experiment.link.lossless_down:
        down = 0  # later rounds send less
    samples = sim.task.samples(clock.fitting, least)
    fastest = float(clock.seconds(clock.fitting, samples, torch.tensor(down), torch.tensor(up)).min())
    if fastest > system.deadline:
        what = "a single local step" if system.late == "partial" else "its local steps"
        raise UserError(
            f"system.deadline={system.deadline:g}: no client makes it; with {what} the fastest takes {fastest:.4g} "
            "virtual seconds"
        )


def describe_clock(sim: Simulation) -> list[str]:
    """One line for the start of a run if some clients have too little memory."""
    if sim.clock is None or len(sim.clock.fitting) == sim.population.num_clients:
        return []
    count = sim.population.num_clients - len(sim.clock.fitting)
    return [f"{count} of {sim.population.num_clients} clients have too little memory to train and are never asked"]


def ask(sim: Simulation, clock: Clock, over_selection: float, number: int) -> tuple[Tensor, int]:
    """The clients ``[A]`` that are asked, and how many of them are wanted."""
    e, sizes = sim.experiment, sim.population.train.sizes[clock.fitting]

    def cohort(sampler: Sampler) -> Tensor:
        return sampler.cohort(sizes, number, e.seed, _refuse_losses)

    asked = cohort(e.sampler)
    wanted = len(asked)
    if over_selection > 1 and isinstance(e.sampler, Sized):
        count = math.ceil(round(over_selection * wanted, 9))  # 1.1 * 10 is a little more than 11
        asked = cohort(replace(e.sampler, fraction=None, cohort_size=min(count, len(sizes)))) if wanted else asked
    return clock.fitting[asked], wanted


def _refuse_losses(clients: Tensor) -> Tensor:
    raise UserError("sampler: asks clients for their losses, which takes time that the virtual clock does not know")


def _shortened(
    sim: Simulation, state: State, clients: Tensor, steps: Tensor, seconds: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """The steps ``[k]`` that clients have time for, and when they are done; who has no time for one stays late."""
    system, clock = sim.experiment.system, sim.clock
    assert clock is not None
    assert isinstance(system, Timed)
    assert system.deadline is not None
    spare = system.deadline - client_seconds(sim, state, clients, torch.zeros_like(steps), number)
    possible = sim.task.steps_within(clients, clock.samples_in(clients, spare.clamp(min=0)))
    short = (seconds > system.deadline) & (possible > 0)
    steps = torch.where(short, torch.minimum(possible, steps), steps)
    done = client_seconds(sim, state, clients, steps, number)
    return steps, torch.where(short, done.clamp(max=system.deadline), done)
