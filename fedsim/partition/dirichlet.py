"""Label skew of adjustable strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Assignment, Dataset, Task
from fedsim.errors import UserError, check_above, check_at_least, check_between
from fedsim.partition.common import apportion, check_labels, deal_labels, made_clients, made_names, quantile_bins
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_DRAWS = 10_000
_MAX_NUMBERS = 10_000_000
"""Bounds on redrawing: `_MAX_DRAWS` draws, or fewer (at least 100) where a draw has many labels and clients."""


@dataclass(frozen=True)
class Dirichlet:
    """Division each label out over the clients by proportions drawn from a symmetric Dirichlet distribution.

    For every label, ``p ~ Dir_N(alpha)`` over the N clients, and client k gets the share ``p_k`` of that label's
    training samples and of its test samples (Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning of
    Neural Networks", section 4; the text of Li et al. 2022, NIID-Bench, says the same). Client sizes differ too. Hsu et
    al. 2019 draw a distribution over labels per client instead, with clients of equal size; that is another partition.

    The code of NIID-Bench does more than its text: label after label, a client that holds ``samples / N`` or more by
    then gets nothing of the next one, and the others' proportions are scaled up to sum to one. That is `balance`, with
    which sizes differ less (and which many later papers use; they also ask for ``min_samples=10``). Labels come in
    ascending order, as there.

    In a regression, the bins between quantiles of the training targets take the place of labels (of several outputs:
    of the mean of the outputs, each standardised).

    If the data have clients of their own, their samples are pooled first.

    A draw that leaves some client with fewer than `min_samples` training samples is thrown away as a whole and drawn
    again, which gives the Dirichlet distribution *given* that every client has enough. That stops after 10,000 draws
    (fewer for very large ones) with an error, never with smaller clients. A client may still get no test samples.

    Attributes:
        alpha: concentration, above 0 and at most 1e6; 0.01 means one label for most clients, 100 is close to iid.
        min_samples: training samples that every client must get, at least 1.
        quantiles: bins of a regression's targets, 2 to 1000; None means 10.
        balance: whether clients that hold an equal share of all training samples get no more labels.
    """

    alpha: float = 0.5
    min_samples: int = 1
    quantiles: int | None = None
    balance: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range.
        """
        check_above(self, 0, "alpha")
        check_between(self, 0, 1e6, "alpha")
        check_at_least(self, 1, "min_samples")
        check_between(self, 2, 1000, "quantiles")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: a classification or regression task.
            num_clients: number of clients; None means 10.
            seed: for the streams ``partition``.

        Raises:
            UserError: if the data have no label per sequence, or too few samples for `min_samples` each, or if no draw
                gave every client that many.
        """
        if dataset.task is Task.REGRESSION:
            labels = self.quantiles or 10
            train, test = quantile_bins(dataset, labels)
        else:
            check_labels(dataset, "dirichlet")
            if self.quantiles is not None:
                raise UserError(
                    f"partition.quantiles={self.quantiles}: is for the targets of a regression; it has no effect with "
                    f"{dataset.name}, which has labels"
                )
            labels = dataset.num_outputs
            train, test = (split.targets.astype(np.int64) for split in (dataset.train, dataset.test))
        clients = made_clients(dataset, num_clients, self.min_samples)
        totals = np.bincount(train, minlength=labels)
        shares = self._draw_shares(totals, clients, seed)

        def deal(labels: NDArray[np.int64], totals: NDArray[np.int64], split: int) -> list[NDArray[np.int64]]:
            return deal_labels(labels, apportion(shares, totals), generator(seed, "partition", split))

        in_test = np.bincount(test, minlength=labels)
        return Assignment(deal(train, totals, 0), deal(test, in_test, 1), made_names(clients))

    def _draw_shares(self, totals: NDArray[np.int64], clients: int, seed: int) -> NDArray[np.float64]:
        """Return ``[labels, clients]``, each label's proportions over the clients."""
        labels = len(totals)
        draws = max(100, min(_MAX_DRAWS, _MAX_NUMBERS // (labels * clients)))
        block = max(1, min(100, 100_000 // (labels * clients)))
        rng = generator(seed, "partition")
        best = 0
        for _ in range(0, draws, block):
            shares = rng.dirichlet(np.full(clients, self.alpha), (block, labels))
            if self.balance:
                shares = _balanced(shares, totals)
            smallest = apportion(shares, totals).sum(1).min(1)  # [block]
            enough = np.flatnonzero(smallest >= self.min_samples)
            if len(enough):
                first: NDArray[np.float64] = shares[enough[0]]
                return first
            best = max(best, int(smallest.max()))
        raise UserError(
            f"partition.alpha={self.alpha:g}: {clients} clients cannot be drawn from {totals.sum()} training "
            f"samples with {labels} labels so that each gets partition.min_samples={self.min_samples}: in {draws} "
            f"draws the smallest client had at most {best}; raise partition.alpha, or lower "
            + ("num_clients" if self.min_samples == 1 else "num_clients or partition.min_samples")
        )


def _balanced(shares: NDArray[np.float64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return draws ``[block, labels, clients]`` in which clients that hold their share get no further label.

    If all clients that may still get something drew zero (which rounding makes of tiny numbers), they share equally.
    """
    shares, clients = shares.copy(), shares.shape[2]
    held = np.zeros((len(shares), clients), np.int64)
    for label, total in enumerate(totals):
        open_ = held < totals.sum() / clients
        drawn = np.where(open_, shares[:, label], 0.0)
        drawn = np.where(drawn.sum(1, keepdims=True) > 0, drawn, open_)
        shares[:, label] = drawn / drawn.sum(1, keepdims=True)
        held += apportion(shares[:, label, None], np.array([total]))[:, 0]
    return shares
