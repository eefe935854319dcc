"""What ``aggregator=`` chooses: three parts that can be swapped one by one."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.aggregation.rules import Combine
from fedsim.clients.corrections import Correction
from fedsim.server import ServerOptimizer


@dataclass(frozen=True, kw_only=True)
class Aggregator:
    """A federated algorithm as the sum of its parts.

    Attributes:
        combine: deltas ``[C, P]`` to one delta ``[P]``.
        server_optimizer: how that delta moves the global row.
        correction: what is added to the clients' gradients.
    """

    combine: Combine
    server_optimizer: ServerOptimizer
    correction: Correction
