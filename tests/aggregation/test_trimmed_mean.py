"""The trimmed mean."""

import numpy as np
import pytest
import scipy.stats
import torch

from fedsim.aggregation.mean import Mean
from fedsim.aggregation.trimmed_mean import TrimmedMean
from fedsim.errors import FieldError, UserError

DELTAS = np.random.default_rng(2).normal(size=(11, 6)) ** 3


@pytest.mark.parametrize(("beta", "cut"), [(0.1, 1), (0.2, 2), (0.3, 3), (0.49, 5)])
def test_trimmed_mean(combined, beta, cut):
    """beta * 11 rounded down at each end; 0.49 * 11 = 5.39 leaves one value, the median."""
    expected = np.sort(DELTAS, 0)[cut : 11 - cut].mean(0)
    np.testing.assert_allclose(expected, scipy.stats.trim_mean(DELTAS, beta, axis=0), rtol=1e-12)
    np.testing.assert_allclose(combined(TrimmedMean(beta=beta), DELTAS), expected, rtol=1e-12)


def test_nothing_trimmed_is_the_mean(combined):
    np.testing.assert_allclose(combined(TrimmedMean(beta=0.0), DELTAS), combined(Mean(), DELTAS), rtol=1e-12)


def test_a_share_that_is_whole_in_decimals_is_whole():
    """0.29 * 100 = 28.999999999999996 in binary."""
    assert TrimmedMean(beta=0.29).trimmed(100) == 29
    assert TrimmedMean(beta=0.2).trimmed(9) == 1


def test_one_client_is_left(combined):
    assert combined(TrimmedMean(beta=0.4), DELTAS[:1], dtype=torch.float64) == pytest.approx(DELTAS[0])


def test_what_is_refused(setting):
    for beta in (0.5, -0.1, float("nan")):
        with pytest.raises(FieldError, match="beta"):
            TrimmedMean(beta=beta)
    with pytest.raises(UserError, match=r"beta=0.1: leaves out nobody of 7 client.* at least 0.143"):
        TrimmedMean(beta=0.1).check(setting(3, 7))
    with pytest.raises(UserError, match=r"nobody of 2 client\(s\) at either end; take aggregator/combine=mean"):
        TrimmedMean(beta=0.4).check(setting(2))
    TrimmedMean(beta=0.143).check(setting(7))
    TrimmedMean(beta=0.1).check(setting(3, 10))  # some cohorts are trimmed
    TrimmedMean(beta=0.0).check(setting(3))
