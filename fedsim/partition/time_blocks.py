"""Every client holds a stretch of time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Assignment, Dataset
from fedsim.errors import UserError, check_at_least
from fedsim.partition.common import even_sizes, made_clients, made_names, members

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TimeBlocks:
    """Cut samples that follow one another in time into contiguous stretches, one per client.

    Why: consecutive samples are alike and change slowly, so a client that recorded in January differs from one that
    recorded in July; dealing such samples at random would give all clients nearly the same ones. Neighbouring windows
    overlap or adjoin, hence the gap: `gap` training samples between two clients of one series are dropped.
    For windows of L steps taken every h steps, ``gap = ceil(L / h) - 1`` leaves no step in two clients.

    Data with clients of their own are one series per client, other data a single series. No stretch spans two series:
    each series gets one client, and the remaining ones go in turn to the series whose stretches are longest
    (D'Hondt). The stretches of a series differ by at most one sample. Each series' test samples are cut into as many
    stretches, without gaps, since they are not trained on: the k-th client of a series gets the k-th.

    Attributes:
        gap: training samples dropped between two neighbouring stretches, at least 0.
    """

    gap: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 0, "gap")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: samples in the order of time (``Dataset.ordered``).
            num_clients: number of clients; None means 10.
            seed: not used, the split is by position.

        Raises:
            UserError: if the samples are not in the order of time, or if there are more series than clients or too few
                samples for that many stretches and gaps.
        """
        if not dataset.ordered:
            raise UserError(
                f"partition=time_blocks: the samples of {dataset.name} do not follow one another in time; use "
                "partition=iid"
            )
        clients = made_clients(dataset, num_clients)
        train, test = _series(dataset)
        blocks = self._share(dataset.name, np.array([len(own) for own in train]), clients)
        given_train, given_test, names = [], [], []
        for number, (own, own_test, count) in enumerate(zip(train, test, blocks, strict=True)):
            sizes = even_sizes(len(own) - self.gap * (count - 1), count)
            starts = np.cumsum(sizes) - sizes + self.gap * np.arange(count)
            given_train += [own[start : start + size] for start, size in zip(starts, sizes, strict=True)]
            given_test += np.split(own_test, np.cumsum(even_sizes(len(own_test), count))[:-1])
            if dataset.client_names is not None:
                names += [f"{dataset.client_names[number]}/{k}" for k in range(count)]
        return Assignment(given_train, given_test, tuple(names) or made_names(clients))

    def _share(self, name: str, sizes: NDArray[np.int64], clients: int) -> list[int]:
        """Return how many stretches each series of `sizes` samples is cut into."""
        if sizes.min() == 0:
            raise UserError(
                f"partition=time_blocks: {(sizes == 0).sum()} of the {len(sizes)} series of {name} have no training "
                "samples"
            )
        most = (sizes + self.gap) // (1 + self.gap)
        if clients > most.sum():
            raise UserError(
                f"num_clients={clients}: {sizes.sum()} training samples of {name} in {len(sizes)} series, with "
                f"partition.gap={self.gap} dropped between neighbours, make at most {most.sum()} clients"
            )
        if clients < len(sizes):
            raise UserError(
                f"num_clients={clients}: no client spans two of the {len(sizes)} series of {name}; take at least "
                f"{len(sizes)} clients"
            )
        blocks = [1] * len(sizes)
        queue = [(-size / 2, series) for series, size in enumerate(sizes) if most[series] > 1]
        heapq.heapify(queue)
        for _ in range(clients - len(sizes)):
            _, series = heapq.heappop(queue)
            blocks[series] += 1
            if blocks[series] < most[series]:
                heapq.heappush(queue, (-sizes[series] / (blocks[series] + 1), series))
        return blocks


def _series(dataset: Dataset) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """The training and test samples of each series, in the order of time."""
    names, train, test = dataset.client_names, dataset.train.clients, dataset.test.clients
    if names is None or train is None or test is None:
        return [np.arange(len(dataset.train))], [np.arange(len(dataset.test))]
    return members(train, len(names)), members(test, len(names))
