"""One client with all samples: training as if there were no federation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.errors import UserError
from fedsim.population import Assignment, Dataset


@dataclass(frozen=True)
class Centralised:
    """All training and test samples belong to one client: what the same model reaches where data may be pooled."""

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: the samples.
            num_clients: None or 1.
            seed: not used.

        Raises:
            UserError: if there should be more than one client.
        """
        if num_clients not in (None, 1):
            raise UserError(f"num_clients={num_clients}: partition=centralised has 1 client; leave num_clients out")
        everything = [np.arange(len(dataset.train))], [np.arange(len(dataset.test))]
        return Assignment(*everything, ("everyone",))
