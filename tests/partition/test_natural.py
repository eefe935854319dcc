"""The data's own clients keep their samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.baselines.baseline import Pooled
from fedsim.data.dataset import Task
from fedsim.data.population import build_population
from fedsim.errors import FieldError, UserError
from fedsim.partition.natural import Natural


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
def test_impossible_numbers_of_clients(make_dataset, clients):
    with pytest.raises(UserError, match=rf"^num_clients={clients}: must be 1 to 3, the natural clients of "):
        Natural().assign(make_dataset(clients=3), clients, 0)


def test_data_without_natural_clients(make_dataset):
    with pytest.raises(UserError, match=r"toys have no owners; .*iid or partition=dirichlet$"):
        Natural().assign(make_dataset(), None, 0)
    with pytest.raises(UserError, match=r"partition=iid$"):
        Natural().assign(make_dataset(task=Task.SEQUENCE_LABELLING), None, 0)


@pytest.fixture
def uneven(make_dataset):
    """Sites 0 to 4 with 0, 1, 2, 3 and 4 training samples, and two test samples each."""
    dataset = make_dataset(train=10, test=10, clients=5)
    dataset.train.clients[:] = np.repeat(np.arange(5), np.arange(5))
    return dataset


@pytest.mark.parametrize(("min_samples", "kept"), [(1, [1, 2, 3, 4]), (3, [3, 4]), (4, [4])])
def test_clients_with_few_samples_are_left_out(uneven, min_samples, kept):
    assignment = Natural(min_samples).assign(uneven, None, 0)
    assert assignment.client_names == tuple(f"site_{k}" for k in kept)
    assert [len(own) for own in assignment.train] == kept
    assert [set(uneven.test.clients[own]) for own in assignment.test] == [{k} for k in kept]
    said = f"left out {5 - len(kept)} of 5 clients, which have fewer than partition.min_samples={min_samples} "
    said += "training samples"
    assert assignment.notes == (said,)
    population = build_population(uneven, assignment, validation_fraction=0, seed=0, dtype=torch.float32)
    assert population.notes == (said,)
    assert Pooled(Natural(min_samples)).assign(uneven, None, 0).notes == (said,)


def test_no_note_if_no_client_is_left_out(make_dataset):
    assert Natural().assign(make_dataset(clients=5), None, 0).notes == ()


def test_those_who_stay_do_not_depend_on_those_left_out(make_dataset):
    """Taking 3 of those with enough samples takes the first 3 of them in the order in which 12 would be taken."""
    dataset = make_dataset(train=60, test=30, clients=12)
    dataset.train.clients[:] = np.repeat(np.arange(12), [1] * 6 + [9] * 6)
    taken = Natural(min_samples=2).assign(dataset, 3, 5)
    for count in range(1, 13):
        among = [name for name in Natural().assign(dataset, count, 5).client_names if int(name[5:]) >= 6]
        if len(among) == 3:
            assert taken.client_names == tuple(among)


def test_too_few_are_large_enough(uneven):
    with pytest.raises(
        UserError, match=r"num_clients=3: must be 1 to 2, the natural clients of toy .*min_samples=3 training"
    ):
        Natural(min_samples=3).assign(uneven, 3, 0)
    with pytest.raises(UserError, match=r"min_samples=5: no natural client .* the largest of 5 has 4"):
        Natural(min_samples=5).assign(uneven, None, 0)


def test_at_most(make_dataset, same):
    dataset = make_dataset(clients=5)
    assert len(Natural(max_clients=9).assign(dataset, None, 0).train) == 5
    assert same(Natural(max_clients=3).assign(dataset, None, 0), Natural().assign(dataset, 3, 0))
    with pytest.raises(UserError, match=r"max_clients=3: num_clients=2 already says how many"):
        Natural(max_clients=3).assign(dataset, 2, 0)


@pytest.mark.parametrize("values", [{"min_samples": 0}, {"max_clients": 0}])
def test_refused(values):
    with pytest.raises(FieldError):
        Natural(**values)
