"""Weights of stale updates, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.asynchrony.staleness import Constant, Hinge, Polynomial
from fedsim.errors import FieldError

TAU = torch.arange(7)


def test_polynomial():
    """1 / sqrt(1 + tau): 1, 0.7071, 0.5774, 0.5, ...; with exponent 1 a half, a third."""
    assert Polynomial().weights(TAU).tolist() == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5, 5**-0.5, 6**-0.5, 7**-0.5])
    assert Polynomial(exponent=1.0).weights(TAU[:3]).tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_hinge():
    """Nothing until 4, then 1 / (10 * (5 - 4) + 1) = 1/11, 1/21."""
    assert Hinge().weights(TAU).tolist() == pytest.approx([1, 1, 1, 1, 1, 1 / 11, 1 / 21])
    assert Hinge(slope=1.0, grace=0).weights(TAU[:3]).tolist() == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize("function", [Constant(), Polynomial(exponent=2.0), Hinge(slope=0.5, grace=2)])
@given(staleness=st.lists(st.integers(0, 10**6), max_size=9))
def test_fresh_counts_whole_and_nothing_more_for_being_older(function, staleness):
    weights = function.weights(torch.tensor(sorted(staleness), dtype=torch.int64))
    assert weights.dtype == torch.float64
    assert bool(((weights > 0) & (weights <= 1)).all())
    assert bool((weights.diff() <= 0).all())
    assert function.weights(torch.zeros(1, dtype=torch.int64)).tolist() == [1.0]


def test_bounds():
    for make in (lambda: Polynomial(exponent=0.0), lambda: Hinge(slope=0.0), lambda: Hinge(grace=-1)):
        with pytest.raises(FieldError):
            make()
