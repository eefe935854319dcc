"""Numbers by hand, and against counting all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.audits.scores import auc, true_positive_rate

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=12).map(lambda values: np.array(values, float))


def test_auc_by_hand():
    """Pairs (3, 2), (3, 1), (2, 1) are won and (2, 2) is a tie: 3.5 of 4."""
    assert auc(np.array([3.0, 2.0]), np.array([2.0, 1.0])) == 3.5 / 4
    assert auc(np.zeros(3), np.zeros(5)) == 0.5


@given(scores, scores)
def test_auc_is_the_share_of_pairs_won(members, others):
    pairs = members[:, None] - others
    assert auc(members, others) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())


def test_true_positive_rate_by_hand():
    """Of 0..99 one may be above the threshold, which is 98 therefore; two of three members are above it."""
    others = np.arange(100.0)
    assert true_positive_rate(np.array([98.0, 98.5, 99.5]), others, 0.01) == 2 / 3
    assert true_positive_rate(np.array([98.0, 98.5, 99.5]), others[:99], 0.01) == 2 / 3  # nobody above 98
    assert true_positive_rate(np.array([93.0, 92.0]), others, 0.07) == 1 / 2  # 0.07 * 100 = 7.000000000000001
    assert true_positive_rate(np.array([-9.0]), others, 1.0) == 1


@given(scores, scores, st.floats(0, 1))
def test_no_lower_threshold_would_do(members, others, rate):
    found = true_positive_rate(members, others, rate)
    thresholds = [-np.inf, *others]
    allowed = [(members > t).mean() for t in thresholds if (others > t).mean() <= rate + 1e-9]
    assert found == max(allowed)
