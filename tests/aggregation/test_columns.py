"""Statistics over the clients, block by block."""

import numpy as np
import pytest
import torch

from fedsim.aggregation import columns

ROWS = np.random.default_rng(0).normal(size=(7, 23))


@pytest.mark.parametrize("numbers", [1, 7, 50, 10**6])
def test_blocks_change_nothing(monkeypatch, numbers):
    monkeypatch.setattr(columns, "BLOCK_NUMBERS", numbers)
    found = columns.over_clients(torch.tensor(ROWS), lambda values: values[:, 1])
    np.testing.assert_array_equal(found, np.sort(ROWS, 0)[1])
    assert found.dtype == torch.float64


@pytest.mark.parametrize("clients", [1, 2, 3, 4, 7])
def test_median(clients):
    found = columns.over_clients(torch.tensor(ROWS[:clients]), columns.median_of_sorted)
    np.testing.assert_allclose(found, np.median(ROWS[:clients], 0), rtol=1e-15)


def test_weighted_sum_is_in_double_precision(monkeypatch):
    """1e8 + 1 is 1e8 in float32."""
    monkeypatch.setattr(columns, "BLOCK", 2)
    rows = torch.tensor([[1e8], [1.0], [-1e8]])
    assert columns.weighted_sum(rows, torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64)).item() == 3
