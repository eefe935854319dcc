"""The data's own clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.data.dataset import Assignment, Dataset, Task
from fedsim.errors import UserError, check_at_least
from fedsim.partition.common import members
from fedsim.seeding import generator


@dataclass(frozen=True)
class Natural:
    """Every client of the data, such as a speaker or a file, keeps its own training and test samples.

    Clients that are not taken, and those with fewer than `min_samples` training samples, are left out with all their
    samples; how many have too few is in the notes.

    Attributes:
        min_samples: training samples that a client needs to take part, at least 1.
        max_clients: take at most this many, chosen as for ``num_clients``, but without an error if there are fewer;
            None means no limit.
    """

    min_samples: int = 1
    max_clients: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 1, "min_samples", "max_clients")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: data with clients of their own.
            num_clients: how many of them to take, by a shuffle keyed by the seed, in their original order; None means
                all. A larger number takes the same ones and more.
            seed: for the stream ``partition``.

        Raises:
            UserError: if the data have no clients of their own, or fewer than `num_clients` with enough samples.
        """
        names = dataset.client_names
        if names is None or dataset.train.clients is None or dataset.test.clients is None:
            made = " or partition=dirichlet" if dataset.task is not Task.SEQUENCE_LABELLING else ""
            raise UserError(f"partition=natural: {dataset.why_not_natural}; else use partition=iid{made}")
        if num_clients is not None and self.max_clients is not None:
            raise UserError(
                f"partition.max_clients={self.max_clients}: num_clients={num_clients} already says how many to take; "
                "set only one of them"
            )
        train = members(dataset.train.clients, len(names))
        test = members(dataset.test.clients, len(names))
        sizes = np.array([len(own) for own in train])
        large = int((sizes >= self.min_samples).sum())
        enough = (
            f" with at least partition.min_samples={self.min_samples} training samples" if large < len(names) else ""
        )
        if large == 0:
            raise UserError(
                f"partition.min_samples={self.min_samples}: no natural client of {dataset.name} has that many training "
                f"samples; the largest of {len(names)} has {max(sizes, default=0)}"
            )
        if num_clients is not None and not 1 <= num_clients <= large:
            raise UserError(
                f"num_clients={num_clients}: must be 1 to {large}, the natural clients of {dataset.name}{enough}"
            )
        notes: tuple[str, ...] = ()
        if large < len(names):
            notes = (
                f"left out {len(names) - large:,} of {len(names):,} clients, which have fewer than "
                f"partition.min_samples={self.min_samples} training samples",
            )
        shuffled = generator(seed, "partition").permutation(len(names))
        limit = num_clients if num_clients is not None else self.max_clients
        chosen = np.sort(shuffled[sizes[shuffled] >= self.min_samples][:limit])
        chosen_names = tuple(names[k] for k in chosen)
        return Assignment([train[k] for k in chosen], [test[k] for k in chosen], chosen_names, notes=notes)
