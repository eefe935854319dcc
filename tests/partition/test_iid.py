"""Dealt at random: nothing lost, sizes equal to within one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import Task
from fedsim.errors import UserError
from fedsim.partition.iid import Iid


@given(train=st.integers(1, 80), test=st.integers(0, 50), data=st.data(), seed=st.integers(0, 1000))
def test_conserves_samples_with_sizes_equal_to_within_one(make_dataset, check_conserved, train, test, data, seed):
    clients = data.draw(st.integers(1, train))
    dataset = make_dataset(train, test)
    assignment = Iid().assign(dataset, clients, seed)
    check_conserved(assignment, dataset)
    for members in (assignment.train, assignment.test):
        sizes = [len(own) for own in members]
        assert len(sizes) == clients
        assert max(sizes) - min(sizes) <= 1


def test_seed_decides(make_dataset, same):
    dataset = make_dataset()
    a, b, c = (Iid().assign(dataset, 5, seed) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_ten_clients_by_default_and_own_clients_are_pooled(make_dataset, check_conserved):
    dataset = make_dataset(train=600, clients=3)
    assignment = Iid().assign(dataset, None, 0)
    assert len(assignment.client_names) == 10
    check_conserved(assignment, dataset)
    for own in assignment.train:  # 60 of 600 from 3 sites of 200: missing one has probability 3 (2/3)^60
        assert set(dataset.train.clients[own]) == {0, 1, 2}


def test_labels_are_spread_evenly(make_dataset):
    """A share of a quarter among 1000 samples has standard deviation sqrt(1/4 3/4 / 1000) = 0.0137; five of them."""
    dataset = make_dataset(train=10_000)
    overall = np.bincount(dataset.train.targets) / 10_000
    for own in Iid().assign(dataset, 10, 0).train:
        np.testing.assert_allclose(np.bincount(dataset.train.targets[own]) / 1000, overall, atol=0.07)


@pytest.mark.parametrize("task", list(Task))
def test_any_task(make_dataset, check_conserved, task):
    dataset = make_dataset(task=task)
    check_conserved(Iid().assign(dataset, 7, 0), dataset)


@pytest.mark.parametrize("clients", [-1, 0, 101])
def test_impossible(make_dataset, clients):
    with pytest.raises(UserError, match=rf"^num_clients={clients}: "):
        Iid().assign(make_dataset(train=100), clients, 0)
