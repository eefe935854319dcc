"""Sizes that sum up, and samples dealt to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import Dataset, Split, Task
from fedsim.partition.common import (
    deal_in_order,
    deal_labels,
    deal_test_like_train,
    even_sizes,
    quantile_bins,
    sizes_like,
    target_scores,
)
from fedsim.seeding import generator


@given(total=st.integers(0, 1000), parts=st.integers(1, 50))
def test_even_sizes(total, parts):
    sizes = even_sizes(total, parts)
    assert (len(sizes), sizes.sum()) == (parts, total)
    assert sizes.max() - sizes.min() <= 1


@given(
    weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20), total=st.integers(0, 500), least=st.integers(0, 5)
)
def test_sizes_like_weights(weights, total, least):
    weights, total = np.array(weights), total + least * len(weights)
    sizes = sizes_like(weights, total, least)
    assert sizes.sum() == total
    assert sizes.min() >= least
    # Each size is a difference of two rounded numbers.
    expected = least + (total - least * len(weights)) * weights / weights.sum()
    assert (np.abs(sizes - expected) <= 1 + 1e-6).all()


def test_dealt_in_order():
    dealt = deal_in_order(np.array([4, 0, 3, 1, 2]), np.array([2, 0, 3]))
    assert [own.tolist() for own in dealt] == [[0, 4], [], [1, 2, 3]]


def test_labels_are_dealt_as_counted():
    labels = np.array([1, 0, 1, 1, 0])
    counts = np.array([[2, 0], [1, 2]])
    dealt = deal_labels(labels, counts, generator(0, "test"))
    assert [np.bincount(labels[own], minlength=2).tolist() for own in dealt] == [[2, 1], [0, 2]]


def dataset_of(train, test, task=Task.CLASSIFICATION, outputs=4):
    def split(targets):
        return Split(np.zeros((len(targets), 1, 1), np.float32), np.ones(len(targets), np.int64), np.array(targets))

    return Dataset("toy", task, split(train), split(test), outputs)


def test_test_samples_follow_the_training_samples():
    """Of label 0 the clients hold 3 and 1, so 6 and 2 of 8; of the unknown label 2, sizes of 4 and 2 make 4 and 2."""
    dataset = dataset_of([0, 0, 0, 0, 1, 1], [0] * 8 + [2] * 6)
    dealt = deal_test_like_train(dataset, [np.array([0, 1, 2, 4]), np.array([3, 5])], generator(0, "test"))
    counts = [np.bincount(dataset.test.targets[own], minlength=4).tolist() for own in dealt]
    assert counts == [[6, 0, 4, 0], [2, 0, 2, 0]]


def test_scores_of_several_outputs_are_means_of_standardised_ones():
    train = np.array([[0.0, 7, 10], [2, 7, 30]])  # standardised: -1 0 -1 and 1 0 1
    first, second = target_scores(dataset_of(train, [[4.0, 8, 20]], Task.REGRESSION))
    np.testing.assert_allclose(first, [-2 / 3, 2 / 3])
    np.testing.assert_allclose(second, [(3 + 1 + 0) / 3])


def test_quantile_bins_by_hand():
    """The inner quartiles of 0..7 are 1.75, 3.5 and 5.25; what is tested may lie beyond what was trained on."""
    dataset = dataset_of(np.arange(8.0)[:, None], [[-5.0], [3.5], [99.0]], Task.REGRESSION)
    train, test = quantile_bins(dataset, 4)
    assert train.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert test.tolist() == [0, 2, 3]


@pytest.mark.parametrize("quantiles", [2, 10])
def test_equal_targets_are_one_bin(quantiles):
    train, test = quantile_bins(dataset_of(np.ones((5, 1)), np.ones((2, 1)), Task.REGRESSION), quantiles)
    assert len({*train.tolist(), *test.tolist()}) == 1
