"""``system=devices``: devices drawn from distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.devices.clock import Fleet
from fedsim.devices.system import Timed
from fedsim.errors import FieldError, check_above, check_between

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1e9
"""Largest median allowed, so that times stay finite whatever is drawn."""


@dataclass(frozen=True, kw_only=True)
class Devices(Timed):
    """Speed, bandwidths and memory are log-normal: ``median * exp(spread * z)`` with a standard normal z.

    Two thirds of the clients lie within a factor of ``exp(spread)`` of the median, 1.6 for a spread of 0.5; with a
    spread of 0 all are equal. The four are drawn independently of each other and of the clients' data, once per run.
    The default medians are round numbers, not measurements of any device: set them to fit yours.

    Attributes:
        gflops: median training speed, in 10^9 floating-point operations per second actually achieved.
        gflops_spread: spread of the speed.
        down_mbps: median bandwidth from the server, 10^6 bits per second.
        down_spread: spread of the bandwidth from the server.
        up_mbps: median bandwidth to the server, 10^6 bits per second.
        up_spread: spread of the bandwidth to the server.
        memory_mb: median memory for training, 10^6 bytes; None is unlimited. Clients with less than training needs are
            never asked.
        memory_spread: spread of the memory.
        availability: probability that a client is online when it is asked.
    """

    gflops: float = 1.0
    gflops_spread: float = 0.5
    down_mbps: float = 20.0
    down_spread: float = 0.5
    up_mbps: float = 5.0
    up_spread: float = 0.5
    memory_mb: float | None = 1000.0
    memory_spread: float = 0.5
    availability: float = 1.0

    origin: ClassVar[str] = "drawn"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "gflops", "down_mbps", "up_mbps", "memory_mb", "availability")
        check_between(self, 1 / LARGEST, LARGEST, "gflops", "down_mbps", "up_mbps", "memory_mb")
        check_between(self, 0, 5, "gflops_spread", "down_spread", "up_spread", "memory_spread")
        check_between(self, 0, 1, "availability")
        if self.memory_mb is None and self.memory_spread > 0:
            raise FieldError("memory_spread", self.memory_spread, "has no effect with memory_mb=null; set it to 0")

    def fleet(self, names: Sequence[str], seed: int) -> Fleet:
        """Draw the devices of the clients; each quantity has its own random stream, keyed by client."""
        clients = torch.arange(len(names))

        def drawn(name: str, median: float, spread: float) -> Tensor:
            z = seeding.normals(seeding.stream_key(seed, f"system.{name}"), clients)
            return median * (spread * z).exp()

        return Fleet(
            drawn("gflops", self.gflops, self.gflops_spread),
            drawn("down", self.down_mbps, self.down_spread),
            drawn("up", self.up_mbps, self.up_spread),
            drawn("memory", torch.inf if self.memory_mb is None else self.memory_mb, self.memory_spread),
            torch.full((len(names),), self.availability, dtype=torch.float64),
        )

    def always_there(self) -> bool:
        """Whether `availability` is 1."""
        return self.availability == 1
