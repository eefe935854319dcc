"""What the partitions share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.population import Dataset

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
            f"num_clients={clients}: that many clients{each} need {clients * min_samples} training samples and "
            f"{dataset.name} has {samples}; take at most {samples // min_samples} clients"
        )
    return clients


def made_names(num_clients: int) -> tuple[str, ...]:
    """Names of clients that have none of their own."""
    return tuple(f"client_{k}" for k in range(num_clients))


def members(owners: NDArray[np.int64], num_clients: int) -> list[NDArray[np.int64]]:
    """Turn the owner of each sample, ``[S]``, into the samples of each owner, ascending."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owners, minlength=num_clients))[:-1])
