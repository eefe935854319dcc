"""Numbers over rounds and seeds, by their textbook formulas and by scipy's own functions."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.compare.statistics import best_value, holm, middle, paired_interval, round_reached, spread


def test_the_interval_by_hand():
    # d = 1, 2, 4, 5: mean 3, squared deviations 4 + 1 + 1 + 4 = 10, variance 10 / 3, standard error sqrt(10 / 3 / 4).
    # The 0.975 quantile of Student's t with 3 degrees of freedom is 3.18244630528 (any table: 3.182).
    half = 3.18244630528 * math.sqrt(10 / 3 / 4)
    found = paired_interval([1, 2, 4, 5])
    assert (found.mean, found.n) == (3, 4)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-9)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=20))
def test_the_interval_is_scipys(pairs):
    ours, theirs = np.array(pairs).T
    differences = ours - theirs
    if np.ptp(differences) < 1e-6:  # scipy warns that nearly equal numbers lose precision
        return
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = paired_interval(list(differences))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9, abs=1e-12)


def test_equal_differences_have_an_interval_of_width_zero():
    found = paired_interval([0.5, 0.5, 0.5])
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("differences", [[], [1.0], [1.0, math.nan]])
def test_without_two_numbers_there_is_no_interval(differences):
    found = paired_interval(differences)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.n == len(differences)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        # The smallest times 3, the next times 2, the largest times 1, but no smaller than the one before.
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.01, math.nan, 0.03], [0.02, math.nan, 0.03]),
        ([0.6, 0.4, 0.9], [1, 1, 1]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holms_correction(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected, nan_ok=True)


@given(st.lists(st.floats(-5, 5), min_size=1))
def test_the_middle_of_known_values_is_their_median(values):
    assert middle(values) == pytest.approx(np.median(values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, math.inf], 2),
        ([1, math.inf, math.inf], math.inf),
        ([1, math.inf], math.inf),  # halfway to it
        ([-math.inf, math.inf], math.nan),
        ([1, 2, math.nan], math.nan),  # 1 or 2, wherever the third is
        ([2, 2, math.nan], 2),
        ([math.nan, math.inf, math.inf], math.inf),
        ([], math.nan),
    ],
)
def test_the_middle_where_some_failed_or_are_unknown(values, expected):
    assert middle(values) == pytest.approx(expected, nan_ok=True)


def test_the_spread_is_the_sample_standard_deviation():
    found = spread([1.0, 3.0])  # deviations -1 and 1: sqrt(2 / (2 - 1))
    assert (found.mean, found.std, found.n) == (2.0, pytest.approx(math.sqrt(2)), 2)
    assert math.isnan(spread([1.0]).std)
    assert math.isnan(spread([1.0, math.nan]).mean)


def test_a_run_in_numbers():
    values = pd.Series([0.1, 0.5, 0.9, 0.9, 0.7], index=[0, 2, 4, 6, 8])
    assert best_value(values, "max") == (0.9, 4)  # the first of equals
    assert best_value(values, "min") == (0.1, 0)
    assert round_reached(values, 0.5, "max") == 2
    assert round_reached(values, 0.05, "min") is None


@pytest.mark.parametrize("values", [None, pd.Series([], dtype=float)])
def test_nothing_measured(values):
    assert math.isnan(best_value(values, "max")[0])
    assert round_reached(values, 0.5, "max") is None
