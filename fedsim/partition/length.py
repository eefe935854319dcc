"""Clients that differ in how long their sequences are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Assignment, Dataset, Split
from fedsim.errors import UserError, check_between
from fedsim.partition.common import deal_in_order, even_sizes, made_clients, made_names
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Length:
    """Sort the samples by the length of their sequences and give each client a stretch: client 0 has the shortest.

    Why: in federations of recurrent models, length goes with the device and its user (terse and long-winded writers,
    sampling rates, session lengths), and it decides how far gradients reach back and how long a client computes. It
    is a shift of the inputs that label and quantity skew leave out.

    Clients differ by at most one sample in size. The test samples are sorted and cut in the same way, so a client's
    test sequences come from the same quantiles of length. If the data have clients of their own, their samples are
    pooled first.

    Attributes:
        mixing: share of the samples that change places at random after sorting: 0 sorts strictly, 1 is iid.
    """

    mixing: float = 0.0

    def __post_init__(self) -> None:
        check_between(self, 0, 1, "mixing")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: sequences of unequal lengths.
            num_clients: number of clients; None means 10.
            seed: for the streams ``partition``.

        Raises:
            UserError: if all sequences are equally long, or if there are more clients than training samples.
        """
        clients = made_clients(dataset, num_clients)
        lengths = dataset.train.lengths
        if lengths.min() == lengths.max():
            raise UserError(
                f"partition=length: all {len(lengths)} training sequences of {dataset.name} have {lengths[0]} steps, "
                "so clients cannot differ by length"
            )

        def deal(split: Split, number: int) -> list[NDArray[np.int64]]:
            rng = generator(seed, "partition", number)
            order = rng.permutation(len(split))
            order = order[np.argsort(split.lengths[order], kind="stable")]
            mixed = np.flatnonzero(rng.random(len(split)) < self.mixing)
            order[mixed] = order[rng.permutation(mixed)]
            return deal_in_order(order, even_sizes(len(split), clients))

        return Assignment(deal(dataset.train, 0), deal(dataset.test, 1), made_names(clients))
