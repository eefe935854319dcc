"""Every client sees the same small number of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Assignment, Dataset
from fedsim.errors import UserError, check_at_least
from fedsim.partition.common import apportion, check_labels, deal_labels, deal_test_like_train, made_clients, made_names
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelsPerClient:
    """Give every client exactly k labels, and each label's samples in equal shares to the clients that have it.

    "#C = k" of Li et al. 2022, "Federated Learning on Non-IID Data Silos" (NIID-Bench), section 4.1: the clients take
    turns for their first label, and draw the others at random. Here they take turns through a random order of the
    labels, and for as many labels as it takes until each has an owner, so that no sample is lost with few clients.

    Only labels with training samples count. Each label's test samples are shared out like its training samples, so a
    client may get none of a label with fewer test samples than owners.

    If the data have clients of their own, their samples are pooled first.

    Attributes:
        labels: k, labels that each client gets, at least 1.
    """

    labels: int = 2

    def __post_init__(self) -> None:
        check_at_least(self, 1, "labels")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: a classification task.
            num_clients: number of clients; None means 10.
            seed: for the streams ``partition``.

        Raises:
            UserError: if the data have no label per sequence, or fewer than `labels` labels, or if there are too few
                clients for all labels or too few samples of a label for its clients.
        """
        check_labels(dataset, "labels_per_client")
        clients = made_clients(dataset, num_clients)
        targets = dataset.train.targets.astype(np.int64)
        totals = np.bincount(targets, minlength=dataset.num_outputs)
        present = np.flatnonzero(totals)
        if self.labels > len(present):
            raise UserError(
                f"partition.labels={self.labels}: the training samples of {dataset.name} have {len(present)} labels; "
                f"take at most {len(present)}"
            )
        if clients * self.labels < len(present):
            raise UserError(
                f"partition.labels={self.labels}: {clients} clients with that many labels each own at most "
                f"{clients * self.labels} of the {len(present)} labels of {dataset.name}; take at least "
                f"{-(-len(present) // clients)} labels or {-(-len(present) // self.labels)} clients"
            )
        owns = np.zeros((dataset.num_outputs, clients), np.bool_)
        owns[present] = self._choose(len(present), clients, generator(seed, "partition"))
        short = np.flatnonzero(owns.sum(1) > totals)
        if len(short):
            raise UserError(
                f"partition.labels={self.labels}: label {short[0]} went to {owns[short[0]].sum()} of {clients} clients "
                f"but has {totals[short[0]]} training samples; take fewer labels or clients"
            )
        shares = owns / np.maximum(owns.sum(1, keepdims=True), 1)
        train = deal_labels(targets, apportion(shares, totals), generator(seed, "partition", 0))
        return Assignment(
            train, deal_test_like_train(dataset, train, generator(seed, "partition", 1)), made_names(clients)
        )

    def _choose(self, labels: int, clients: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return ``[labels, clients]``: which labels each client gets."""
        turns = -(-labels // clients)  # how often a client's turn comes until every label has an owner
        order = rng.permutation(labels)
        draws = rng.random((clients, labels))
        for turn in range(turns):
            draws[np.arange(clients), order[(np.arange(clients) + turn * clients) % labels]] = -1.0
        chosen = np.argsort(draws, axis=1)[:, : self.labels]
        owns = np.zeros((labels, clients), np.bool_)
        owns[chosen, np.arange(clients)[:, None]] = True
        return owns
