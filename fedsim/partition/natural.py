"""The data's own clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.errors import UserError
from fedsim.partition.common import members
from fedsim.population import Assignment, Dataset, Task
from fedsim.seeding import generator


@dataclass(frozen=True)
class Natural:
    """Every client of the data, such as a speaker or a file, keeps its own training and test samples."""

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: data with clients of their own.
            num_clients: how many of them to take, by a shuffle keyed by the seed, in their original order; None means
                all. A larger number takes the same ones and more.
            seed: for the stream ``partition``.

        Raises:
            UserError: if the data have no clients of their own, or fewer than `num_clients`.
        """
        names = dataset.client_names
        if names is None or dataset.train.clients is None or dataset.test.clients is None:
            made = " or partition=dirichlet" if dataset.task is Task.CLASSIFICATION else ""
            raise UserError(f"partition=natural: {dataset.why_not_natural}; else use partition=iid{made}")
        if num_clients is not None and not 1 <= num_clients <= len(names):
            raise UserError(f"num_clients={num_clients}: {dataset.name} has 1 to {len(names)} natural clients to take")
        chosen = np.sort(generator(seed, "partition").permutation(len(names))[:num_clients])
        train = members(dataset.train.clients, len(names))
        test = members(dataset.test.clients, len(names))
        return Assignment([train[k] for k in chosen], [test[k] for k in chosen], tuple(names[k] for k in chosen))
