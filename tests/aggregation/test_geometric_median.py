"""The geometric median."""

import numpy as np
import pytest
import scipy.optimize

from fedsim.aggregation.geometric_median import GeometricMedian
from fedsim.aggregation.mean import Mean
from fedsim.errors import FieldError

RNG = np.random.default_rng(7)
DELTAS, SAMPLES = RNG.normal(size=(70, 4)), RNG.integers(1, 30, 70)


def test_steps(combined):
    """Pillutla 2022, Algorithm 2, written out, from the weighted mean as in the authors' code."""
    v = SAMPLES @ DELTAS / SAMPLES.sum()
    for _ in range(4):
        b = SAMPLES / SAMPLES.sum() / np.maximum(0.5, np.linalg.norm(v - DELTAS, axis=1))
        v = (b[:, None] * DELTAS).sum(0) / b.sum()
    found = combined(GeometricMedian(nu=0.5, iterations=4), DELTAS, samples=SAMPLES)
    np.testing.assert_allclose(found, v, rtol=1e-12)


def test_the_limit_is_the_minimum_of_the_weighted_distances(combined):
    def distances(v):
        return SAMPLES @ np.linalg.norm(DELTAS - v, axis=1)

    best = scipy.optimize.minimize(distances, np.zeros(4), tol=1e-12).x
    found = combined(GeometricMedian(iterations=200), DELTAS, samples=SAMPLES)
    np.testing.assert_allclose(found, best, atol=1e-5)
    assert distances(found) <= distances(best) + 1e-9


def test_a_start_that_is_a_delta(combined):
    """The mean, 1, is a delta, at distance 0, which nu stands for: weights 1e6, and 1/1, 1/1, 1/3 and 1/3."""
    found = combined(GeometricMedian(iterations=1), [[1.0], [0.0], [2.0], [4.0], [-2.0]])
    assert found.item() == pytest.approx(1.0)
    found = combined(GeometricMedian(iterations=1), [[1.0], [0.0], [0.0], [3.0]])  # weights 1e6, 1, 1, 1/2
    assert found.item() == pytest.approx((1e6 + 1.5) / (1e6 + 2.5))


def test_one_step_from_the_mean(combined):
    """Deltas 0, 0 and 9 have the mean 3, at distances 3, 3 and 6: (9 / 6) / (1 / 3 + 1 / 3 + 1 / 6) = 9 / 5."""
    found = combined(GeometricMedian(iterations=1), [[0.0], [0.0], [9.0]])
    assert found.item() == pytest.approx(9 / 5)


def test_a_large_nu_is_the_mean(combined):
    np.testing.assert_allclose(combined(GeometricMedian(nu=1e9), DELTAS), combined(Mean(), DELTAS), rtol=1e-9)


def test_what_is_refused():
    for values in ({"nu": 0}, {"nu": float("inf")}, {"iterations": 0}):
        with pytest.raises(FieldError, match=next(iter(values))):
            GeometricMedian(**values)
