"""Means and deviations of the real training steps, and of nothing else."""

import numpy as np

from fedsim.data.dataset import Split
from fedsim.data.scaling import standardised


def split(inputs, lengths):
    return Split(np.array(inputs, np.float32), np.array(lengths), np.zeros(len(inputs), np.int64))


def test_by_hand():
    """Real training steps 1, 3 and 5, whose mean is 3 and variance 8/3; the second feature is 7 throughout.

    The padding (9) counts for nothing and becomes zero; a test value of 8 in the constant feature is 1 above it.
    """
    train, test = standardised(split([[[1, 7], [3, 7]], [[5, 7], [9, 9]]], [2, 1]), split([[[3, 8], [9, 9]]], [1]))
    unit = (8 / 3) ** 0.5
    np.testing.assert_allclose(train.inputs, [[[-2 / unit, 0], [0, 0]], [[2 / unit, 0], [0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(test.inputs, [[[0, 1], [0, 0]]], rtol=1e-6)
    assert train.inputs.dtype == np.float32
