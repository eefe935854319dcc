"""The plain mean."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.aggregation.mean import Mean
from fedsim.aggregation.rules import combine_chunks
from fedsim.clients.report import Report


def combined(deltas, dtype=torch.float64, chunk=3):
    """The mean of rows that arrive in chunks."""
    rows = torch.tensor(np.asarray(deltas), dtype=dtype)
    report = Report(torch.arange(1, chunk + 1), torch.ones(chunk), torch.ones(chunk))
    return combine_chunks(Mean(), rows[0], ((part, report) for part in rows.split(chunk)))[0]


def test_mean():
    deltas = np.random.default_rng(0).normal(size=(8, 5))
    np.testing.assert_allclose(combined(deltas), deltas.mean(0), rtol=1e-14)


@given(value=st.floats(-1e6, 1e6, width=32), clients=st.integers(1, 200), chunk=st.integers(1, 70))
def test_equal_deltas_average_to_themselves(value, clients, chunk):
    """In float64 the sum of n <= 200 equal float32 numbers is exact (24 + 8 bits), and so is its n-th part."""
    assert combined([[value]] * clients, torch.float32, chunk).item() == value


def test_sums_run_in_double_precision():
    """In float32 1e8 + 1 is 1e8, and the mean of 1e8, 1 and -1e8 would be 0."""
    for chunk in (1, 2, 3):
        assert combined([[1e8], [1.0], [-1e8]], torch.float32, chunk).item() == np.float32(1 / 3)
