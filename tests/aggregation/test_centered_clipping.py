"""Centered clipping."""

import numpy as np
import pytest

from fedsim.aggregation.centered_clipping import CenteredClipping
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.norm_clipped_mean import NormClippedMean
from fedsim.errors import FieldError

DELTAS = 3 * np.random.default_rng(8).normal(size=(70, 4)) + 1


@pytest.mark.parametrize("iterations", [1, 3])
def test_steps(combined, iterations):
    """Karimireddy 2021: v + mean of (x - v) * min(1, tau / |x - v|), from 0."""
    v = np.zeros(4)
    for _ in range(iterations):
        way = DELTAS - v
        v = v + (way * np.minimum(1, 2.0 / np.linalg.norm(way, axis=1))[:, None]).mean(0)
    np.testing.assert_allclose(combined(CenteredClipping(tau=2.0, iterations=iterations), DELTAS), v, rtol=1e-12)


def test_by_hand(combined):
    """3, 4 and -12 with tau 6: 1/3 * (3 + 4 - 6) = 1/3; then 1/3 + 1/3 * (2 2/3 + 3 2/3 - 6) = 4/9."""
    assert combined(CenteredClipping(tau=6, iterations=2), [[3.0], [4.0], [-12.0]]).item() == pytest.approx(4 / 9)


def test_special_cases(combined):
    wide = combined(CenteredClipping(tau=1e6), DELTAS)
    np.testing.assert_allclose(wide, combined(Mean(), DELTAS), rtol=1e-12)
    one = combined(CenteredClipping(tau=2.0, iterations=1), DELTAS)
    np.testing.assert_allclose(one, combined(NormClippedMean(max_norm=2.0), DELTAS), rtol=1e-12)


def test_what_is_refused():
    for values in ({"tau": 0}, {"tau": float("nan")}, {"iterations": 0}):
        with pytest.raises(FieldError, match=next(iter(values))):
            CenteredClipping(**values)
