"""The virtual clock: how long each client's work takes, and when a round ends. It never reads the real time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from fedsim import seeding
from fedsim.clients.task import LocalTask
from fedsim.models.macs import macs_per_sequence, macs_per_step

if TYPE_CHECKING:
    from torch import Tensor

BACKWARD = 2
"""Products in the backward pass per product in the forward pass: one for the inputs, one for the weights."""


@dataclass(frozen=True)
class Fleet:
    """The devices of all clients.

    Attributes:
        gflops: ``[N]`` float64, training speed in 10^9 floating-point operations per second.
        down_mbps: ``[N]`` float64, bandwidth from the server in 10^6 bits per second.
        up_mbps: ``[N]`` float64, bandwidth to the server in 10^6 bits per second.
        memory_mb: ``[N]`` float64, memory for training in 10^6 bytes; infinite if unknown.
        availability: ``[N]`` float64, probability of being online when asked.
    """

    gflops: Tensor
    down_mbps: Tensor
    up_mbps: Tensor
    memory_mb: Tensor
    availability: Tensor


@dataclass(frozen=True)
class Clock:
    """How fast clients work on a task.

    Attributes:
        fleet: the clients' devices.
        latency: virtual seconds that every exchange takes, whatever its size.
        flops: ``[N]`` float64, floating-point operations of training on one of a client's samples.
        fitting: ``[M]`` int64, the clients with enough memory to train, ascending.
    """

    fleet: Fleet
    latency: float
    flops: Tensor
    fitting: Tensor

    def seconds(self, clients: Tensor, samples: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Virtual seconds ``[C]`` float64 from asking a client until the last byte of its answer arrives.

        ``latency + down / bandwidth + samples * flops / speed + up / bandwidth``.

        Args:
            clients: ``[C]`` int64 client numbers.
            samples: ``[C]`` int64, how many samples they process; see `LocalTask.samples`.
            down: bytes that they receive, ``[C]`` or one number for all.
            up: bytes that they send, ``[C]`` or one number for all.
        """
        work = samples * self.flops[clients] / (1e9 * self.fleet.gflops[clients])
        download = transfer(down, self.fleet.down_mbps[clients])
        return self.latency + download + work + transfer(up, self.fleet.up_mbps[clients])

    def samples_in(self, clients: Tensor, seconds: Tensor) -> Tensor:
        """``[C]`` int64, how many samples clients can process in `seconds` ``[C]`` of virtual time."""
        count = seconds * 1e9 * self.fleet.gflops[clients] / self.flops[clients]
        return (count + 1e-9).clamp(0, 2**53).floor().long()  # a quotient just below a whole number is that number


def transfer(count: Tensor, mbps: Tensor) -> Tensor:
    """Virtual seconds that `count` bytes take at `mbps` 10^6 bits per second."""
    return 8e-6 * count.double() / mbps


def sample_flops(task: LocalTask, trainings: int) -> Tensor:
    """Floating-point operations ``[N]`` float64 of training on one sample of mean valid length, for each client.

    Two per multiply-accumulate, and three passes: forward, and backward at the cost of two. The mean is over all of the
    client's training samples, even if a shortened round uses only some of them.

    Args:
        task: what the clients train.
        trainings: how many gradients are computed per sample.
    """
    samples = task.population.train
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), samples.lengths.cumsum(0)])[samples.offsets]
    mean_length = (ends[1:] - ends[:-1]).double() / samples.sizes
    macs = mean_length * macs_per_step(task.arch) + macs_per_sequence(task.arch)
    return 2.0 * (1 + BACKWARD) * trainings * macs


class EndingRules(Protocol):
    """The settings that decide when a server stops waiting."""

    @property
    def deadline(self) -> float | None:
        """Virtual seconds after which a round ends at the latest, or None."""
        ...

    @property
    def min_clients(self) -> int:
        """Fewest arrivals with which a round counts."""
        ...


class Ending(NamedTuple):
    """How a round ends.

    Attributes:
        kept: ``[k]`` bool, whether each client's delta is combined.
        seconds: virtual duration of the round.
    """

    kept: Tensor
    seconds: float


def ending(rules: EndingRules, seconds: Tensor, stays: Tensor, wanted: int) -> Ending:
    """Return when a round ends, and which clients have arrived by then.

    The server ends the round once it has the first `wanted` clients, once every client has arrived or vanished (which
    it notices at once), or at the deadline, whichever comes first.

    Args:
        rules: the deadline, and the fewest arrivals with which the round counts.
        seconds: ``[k]`` float64, when each client that is online would have sent its last byte.
        stays: ``[k]`` float64, the share of this time after which it vanishes; 1 if it does not.
        wanted: number of arrivals that the server waits for.
    """
    deadline = torch.inf if rules.deadline is None else rules.deadline
    arrives = (stays == 1) & (seconds <= deadline)
    order = torch.argsort(torch.where(arrives, seconds, torch.inf), stable=True)  # ties go to the first client
    first = order[: min(wanted, int(arrives.sum()))]
    kept = torch.zeros_like(arrives)
    kept[first] = True
    if len(seconds) == 0:
        end = 0.0
    elif len(first) == wanted:
        end = float(seconds[first].max())
    else:
        end = min(float((seconds * stays).max()), deadline)
    if len(first) < rules.min_clients:
        kept[:] = False
    return Ending(kept, end)


def stay(dropout: float, clients: Tensor, seed: int, round_number: int) -> Tensor:
    """The share ``[C]`` of its time for which each client stays in a round: 1, or less if it vanishes.

    With a higher `dropout`, the same clients and further ones vanish. The moment is uniform over the client's time.
    """
    if dropout == 0:
        return torch.ones(len(clients), dtype=torch.float64)
    drawn = seeding.uniforms(seeding.stream_key(seed, "system.dropout", round_number), clients)
    return (drawn / dropout).clamp(max=1.0)


def online(fleet: Fleet, clients: Tensor, seed: int, round_number: int) -> Tensor:
    """Which clients ``[C]`` are online when they are asked in a round, ``[C]`` bool."""
    drawn = seeding.uniforms(seeding.stream_key(seed, "system.online", round_number), clients)
    return drawn < fleet.availability[clients]
