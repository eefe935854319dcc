"""Means and deviations of the real training steps, and of nothing else."""

import numpy as np
import pytest

from fedsim.data.dataset import Split
from fedsim.data.fitted import Column, Fitted, Scaling
from fedsim.data.scaling import standardised


def split(inputs, lengths):
    return Split(np.array(inputs, np.float32), np.array(lengths), np.zeros(len(inputs), np.int64))


def test_by_hand():
    """Real training steps 1, 3 and 5, whose mean is 3 and variance 8/3; the second feature is 7 throughout.

    The padding (9) counts for nothing and becomes zero; a test value of 8 in the constant feature is 1 above it.
    """
    data = split([[[1, 7], [3, 7]], [[5, 7], [9, 9]]], [2, 1]), split([[[3, 8], [9, 9]]], [1])
    train, test, features = standardised(*data, names=("speed", "constant"))
    unit = (8 / 3) ** 0.5
    assert features[0] == Column("speed", 3, pytest.approx(unit, rel=1e-15))
    assert features[1] == Column("constant", 7, 1)
    np.testing.assert_allclose(train.inputs, [[[-2 / unit, 0], [0, 0]], [[2 / unit, 0], [0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(test.inputs, [[[0, 1], [0, 0]]], rtol=1e-6)
    assert train.inputs.dtype == np.float32


def test_scaling_of_other_data():
    """A model that knows one unit as 2 degrees above 10 sees 14 as 2, whatever the mean of the new data is."""
    known = Fitted(Scaling((Column("temperature", 10, 2),)))
    train, test, features = standardised(split([[[14]]], [1]), split([[[9]]], [1]), fitted=known)
    assert train.inputs.tolist() == [[[2]]]
    assert test.inputs.tolist() == [[[-0.5]]]
    assert features == known.scaling.features
