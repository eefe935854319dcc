"""What rules promise when some rows are arbitrarily bad, and what they do not depend on: properties by hypothesis."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from fedsim.aggregation.bulyan import Bulyan
from fedsim.aggregation.centered_clipping import CenteredClipping
from fedsim.aggregation.geometric_median import GeometricMedian
from fedsim.aggregation.krum import Krum
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.median import Median
from fedsim.aggregation.multi_krum import MultiKrum
from fedsim.aggregation.norm_clipped_mean import NormClippedMean
from fedsim.aggregation.trimmed_mean import TrimmedMean

RULES = [
    *(Mean(), Median(), TrimmedMean(beta=0.2), Krum(f=2), MultiKrum(f=2), Bulyan(f=2)),
    *(GeometricMedian(), CenteredClipping(tau=1.5), NormClippedMean(max_norm=1.5)),
]
ANYWHERE = [rule for rule in RULES if not isinstance(rule, GeometricMedian | CenteredClipping | NormClippedMean)]
"""Rules that do not look at where zero, the global row, is."""

N, F, P = 11, 2, 4
seeds = st.integers(0, 10**6)
sizes = st.sampled_from([1e-3, 1.0, 10.0, 1e6, 1e12])
named = {"ids": lambda rule: type(rule).__name__}


def cohort(seed, size=None, f=F, n=N):
    """Good rows around a point, and f bad ones: one point far away, opposite points, or noise without limits."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, P)) + 3 * rng.normal(size=P)
    good = np.ones(n, bool)
    if size is not None:
        bad = rng.choice(n, f, replace=False)
        good[bad] = False
        direction = rng.normal(size=P)
        attack = [np.tile(direction, (f, 1)), np.outer(rng.choice([-1, 1], f), direction), rng.normal(size=(f, P))]
        rows[bad] = size * attack[seed % 3]
    return rows, good


@pytest.mark.parametrize("rule", RULES, **named)
@given(seed=seeds)
def test_the_order_of_clients_does_not_matter(combined, rule, seed):
    rows, _ = cohort(seed)
    shuffled = np.random.default_rng(seed).permutation(rows)
    np.testing.assert_allclose(combined(rule, shuffled, N), combined(rule, rows, N), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ANYWHERE, **named)
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_shifted_and_stretched_rows(combined, rule, seed, scale):
    rows, _ = cohort(seed)
    shift = np.random.default_rng(seed).normal(size=P) * 5
    expected = scale * combined(rule, rows, N) + shift
    np.testing.assert_allclose(combined(rule, scale * rows + shift, N), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, **named)
@given(seed=seeds)
def test_equal_rows_give_that_row(combined, rule, seed):
    """Short enough not to be clipped."""
    row = np.random.default_rng(seed).uniform(-0.7, 0.7, P)
    np.testing.assert_allclose(combined(rule, np.tile(row, (N, 1)), N), row, rtol=1e-6)


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(beta=0.2)], **named)
@given(seed=seeds, size=sizes)
def test_coordinates_stay_within_those_of_the_good_rows(combined, rule, seed, size):
    rows, good = cohort(seed, size)
    found = combined(rule, rows)
    assert (rows[good].min(0) - 1e-9 <= found).all()
    assert (found <= rows[good].max(0) + 1e-9).all()


@given(seed=seeds, size=sizes)
def test_the_median_stands_almost_half(combined, seed, size):
    rows, good = cohort(seed, size, f=5)
    found = combined(Median(), rows)
    assert (rows[good].min(0) - 1e-9 <= found).all()
    assert (found <= rows[good].max(0) + 1e-9).all()


@given(seed=seeds, size=sizes, f=st.integers(1, 5))
def test_the_geometric_median_is_near_the_good_rows(combined, seed, size, f):
    """Within 2 (n - f) / (n - 2f) radii of any centre of the good rows (Lopuhaa and Rousseeuw 1991, theorem 2.2)."""
    rows, good = cohort(seed, size, f)
    found = combined(GeometricMedian(iterations=300), rows)
    centre = rows[good].mean(0)
    radius = np.linalg.norm(rows[good] - centre, axis=1).max()
    assert np.linalg.norm(found - centre) <= 2 * (N - f) / (N - 2 * f) * radius * (1 + 1e-6)


@given(seed=seeds, size=sizes, f=st.integers(1, 4))
def test_krum_chooses_next_to_a_good_row(combined, seed, size, f):
    """A good row scores at most (n - f - 2) D^2 if D is the good rows' diameter, and so does the one chosen. Of its
    n - f - 2 nearest at most f - 1 are bad, so one at least is good, within sqrt(n - f - 2) D."""
    rows, good = cohort(seed, size, f)
    found = combined(Krum(f=f), rows)
    diameter = cdist(rows[good], rows[good]).max()
    nearest = np.linalg.norm(rows[good] - found, axis=1).min()
    assert nearest <= np.sqrt(N - f - 2) * diameter


@given(seed=seeds, size=sizes, f=st.integers(1, 4))
def test_multi_krum_averages_rows_next_to_good_ones(combined, seed, size, f):
    """With m = 2, half of what is averaged may be the worst that krum admits; the good ones themselves always fit."""
    rows, good = cohort(seed, size, f)
    found = combined(MultiKrum(f=f, m=2), rows)
    diameter = cdist(rows[good], rows[good]).max()
    assert np.linalg.norm(rows[good] - found, axis=1).min() <= (np.sqrt(N - f - 2) + 1) * diameter


@given(seed=seeds, size=sizes)
def test_bulyan_is_within_a_width_of_the_good_range(combined, seed, size):
    """n - 2f are chosen, most of them good: their median is within the good range, and n - 4f good values at least
    lie within one width of it, so those nearest do."""
    rows, good = cohort(seed, size)
    found = combined(Bulyan(f=F), rows)
    low, high = rows[good].min(0), rows[good].max(0)
    assert (low - (high - low) <= found).all()
    assert (found <= high + (high - low)).all()


@given(seed=seeds, size=sizes)
def test_a_bad_row_moves_clipped_rules_by_its_share_of_the_radius(combined, seed, size):
    """Norm clipping: each row is within the bound, so f bad ones move the mean by 2 f / n bounds at most. Centered
    clipping: whatever the rows, a step is at most tau long."""
    rows, good = cohort(seed, size)
    changed = np.where(good[:, None], rows, -rows[::-1])
    one, other = (combined(NormClippedMean(max_norm=1.5), r) for r in (rows, changed))
    assert np.linalg.norm(one - other) <= 2 * F / N * 1.5 + 1e-9
    assert np.linalg.norm(combined(CenteredClipping(tau=1.5, iterations=3), rows)) <= 3 * 1.5 + 1e-9
    one, other = (combined(CenteredClipping(tau=1.5, iterations=1), r) for r in (rows, changed))
    assert np.linalg.norm(one - other) <= 2 * F / N * 1.5 + 1e-9
