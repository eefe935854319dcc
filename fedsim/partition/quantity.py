"""Clients that differ in how many samples they have, and in nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.data.dataset import Assignment, Dataset
from fedsim.errors import FieldError, check_at_least, check_between, check_one_of
from fedsim.partition.common import deal_at_random, made_clients, sizes_like
from fedsim.seeding import generator

MAX_SIGMA = 100.0


@dataclass(frozen=True)
class Quantity:
    """Deal samples at random to clients of unequal sizes.

    Every client gets `min_samples`, and the rest is shared out in proportion to weights:

    - ``power``: Zipf's law, the r-th largest client weighs ``r ** -exponent``; a keyed shuffle says which client that
      is. Of 100 clients with exponent 1, the largest holds about a fifth.
    - ``lognormal``: ``exp(sigma * z)`` with z standard normal. Li et al. 2020 ("Federated Optimization in
      Heterogeneous Networks", section 5.1) speak of a power law; the code of their synthetic data draws
      ``50 + lognormal(4, 2)``, which is this one with sigma=2 on top of min_samples=50.

    Test samples are shared out in proportion to the clients' training samples, so a small client may get none.
    If the data have clients of their own, their samples are pooled first.

    Attributes:
        law: ``power`` or ``lognormal``.
        exponent: of the power law, 0 (equal sizes) to 100; None means 1.
        sigma: standard deviation of the logarithm of log-normal weights, 0 (equal sizes) to 100; None means 1.
        min_samples: training samples that every client gets, at least 1.
    """

    law: str = "power"
    exponent: float | None = None
    sigma: float | None = None
    min_samples: int = 1

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range or has no effect with `law`.
        """
        check_one_of(self, "law", ("power", "lognormal"))
        check_between(self, 0, 100, "exponent")
        check_between(self, 0, MAX_SIGMA, "sigma")
        check_at_least(self, 1, "min_samples")
        if self.law == "power" and self.sigma is not None:
            raise FieldError("sigma", self.sigma, "has no effect with law=power, which has an exponent")
        if self.law == "lognormal" and self.exponent is not None:
            raise FieldError("exponent", self.exponent, "has no effect with law=lognormal, which has a sigma")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: the samples to deal out.
            num_clients: number of clients; None means 10.
            seed: for the streams ``partition``.

        Raises:
            UserError: if there are too few training samples for `min_samples` each.
        """
        clients = made_clients(dataset, num_clients, self.min_samples)
        rng = generator(seed, "partition")
        if self.law == "power":
            logs = -(1.0 if self.exponent is None else self.exponent) * np.log(1.0 + rng.permutation(clients))
        else:
            logs = (1.0 if self.sigma is None else self.sigma) * rng.standard_normal(clients)
        weights = np.exp(logs - logs.max())  # no overflow, and the sum is at least 1
        return deal_at_random(dataset, sizes_like(weights, len(dataset.train), self.min_samples), seed)
