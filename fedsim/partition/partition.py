"""What a partition is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from fedsim.data.dataset import Assignment, Dataset


@runtime_checkable
class Partition(Protocol):
    """Who holds which sample."""

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Give the samples to clients."""
        ...
