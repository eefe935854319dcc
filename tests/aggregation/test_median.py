"""The coordinate-wise median."""

import numpy as np
import pytest

from fedsim.aggregation.median import Median

DELTAS = np.random.default_rng(1).normal(size=(8, 5))


@pytest.mark.parametrize("clients", [1, 2, 7, 8])
def test_median(combined, clients):
    np.testing.assert_allclose(combined(Median(), DELTAS[:clients]), np.median(DELTAS[:clients], 0), rtol=1e-15)


def test_samples_do_not_count(combined):
    """Of -1, 0, 5 the middle one is 0, whoever has most samples."""
    assert combined(Median(), [[-1.0], [0.0], [5.0]], samples=[1, 1, 100]).item() == 0
