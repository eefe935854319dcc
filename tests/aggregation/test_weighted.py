"""Weighted means."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.aggregation.rules import combine_chunks
from fedsim.aggregation.weighted import Weighted
from fedsim.clients.report import Report
from fedsim.errors import Diverged, FieldError

RNG = np.random.default_rng(1)
DELTAS = RNG.normal(size=(7, 4))
SAMPLES = np.array([3, 40, 1, 7, 7, 12, 100])
LOSS = np.array([0.5, 2.0, 0.01, 1.1, 0.7, 0.0, 3.0])
TOKENS = np.array([30, 100, 0, 7, 70, 12, 900])
ACCURACY = np.array([0.0, 0.25, 1.0, 0.5, 0.0, 0.75, 0.1])


def combined(
    by,
    deltas=DELTAS,
    loss=LOSS,
    accuracy=ACCURACY,
    chunk=3,
    samples=SAMPLES,
    tokens=TOKENS,
    dtype=torch.float64,
    power=1.0,
):
    """The weighted mean of rows that arrive in chunks."""
    rows = torch.tensor(np.asarray(deltas), dtype=dtype)
    columns = (torch.tensor(samples), torch.ones(len(rows)), torch.ones(len(rows)))
    columns += tuple(torch.tensor(column, dtype=torch.float64) for column in (loss, accuracy))
    columns += (None,) * 3 + (torch.tensor(tokens if len(tokens) == len(rows) else samples),)
    parts = torch.arange(len(rows)).split(chunk)
    chunks = ((rows[p], Report(*(None if c is None else c[p] for c in columns))) for p in parts)
    return combine_chunks(Weighted(by=by, power=power), rows[0], chunks)[0].numpy()


@pytest.mark.parametrize(
    ("by", "weights"),
    # A loss of exactly zero counts as 1e-12, so that its weight is finite.
    [("samples", SAMPLES), ("tokens", TOKENS), ("accuracy", ACCURACY), ("loss", 1 / np.maximum(LOSS, 1e-12))],
)
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_weights(by, weights, chunk):
    expected = (weights[:, None] * DELTAS).sum(0) / weights.sum()
    np.testing.assert_allclose(combined(by, chunk=chunk), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("by", "power", "weights"),
    [("samples", 0.5, SAMPLES**0.5), ("samples", -1, 1 / SAMPLES), ("accuracy", 2, ACCURACY**2), ("loss", -2, LOSS**2)],
)
def test_powers(by, power, weights):
    """The weight of a loss is its inverse, so a power of -2 weighs by its square."""
    expected = (weights[:, None] * DELTAS).sum(0) / weights.sum()
    np.testing.assert_allclose(combined(by, power=power), expected, rtol=1e-12)


def test_a_lower_loss_weighs_more():
    """Weights 1/0.5 = 2 and 1/2 = 0.5: (2 * 1 + 0.5 * 0) / 2.5 = 0.8."""
    two = {"loss": [0.5, 2.0], "accuracy": [0, 0], "samples": np.array([1, 1]), "tokens": ()}
    assert combined("loss", [[1.0], [0.0]], **two) == pytest.approx(0.8)


def test_a_client_without_tokens_counts_for_nothing():
    """Of 0 tokens the power -1 would be infinite; if no client has any, the plain mean is taken."""
    weights = np.divide(1.0, TOKENS, where=TOKENS > 0, out=np.zeros(7))
    expected = (weights[:, None] * DELTAS).sum(0) / weights.sum()
    np.testing.assert_allclose(combined("tokens", power=-1), expected, rtol=1e-12)
    np.testing.assert_allclose(combined("tokens", tokens=0 * TOKENS), DELTAS.mean(0), rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_accuracies_of_zero_fall_back_to_the_plain_mean(chunk):
    np.testing.assert_allclose(combined("accuracy", accuracy=0 * ACCURACY, chunk=chunk), DELTAS.mean(0), rtol=1e-12)


@given(value=st.floats(-1e6, 1e6, width=32), samples=st.lists(st.integers(1, 1000), min_size=1, max_size=100))
def test_equal_deltas_average_to_themselves(value, samples):
    """Products and sums are exact in float64: 24 bits of a float32, 10 of a weight and 7 of their number."""
    ones = np.ones(len(samples))
    mean = combined("samples", [[value]] * len(samples), ones, ones, 64, np.array(samples), dtype=torch.float32)
    assert mean.item() == value


def test_sums_run_in_double_precision():
    """In float32, 1e8 + 1 is 1e8; weights 1, 3, 1 give (1e8 + 3 - 1e8) / 5."""
    three = {"loss": np.ones(3), "accuracy": np.ones(3), "samples": np.array([1, 3, 1]), "dtype": torch.float32}
    for chunk in (1, 2, 3):
        assert combined("samples", [[1e8], [1.0], [-1e8]], chunk=chunk, **three).item() == np.float32(0.6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_no_weight(value):
    with pytest.raises(Diverged, match="validation loss is not finite"):
        combined("loss", loss=[value, *LOSS[1:]])


def test_unknown_weights_are_refused():
    with pytest.raises(FieldError, match=r"by=.*did you mean 'loss'"):
        Weighted(by="lost")


@pytest.mark.parametrize(("by", "power"), [("loss", 0), ("loss", float("nan")), ("samples", 0), ("accuracy", -1)])
def test_powers_that_are_no_weights(by, power):
    with pytest.raises(FieldError, match="power="):
        Weighted(by=by, power=power)
