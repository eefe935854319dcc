"""Sorted by label, cut into shards, a few per client."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import Task
from fedsim.errors import FieldError, UserError
from fedsim.partition.shards import Shards


@given(train=st.integers(12, 200), clients=st.integers(1, 6), shards=st.integers(1, 2), seed=st.integers(0, 1000))
def test_conserves_samples_in_shards(make_dataset, check_conserved, train, clients, shards, seed):
    dataset = make_dataset(train, 40, labels=5)
    assignment = Shards(shards).assign(dataset, clients, seed)
    check_conserved(assignment, dataset)
    sizes = [len(own) for own in assignment.train]  # each of `shards` shards, that differ by at most one
    assert max(sizes) - min(sizes) <= shards


def test_few_labels_as_in_the_paper(make_dataset):
    """A client has at most one more label per shard, and 200 shards of 10 labels have 9 borders: 190 are pure."""
    dataset = make_dataset(train=6000, labels=10)
    assignment = Shards().assign(dataset, 100, 0)
    labels = [len(np.unique(dataset.train.targets[own])) for own in assignment.train]
    assert [len(own) for own in assignment.train] == [60] * 100
    assert max(labels) <= 4
    assert sum(labels) <= 200 + 9
    assert sum(count <= 2 for count in labels) >= 100 - 9


def test_the_test_set_has_the_labels_of_the_training_set(make_dataset):
    dataset = make_dataset(train=400, test=2000, labels=4)
    assignment = Shards().assign(dataset, 10, 3)
    for own, own_test in zip(assignment.train, assignment.test, strict=True):
        train = np.bincount(dataset.train.targets[own], minlength=4) / np.bincount(dataset.train.targets)
        test = np.bincount(dataset.test.targets[own_test], minlength=4)
        np.testing.assert_allclose(test, train * np.bincount(dataset.test.targets), atol=1)


def test_seed_decides(make_dataset, same):
    dataset = make_dataset()
    a, b, c = (Shards().assign(dataset, 5, seed) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_more_shards_than_samples(make_dataset):
    with pytest.raises(UserError, match=r"shards_per_client=11: 10 clients .* need 110 shards, .* at most 10 shards"):
        Shards(11).assign(make_dataset(train=100), 10, 0)
    with pytest.raises(UserError, match=r"^num_clients=101: "):
        Shards().assign(make_dataset(train=100), 101, 0)


@pytest.mark.parametrize(("task", "instead"), [(Task.REGRESSION, "dirichlet"), (Task.SEQUENCE_LABELLING, "iid")])
def test_needs_a_label_per_sequence(make_dataset, task, instead):
    with pytest.raises(UserError, match=rf"partition=shards: .*use partition={instead}$"):
        Shards().assign(make_dataset(task=task), 5, 0)


def test_refused():
    with pytest.raises(FieldError, match="shards_per_client=0: must be at least 1"):
        Shards(0)
