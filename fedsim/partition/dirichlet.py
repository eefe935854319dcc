"""Label skew of adjustable strength."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError, check_above, check_at_least, check_between
from fedsim.partition.common import made_clients, made_names, members
from fedsim.population import Assignment, Dataset, Task
from fedsim.seeding import generator

_MAX_DRAWS = 10_000
_MAX_NUMBERS = 10_000_000
"""Bounds on redrawing: so many draws, and fewer where a draw has many labels and clients (at least 100)."""


@dataclass(frozen=True)
class Dirichlet:
    """Share each label out over the clients by proportions drawn from a symmetric Dirichlet distribution.

    For every label, ``p ~ Dir_N(alpha)`` over the N clients, and client k gets the share ``p_k`` of that label's
    training samples and of its test samples (Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning of
    Neural Networks", section 4; as in Li et al. 2022, NIID-Bench). Client sizes differ too. Hsu et al. 2019 draw a
    distribution over labels per client instead, with clients of equal size; that is another partition.

    If the data have clients of their own, their samples are pooled first.

    A draw that leaves some client with fewer than `min_samples` training samples is thrown away as a whole and drawn
    again, which gives the Dirichlet distribution *given* that every client has enough. That stops after 10,000 draws
    (fewer for very large ones) with an error, never with smaller clients. A client may still get no test samples.

    Attributes:
        alpha: concentration, above 0 and at most 1e6; 0.01 means one label for most clients, 100 is close to iid.
        min_samples: training samples that every client must get, at least 1.
    """

    alpha: float = 0.5
    min_samples: int = 1

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range.
        """
        check_above(self, 0, "alpha")
        check_between(self, 0, 1e6, "alpha")
        check_at_least(self, 1, "min_samples")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: a classification task.
            num_clients: number of clients; None means 10.
            seed: for the streams ``partition``.

        Raises:
            UserError: if the data have no label per sequence, or too few samples for `min_samples` each, or if no draw
                gave every client that many.
        """
        if dataset.task is not Task.CLASSIFICATION:
            natural = "" if dataset.client_names is None else " or partition=natural"
            raise UserError(
                f"partition=dirichlet: it shares out the samples of each label, and {dataset.name} "
                f"({dataset.task.value}) has no label per sequence; use partition=iid{natural}"
            )
        clients = made_clients(dataset, num_clients, self.min_samples)
        shares = self._draw_shares(dataset, clients, seed)

        def deal(labels: NDArray[np.generic], split: int) -> list[NDArray[np.int64]]:
            counts = share_out(shares, np.bincount(labels.astype(np.int64), minlength=len(shares)))
            rng = generator(seed, "partition", split)
            owners = np.empty(len(labels), np.int64)
            for label, row in enumerate(counts):
                owners[labels == label] = rng.permutation(np.repeat(np.arange(clients), row))
            return members(owners, clients)

        return Assignment(deal(dataset.train.targets, 0), deal(dataset.test.targets, 1), made_names(clients))

    def _draw_shares(self, dataset: Dataset, clients: int, seed: int) -> NDArray[np.float64]:
        """Return ``[labels, clients]``, each label's proportions over the clients."""
        labels = dataset.num_outputs
        totals = np.bincount(dataset.train.targets.astype(np.int64), minlength=labels)
        draws = max(100, min(_MAX_DRAWS, _MAX_NUMBERS // (labels * clients)))
        block = max(1, min(100, 100_000 // (labels * clients)))
        rng = generator(seed, "partition")
        best = 0
        for _ in range(0, draws, block):
            shares = rng.dirichlet(np.full(clients, self.alpha), (block, labels))
            smallest = share_out(shares, totals).sum(1).min(1)  # [block]
            enough = np.flatnonzero(smallest >= self.min_samples)
            if len(enough):
                first: NDArray[np.float64] = shares[enough[0]]
                return first
            best = max(best, int(smallest.max()))
        raise UserError(
            f"partition.alpha={self.alpha:g}: {clients} clients cannot be drawn from {len(dataset.train)} training "
            f"samples with {labels} labels so that each gets partition.min_samples={self.min_samples}: in {draws} "
            f"draws the smallest client had at most {best}; raise partition.alpha, or lower "
            + ("num_clients" if self.min_samples == 1 else "num_clients or partition.min_samples")
        )


def share_out(shares: NDArray[np.float64], totals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut each label's samples at the rounded running sums of its proportions.

    Args:
        shares: ``[..., labels, clients]``, proportions that sum to one over the clients.
        totals: ``[labels]`` samples of each label.

    Returns:
        ``[..., labels, clients]`` numbers of samples, which sum to `totals` and differ from ``shares * totals`` by at
        most one.
    """
    cuts = np.rint(np.cumsum(shares, -1) * totals[:, None]).astype(np.int64)
    cuts[..., -1] = totals  # the running sum of the shares may miss one by rounding
    return np.diff(cuts, axis=-1, prepend=0)
