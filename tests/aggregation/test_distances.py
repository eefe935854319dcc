"""Distances between rows."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from fedsim.aggregation.distances import squared_distances

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("clients", [1, 2, 9])
def test_distances(clients):
    rows = RNG.normal(size=(clients, 30))
    np.testing.assert_allclose(squared_distances(torch.tensor(rows)), cdist(rows, rows, "sqeuclidean"), atol=1e-12)


def test_rows_far_from_zero_and_near_each_other():
    """Without taking them from their centre, 1e8^2 would leave errors of about 1 in squares near 2e-4."""
    rows = 1e8 + 1e-3 * RNG.normal(size=(6, 100)).round(2)
    exact = cdist(rows - 1e8, rows - 1e8, "sqeuclidean")
    np.testing.assert_allclose(squared_distances(torch.tensor(rows)), exact, rtol=1e-9)


def test_a_far_row_does_not_blur_the_others():
    rows = RNG.normal(size=(7, 20))
    exact = cdist(rows, rows, "sqeuclidean")[:5, :5]
    rows[5:] = 1e12
    np.testing.assert_allclose(squared_distances(torch.tensor(rows))[:5, :5], exact, rtol=1e-12, atol=1e-14)


def test_overflow_is_far_away():
    rows = torch.tensor([[0.0], [1.0], [1e200], [-1e200]], dtype=torch.float64)
    found = squared_distances(rows)
    assert found[0, 1] == 1
    assert torch.isinf(found[2:, :2]).all()
    assert not torch.isnan(found).any()
