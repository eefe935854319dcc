"""Helpers that several partitions use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Assignment, Dataset, Task
from fedsim.errors import UserError
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_CLIENTS = 10
"""Clients of a made partition where ``num_clients`` is not set."""


def made_clients(dataset: Dataset, num_clients: int | None, min_samples: int = 1) -> int:
    """Return the number of clients of a made partition.

    Raises:
        UserError: if there are too few training samples to give each client `min_samples`.
    """
    clients = DEFAULT_CLIENTS if num_clients is None else num_clients
    samples = len(dataset.train)
    if clients < 1:
        raise UserError(f"num_clients={clients}: must be at least 1")
    if clients * min_samples > samples:
        each = "" if min_samples == 1 else f" of at least partition.min_samples={min_samples}"
        raise UserError(
            f"num_clients={clients}: that many clients{each} need {clients * min_samples} training samples, but "
            f"{dataset.name} has {samples}; take at most {samples // min_samples} clients"
        )
    return clients


def made_names(num_clients: int) -> tuple[str, ...]:
    """Names of clients that have none of their own."""
    return tuple(f"client_{k}" for k in range(num_clients))


def check_labels(dataset: Dataset, partition: str) -> None:
    """Raise `UserError` unless the samples have one label each."""
    if dataset.task is not Task.CLASSIFICATION:
        instead = "dirichlet" if dataset.task is Task.REGRESSION else "iid"
        natural = "" if dataset.client_names is None else " or partition=natural"
        raise UserError(
            f"partition={partition}: shares out the samples of each label, but {dataset.name} "
            f"({dataset.task.value}) has no label per sequence; use partition={instead}{natural}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# numbers of samples


def even_sizes(total: int, parts: int) -> NDArray[np.int64]:
    """Return ``[parts]`` sizes that sum to `total` and differ by at most one."""
    return np.diff(np.arange(parts + 1, dtype=np.int64) * total // parts)


def apportion(shares: NDArray[np.float64], totals: NDArray[np.int64]) -> NDArray[np.int64]:
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


def sizes_like(weights: NDArray[np.float64], total: int, min_samples: int = 0) -> NDArray[np.int64]:
    """Give every client `min_samples` and share out the rest in proportion to `weights` ``[N]``."""
    rest = total - min_samples * len(weights)
    sizes: NDArray[np.int64] = min_samples + apportion(weights[None] / weights.sum(), np.array([rest]))[0]
    return sizes


# ---------------------------------------------------------------------------------------------------------------------
# samples


def members(owners: NDArray[np.int64], num_clients: int) -> list[NDArray[np.int64]]:
    """Turn the owner of each sample, ``[S]``, into the samples of each owner, ascending."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owners, minlength=num_clients))[:-1])


def deal_in_order(order: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Give the first of the samples in `order` to the first client, and so on, as many as `sizes` says."""
    owners = np.empty(len(order), np.int64)
    owners[order] = np.repeat(np.arange(len(sizes)), sizes)
    return members(owners, len(sizes))


def deal_at_random(dataset: Dataset, train_sizes: NDArray[np.int64], seed: int) -> Assignment:
    """Deal clients of the given sizes at random, and test samples in the same proportions."""
    test_sizes = sizes_like(train_sizes.astype(np.float64), len(dataset.test))

    def deal(sizes: NDArray[np.int64], split: int) -> list[NDArray[np.int64]]:
        return deal_in_order(generator(seed, "partition", split).permutation(int(sizes.sum())), sizes)

    return Assignment(deal(train_sizes, 0), deal(test_sizes, 1), made_names(len(train_sizes)))


def deal_labels(
    labels: NDArray[np.int64], counts: NDArray[np.int64], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Deal each label's samples at random: ``counts[l, n]`` of label l go to client n.

    Args:
        labels: ``[S]`` label of each sample.
        counts: ``[labels, clients]``; a row sums to the number of samples of its label.
        rng: source of randomness.
    """
    clients = np.arange(counts.shape[1])
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(counts.sum(1))
    owners = np.empty(len(labels), np.int64)
    for row, end in zip(counts, ends, strict=True):
        owners[order[end - row.sum() : end]] = rng.permutation(np.repeat(clients, row))
    return members(owners, len(clients))


def deal_test_like_train(
    dataset: Dataset, train: list[NDArray[np.int64]], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Division out each label's test samples in proportion to the training samples of it that the clients hold.

    A label without training samples is shared out in proportion to the clients' sizes.
    """
    labels, sizes = dataset.num_outputs, np.array([len(own) for own in train])
    owners = np.repeat(np.arange(len(train)), sizes)
    held = dataset.train.targets.astype(np.int64)[np.concatenate(train)] * len(train) + owners
    counts = np.bincount(held, minlength=labels * len(train)).reshape(labels, len(train)).astype(np.float64)
    counts[counts.sum(1) == 0] = sizes
    test = dataset.test.targets.astype(np.int64)
    shares = counts / counts.sum(1, keepdims=True)
    return deal_labels(test, apportion(shares, np.bincount(test, minlength=labels)), rng)


# ---------------------------------------------------------------------------------------------------------------------
# regressions


def target_scores(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One number per training and test sample of a regression.

    The target itself, or the mean of several outputs, each standardised over the training samples.
    """
    train, test = (np.asarray(split.targets, np.float64) for split in (dataset.train, dataset.test))
    if train.shape[1] > 1:
        mean, deviation = train.mean(0), train.std(0)
        train, test = ((values - mean) / np.where(deviation > 0, deviation, 1) for values in (train, test))
    return train.mean(1), test.mean(1)


def quantile_bins(dataset: Dataset, quantiles: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bin, ``0..quantiles - 1``, of each training and test score; bins are quantiles of the training scores."""
    train, test = target_scores(dataset)
    edges = np.quantile(train, np.arange(1, quantiles) / quantiles)
    bins = tuple(np.searchsorted(edges, scores, side="right").astype(np.int64) for scores in (train, test))
    return bins[0], bins[1]
