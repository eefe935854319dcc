"""The data's own clients keep their samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import UserError
from fedsim.partition.natural import Natural
from fedsim.population import Task


@given(train=st.integers(10, 60), test=st.integers(0, 30), clients=st.integers(1, 10), seed=st.integers(0, 1000))
def test_everyone_keeps_their_own(make_dataset, check_conserved, train, test, clients, seed):
    dataset = make_dataset(train, test, clients=clients)
    assignment = Natural().assign(dataset, None, seed)
    check_conserved(assignment, dataset)
    assert assignment.client_names == dataset.client_names
    for members, split in ((assignment.train, dataset.train), (assignment.test, dataset.test)):
        for client, own in enumerate(members):
            assert (split.clients[own] == client).all()


@given(taken=st.integers(1, 12), seed=st.integers(0, 1000))
def test_some_of_them_in_their_order(make_dataset, taken, seed):
    dataset = make_dataset(train=60, test=30, clients=12)
    everyone = Natural().assign(dataset, None, seed)
    some = Natural().assign(dataset, taken, seed)
    numbers = [dataset.client_names.index(name) for name in some.client_names]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == taken
    for at, number in enumerate(numbers):
        np.testing.assert_array_equal(some.train[at], everyone.train[number])
        np.testing.assert_array_equal(some.test[at], everyone.test[number])
    more = Natural().assign(dataset, min(taken + 1, 12), seed)
    assert set(some.client_names) <= set(more.client_names)


def test_seed_decides_who_is_taken(make_dataset):
    dataset = make_dataset(clients=50)
    a, b, c = (Natural().assign(dataset, 10, seed).client_names for seed in (0, 0, 1))
    assert a == b
    assert a != c


@pytest.mark.parametrize("clients", [0, 4])
def test_not_so_many(make_dataset, clients):
    with pytest.raises(UserError, match=rf"^num_clients={clients}: .*3 natural clients"):
        Natural().assign(make_dataset(clients=3), clients, 0)


def test_none_there(make_dataset):
    with pytest.raises(UserError, match=r"toys have no owners; .*iid or partition=dirichlet$"):
        Natural().assign(make_dataset(), None, 0)
    with pytest.raises(UserError, match=r"partition=iid$"):
        Natural().assign(make_dataset(task=Task.REGRESSION), None, 0)
