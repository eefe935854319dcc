"""What ``aggregator=`` selects: three parts, each of which can be replaced on its own."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.aggregation.rules import Combine
from fedsim.core.part import Correction
from fedsim.server.optimizers import ServerOptimizer


@dataclass(frozen=True, kw_only=True)
class Aggregator:
    """A federated algorithm as the sum of its parts.

    Attributes:
        combine: how deltas ``[C, P]`` become one delta ``[P]``.
        server_optimizer: how that delta moves the global row.
        correction: what is added to the clients' gradients.
        blocks: the parameter blocks (embedding, recurrent, head) that are aggregated; None is all of them. All other
            blocks stay private to each client, as in FedPer (Arivazhagan 2019: a personal head) and LG-FedAvg (Liang
            2020: a personal representation). `test_*` then pools the evaluations of the clients' own models.
    """

    combine: Combine
    server_optimizer: ServerOptimizer
    correction: Correction
    blocks: list[str] | None = None
