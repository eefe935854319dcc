"""Exactly k labels each, and an owner for every label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import Task
from fedsim.errors import FieldError, UserError
from fedsim.partition.labels_per_client import LabelsPerClient


def labels_of(dataset, members):
    return [np.unique(dataset.train.targets[own]).tolist() for own in members]


@given(labels=st.integers(1, 8), k=st.integers(1, 8), clients=st.integers(1, 12), seed=st.integers(0, 1000))
def test_exactly_k_labels_and_nothing_lost(make_dataset, check_conserved, labels, k, clients, seed):
    dataset = make_dataset(train=400, test=50, labels=labels)
    if k > labels or k * clients < labels:
        with pytest.raises(UserError, match=rf"^partition\.labels={k}: "):
            LabelsPerClient(k).assign(dataset, clients, seed)
        return
    assignment = LabelsPerClient(k).assign(dataset, clients, seed)
    check_conserved(assignment, dataset)
    owned = labels_of(dataset, assignment.train)
    assert all(len(own) == k for own in owned)
    assert set().union(*owned) == set(range(labels))


def test_a_label_is_shared_equally_by_its_owners(make_dataset):
    dataset = make_dataset(train=1000, test=300, labels=5)
    assignment = LabelsPerClient(2).assign(dataset, 20, 0)
    train = np.stack([np.bincount(dataset.train.targets[own], minlength=5) for own in assignment.train])
    test = np.stack([np.bincount(dataset.test.targets[own], minlength=5) for own in assignment.test])
    for label in range(5):
        held = train[:, label][train[:, label] > 0]
        assert held.max() - held.min() <= 1
        assert (test[:, label][train[:, label] == 0] == 0).all()
        # Proportions that differ by one of `held`, and counts that are rounded twice.
        expected = test[:, label].sum() / len(held)
        assert np.abs(test[:, label][train[:, label] > 0] - expected).max() <= 1 + expected / held.min()


def test_clients_take_turns_for_their_first_label(make_dataset):
    """Of 12 clients with one label each, three have each of four labels."""
    dataset = make_dataset(train=400, labels=4)
    owned = labels_of(dataset, LabelsPerClient(1).assign(dataset, 12, 0).train)
    assert np.bincount(np.concatenate(owned)).tolist() == [3, 3, 3, 3]


def test_pairs_are_not_always_the_same(make_dataset):
    """Of 45 pairs of ten labels, 100 random draws hit 45 (1 - (44/45)^100) = 40 in expectation."""
    dataset = make_dataset(train=4000, labels=10)
    owned = labels_of(dataset, LabelsPerClient(2).assign(dataset, 100, 0).train)
    assert len({tuple(own) for own in owned}) > 30


def test_labels_without_training_samples_do_not_count(make_dataset, check_conserved):
    dataset = make_dataset(train=100, test=40, labels=6)
    dataset.train.targets[dataset.train.targets == 3] = 2
    assignment = LabelsPerClient(5).assign(dataset, 3, 0)
    check_conserved(assignment, dataset)
    assert labels_of(dataset, assignment.train) == [[0, 1, 2, 4, 5]] * 3
    with pytest.raises(UserError, match="have 5 labels; take at most 5"):
        LabelsPerClient(6).assign(dataset, 3, 0)


def test_too_few_clients_or_samples(make_dataset):
    with pytest.raises(UserError, match=r"own at most 6 of the 9 labels of toy; take at least 3 labels or 5 clients"):
        LabelsPerClient(2).assign(make_dataset(train=90, labels=9), 3, 0)
    dataset = make_dataset(train=100, labels=2)
    dataset.train.targets[:] = [0] * 5 + [1] * 95
    with pytest.raises(UserError, match=r"label 0 went to 10 of 10 clients but has 5 training samples"):
        LabelsPerClient(2).assign(dataset, 10, 0)


def test_seed_decides(make_dataset, same):
    dataset = make_dataset()
    a, b, c = (LabelsPerClient().assign(dataset, 5, seed) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_needs_labels(make_dataset):
    with pytest.raises(UserError, match=r"partition=labels_per_client: .*use partition=dirichlet$"):
        LabelsPerClient().assign(make_dataset(task=Task.REGRESSION), 5, 0)
    with pytest.raises(FieldError, match="labels=0: must be at least 1"):
        LabelsPerClient(0)
