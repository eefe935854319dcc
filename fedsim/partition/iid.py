"""The partition without heterogeneity: samples dealt at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Assignment, Dataset
from fedsim.errors import check_between
from fedsim.partition.common import made_clients, made_names, members
from fedsim.partition.quantity import MAX_SIGMA, Quantity
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Iid:
    """Deal the training and the test samples at random, in shares that differ by at most one sample.

    If the data have clients of their own, their samples are pooled first (McMahan et al. 2017, section 3, "IID").

    With a `spread`, the clients differ in size alone, as with ``partition=quantity partition.law=lognormal`` and
    ``partition.sigma`` equal to the spread; see there for the sizes and for more settings.

    Attributes:
        spread: standard deviation of the logarithm of the clients' sizes; 0 makes them equal.
    """

    spread: float = 0.0

    def __post_init__(self) -> None:
        check_between(self, 0, MAX_SIGMA, "spread")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: the samples to deal out.
            num_clients: number of clients; None means 10.
            seed: for the stream ``partition``.

        Raises:
            UserError: if there are more clients than training samples.
        """
        if self.spread > 0:
            return Quantity(law="lognormal", sigma=self.spread).assign(dataset, num_clients, seed)
        clients = made_clients(dataset, num_clients)

        def deal(count: int, split: int) -> list[NDArray[np.int64]]:
            seats = np.arange(count) % clients
            return members(generator(seed, "partition", split).permutation(seats), clients)

        return Assignment(deal(len(dataset.train), 0), deal(len(dataset.test), 1), made_names(clients))
