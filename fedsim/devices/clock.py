"""The virtual clock: how long what clients do takes, and when a round is over. It never looks at a real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.clients.task import LocalTask
from fedsim.models.macs import macs_per_sequence, macs_per_step

BACKWARD = 2
"""Products of a backward pass for every one of the forward pass: one for the inputs, one for the weights."""


@dataclass(frozen=True)
class Fleet:
    """The devices of all clients.

    Attributes:
        gflops: ``[N]`` float64, speed in training: 10^9 floating-point operations per second.
        down_mbps: ``[N]`` float64, 10^6 bits per second from the server.
        up_mbps: ``[N]`` float64, the same to the server.
        memory_mb: ``[N]`` float64, 10^6 bytes for training; infinite where nothing is known.
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
        fleet: the devices.
        latency: virtual seconds.
        flops: ``[N]`` float64, floating-point operations of training on one of a client's samples.
        fitting: ``[M]`` int64, the clients with enough memory to train, ascending.
    """

    fleet: Fleet
    latency: float
    flops: Tensor
    fitting: Tensor

    def seconds(self, clients: Tensor, samples: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Virtual seconds ``[C]`` float64 from the question until the last byte of the answer is there.

        ``latency + down / bandwidth + samples * flops / speed + up / bandwidth``.

        Args:
            clients: ``[C]`` int64 client numbers.
            samples: ``[C]`` int64, how many samples they go through; see `LocalTask.samples`.
            down: bytes, ``[C]`` or one number for all.
            up: bytes, ``[C]`` or one number for all.
        """
        work = samples * self.flops[clients] / (1e9 * self.fleet.gflops[clients])
        download = transfer(down, self.fleet.down_mbps[clients])
        return self.latency + download + work + transfer(up, self.fleet.up_mbps[clients])

    def samples_in(self, clients: Tensor, seconds: Tensor) -> Tensor:
        """``[C]`` int64, how many samples clients can go through in so many virtual seconds ``[C]``."""
        count = seconds * 1e9 * self.fleet.gflops[clients] / self.flops[clients]
        return (count + 1e-9).clamp(0, 2**53).floor().long()  # a quotient just below a whole number is that number


def transfer(count: Tensor, mbps: Tensor) -> Tensor:
    """Virtual seconds for so many bytes at so many 10^6 bits per second."""
    return 8e-6 * count.double() / mbps


def sample_flops(task: LocalTask, trainings: int) -> Tensor:
    """Floating-point operations ``[N]`` float64 of training on one of each client's samples, of mean valid length.

    Two per multiply-accumulate, and three passes: forward, and backward at the cost of two. The mean is over the
    client's training samples, whichever of them a shortened round sees.

    Args:
        task: what clients train.
        trainings: gradients that are computed of a sample.
    """
    samples = task.population.train
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), samples.lengths.cumsum(0)])[samples.offsets]
    mean_length = (ends[1:] - ends[:-1]).double() / samples.sizes
    macs = mean_length * macs_per_step(task.arch) + macs_per_sequence(task.arch)
    return 2.0 * (1 + BACKWARD) * trainings * macs


class EndingRules(Protocol):
    """When a server stops waiting."""

    @property
    def deadline(self) -> float | None:
        """Virtual seconds from the beginning of a round, or None."""
        ...

    @property
    def min_clients(self) -> int:
        """Fewest arrivals that make a round."""
        ...


class Ending(NamedTuple):
    """How a round ends.

    Attributes:
        kept: ``[k]`` bool, whose deltas are combined.
        seconds: how long it lasts.
    """

    kept: Tensor
    seconds: float


def ending(rules: EndingRules, seconds: Tensor, stays: Tensor, wanted: int) -> Ending:
    """When a round ends, and who has arrived by then.

    The server keeps the first `wanted` clients and closes. It notices at once when a client is gone, and closes too
    when all that are left have arrived or are gone, or at the deadline.

    Args:
        rules: deadline and fewest clients.
        seconds: ``[k]`` float64, when each client that is online would have sent its last byte.
        stays: ``[k]`` float64, the share of this time after which it vanishes; 1 if it does not.
        wanted: arrivals that the server waits for.
    """
    deadline = torch.inf if rules.deadline is None else rules.deadline
    arrives = (stays == 1) & (seconds <= deadline)
    order = torch.argsort(torch.where(arrives, seconds, torch.inf), stable=True)  # of equal times the first client's
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

    A higher probability of dropping out only adds to those who do. The moment is uniform over the client's time.
    """
    if dropout == 0:
        return torch.ones(len(clients), dtype=torch.float64)
    drawn = seeding.uniforms(seeding.stream_key(seed, "system.dropout", round_number), clients)
    return (drawn / dropout).clamp(max=1.0)


def online(fleet: Fleet, clients: Tensor, seed: int, round_number: int) -> Tensor:
    """Which clients ``[C]`` are there when they are asked in a round, bool."""
    drawn = seeding.uniforms(seeding.stream_key(seed, "system.online", round_number), clients)
    return drawn < fleet.availability[clients]
