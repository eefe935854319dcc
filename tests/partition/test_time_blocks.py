"""Stretches of time, with gaps."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import FieldError, UserError
from fedsim.partition.time_blocks import TimeBlocks


@pytest.fixture(scope="module")
def make(make_dataset):
    """Samples in the order of time; with `series`, of clients of these sizes, which also get half the tests."""

    def make(train=100, test=40, series=None):
        if series is None:
            return replace(make_dataset(train, test), ordered=True)
        dataset = make_dataset(sum(series), sum(n // 2 for n in series), clients=len(series))
        owners = [np.repeat(np.arange(len(series)), sizes) for sizes in (series, [n // 2 for n in series])]
        train, test = (replace(s, clients=o) for s, o in zip((dataset.train, dataset.test), owners, strict=True))
        return replace(dataset, train=train, test=test, ordered=True)

    return make


def listed(members):
    return [own.tolist() for own in members]


def test_by_hand(make):
    """11 samples less 2 gaps of 1 are 9, so stretches of 3; the test has no gaps."""
    assignment = TimeBlocks().assign(make(11, 7), 3, 0)
    assert listed(assignment.train) == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert listed(assignment.test) == [[0, 1], [2, 3], [4, 5, 6]]


@given(train=st.integers(1, 100), clients=st.integers(1, 20), gap=st.integers(0, 8))
def test_contiguous_with_gaps_in_between(make, train, clients, gap):
    """N stretches of at least one sample and the gaps between them need N + (N - 1) gap samples."""
    dataset = make(train, 30)
    if train < clients + (clients - 1) * gap:
        with pytest.raises(UserError, match=rf"^num_clients={clients}: "):
            TimeBlocks(gap).assign(dataset, clients, 0)
        return
    assignment = TimeBlocks(gap).assign(dataset, clients, 0)
    assert assignment.train[0][0] == 0
    assert assignment.train[-1][-1] == train - 1
    for own in assignment.train:
        assert (np.diff(own) == 1).all()
    for own, following in pairwise(assignment.train):
        assert following[0] - own[-1] == gap + 1
    sizes = [len(own) for own in assignment.train]
    assert max(sizes) - min(sizes) <= 1
    assert np.concatenate(assignment.test).tolist() == list(range(30))


def test_no_stretch_spans_two_series(make):
    """D'Hondt from one each: 40/2 = 20 beats 10/2 and 20/2; so does 40/3; 20/2 = 10 ties with 40/4, the first wins."""
    assignment = TimeBlocks(gap=0).assign(make(series=[10, 40, 20]), 6, 0)
    assert [len(own) for own in assignment.train] == [10, 10, 10, 10, 10, 20]
    assert [len(own) for own in assignment.test] == [5, 5, 5, 5, 5, 10]
    assert assignment.client_names == ("site_0/0", "site_1/0", "site_1/1", "site_1/2", "site_1/3", "site_2/0")
    assert np.concatenate(assignment.train).tolist() == list(range(70))


def test_every_series_is_cut_as_often_as_it_can_be(make):
    """With gaps of 2, series of 1, 4 and 7 samples hold 1, 2 and 3 stretches of one sample."""
    dataset = make(series=[1, 4, 7])
    assignment = TimeBlocks(gap=2).assign(dataset, 6, 0)
    assert listed(assignment.train) == [[0], [1], [4], [5], [8], [11]]
    with pytest.raises(UserError, match=r"num_clients=7: 12 training .* 3 series, .*gap=2 .* at most 6 clients"):
        TimeBlocks(gap=2).assign(dataset, 7, 0)


def test_more_series_than_clients(make):
    with pytest.raises(UserError, match=r"num_clients=2: no client spans two of the 3 series of toy; take at least 3"):
        TimeBlocks().assign(make(series=[5, 5, 5]), 2, 0)


def test_a_series_without_training_samples(make):
    with pytest.raises(UserError, match="1 of the 3 series of toy have no training samples"):
        TimeBlocks().assign(make(series=[5, 0, 5]), 5, 0)


def test_samples_without_an_order(make_dataset):
    with pytest.raises(UserError, match="partition=time_blocks: the samples of toy do not follow one another in time"):
        TimeBlocks().assign(make_dataset(), 2, 0)


def test_refused():
    with pytest.raises(FieldError, match="gap=-1: must be at least 0"):
        TimeBlocks(-1)
