"""The mean of clipped deltas."""

import numpy as np
import pytest

from fedsim.aggregation.norm_clipped_mean import NormClippedMean
from fedsim.aggregation.weighted import Weighted
from fedsim.errors import FieldError

RNG = np.random.default_rng(9)
DELTAS, SAMPLES = RNG.normal(size=(9, 4)), RNG.integers(1, 30, 9)


@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_norm_clipped_mean(combined, chunk):
    clipped = DELTAS / np.maximum(1, np.linalg.norm(DELTAS, axis=1) / 1.5)[:, None]
    found = combined(NormClippedMean(max_norm=1.5), DELTAS, chunk, samples=SAMPLES)
    np.testing.assert_allclose(found, SAMPLES @ clipped / SAMPLES.sum(), rtol=1e-12)


def test_by_hand(combined):
    """(3, 4) has norm 5 and becomes (0.6, 0.8); (0, 0.5) stays; weights 1 and 3."""
    found = combined(NormClippedMean(max_norm=1), [[3.0, 4.0], [0.0, 0.5]], samples=[1, 3])
    assert found.tolist() == pytest.approx([0.15, 0.575])


def test_a_bound_above_all_norms_is_fedavg(combined):
    found = combined(NormClippedMean(max_norm=100), DELTAS, samples=SAMPLES)
    np.testing.assert_array_equal(found, combined(Weighted(), DELTAS, samples=SAMPLES))


def test_what_is_refused():
    with pytest.raises(FieldError, match="max_norm"):
        NormClippedMean(max_norm=0)
