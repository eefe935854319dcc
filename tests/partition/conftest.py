"""Small data sets to part."""

import numpy as np
import pytest

from fedsim.data.dataset import Dataset, Split, Task


def _split(rng, task, samples, labels, clients):
    targets = rng.normal(size=(samples, 1)) if task is Task.REGRESSION else rng.integers(0, labels, samples)
    owners = None if clients is None else rng.permutation(np.arange(samples) % clients)
    return Split(np.zeros((samples, 2, 1), np.float32), np.full(samples, 2), targets, owners)


@pytest.fixture(scope="session")
def make_dataset():
    """Return ``make(train, test, labels, clients, task)``; only sizes, labels and owners matter to a partition."""

    def make(train=100, test=40, labels=4, clients=None, task=Task.CLASSIFICATION):
        rng = np.random.default_rng([train, test, labels])
        return Dataset(
            name="toy",
            task=task,
            train=_split(rng, task, train, labels, clients),
            test=_split(rng, task, test, labels, clients),
            num_outputs=labels,
            client_names=None if clients is None else tuple(f"site_{k}" for k in range(clients)),
            why_not_natural="toys have no owners",
        )

    return make


@pytest.fixture(scope="session")
def check_conserved():
    """Return a check that no sample is lost or shared."""

    def check(assignment, dataset):
        assert len(assignment.train) == len(assignment.test) == len(assignment.client_names)
        assert len(set(assignment.client_names)) == len(assignment.client_names)
        for members, split in ((assignment.train, dataset.train), (assignment.test, dataset.test)):
            assert all(own.dtype == np.int64 for own in members)
            np.testing.assert_array_equal(np.sort(np.concatenate(members)), np.arange(len(split)))

    return check


@pytest.fixture(scope="session")
def same():
    """Return whether two assignments are equal."""

    def same(a, b):
        pairs = [*zip(a.train, b.train, strict=True), *zip(a.test, b.test, strict=True)]
        return all(np.array_equal(x, y) for x, y in pairs)

    return same
