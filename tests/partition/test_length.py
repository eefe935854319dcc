"""Sorted by length."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import FieldError, UserError
from fedsim.partition.length import Length


@pytest.fixture(scope="module")
def make(make_dataset):
    def make(train=200, test=80, longest=20):
        dataset = make_dataset(train, test)
        rng = np.random.default_rng(0)
        splits = [replace(s, lengths=rng.integers(1, longest, len(s))) for s in (dataset.train, dataset.test)]
        return replace(dataset, train=splits[0], test=splits[1])

    return make


@given(
    train=st.integers(20, 200),
    test=st.integers(0, 50),
    clients=st.integers(1, 20),
    mixing=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_conserves_samples_in_equal_sizes(make, check_conserved, train, test, clients, mixing, seed):
    dataset = make(train, test)
    assignment = Length(mixing).assign(dataset, clients, seed)
    check_conserved(assignment, dataset)
    for members in (assignment.train, assignment.test):
        sizes = [len(own) for own in members]
        assert max(sizes) - min(sizes) <= 1


def test_later_clients_have_longer_sequences(make):
    dataset = make()
    assignment = Length().assign(dataset, 7, 0)
    for split, members in ((dataset.train, assignment.train), (dataset.test, assignment.test)):
        for own, following in pairwise(members):
            assert split.lengths[own].max() <= split.lengths[following].min()


def test_mixing(make):
    """A sample stays where it was sorted to unless it is mixed and then lands with another of ten clients."""
    dataset = make(train=10_000, longest=10_000)
    strict = Length().assign(dataset, 10, 0).train
    for mixing in (0.5, 1.0):
        mixed = Length(mixing).assign(dataset, 10, 0).train
        stayed = np.mean([np.isin(a, b).mean() for a, b in zip(strict, mixed, strict=True)])
        # (1 - m) + m / 10, with standard deviation sqrt(p (1 - p) / 10000) < 0.005
        assert stayed == pytest.approx(1 - 0.9 * mixing, abs=0.025)


def test_seed_decides_among_equal_lengths(make, same):
    a, b, c = (Length().assign(make(), 5, seed) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_equal_lengths_are_refused(make_dataset):
    with pytest.raises(UserError, match="partition=length: all 100 training sequences of toy have 2 steps"):
        Length().assign(make_dataset(), 5, 0)


@pytest.mark.parametrize("mixing", [-0.1, 1.1, float("nan")])
def test_refused(mixing):
    with pytest.raises(FieldError, match=r"^mixing="):
        Length(mixing)
