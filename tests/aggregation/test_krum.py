"""Krum."""

import numpy as np
import pytest

from fedsim.aggregation.krum import Krum
from fedsim.errors import FieldError, UserError

DELTAS = np.random.default_rng(4).normal(size=(9, 4))


def krum_scores(deltas, f):
    """Blanchard 2017, section 4: the sum over the n - f - 2 closest others of the squared distance."""
    n, result = len(deltas), []
    for i in range(n):
        squares = sorted(float(((deltas[i] - deltas[j]) ** 2).sum()) for j in range(n) if j != i)
        result.append(sum(squares[: n - f - 2]))
    return result


@pytest.mark.parametrize("f", [0, 1, 2, 3])
def test_krum(combined, f):
    np.testing.assert_array_equal(combined(Krum(f=f), DELTAS), DELTAS[np.argmin(krum_scores(DELTAS, f))])


def test_by_hand(combined):
    """n = 5, f = 1: two neighbours. Of 0, 1, 3, 3.5, 9 the scores are 1+9, 1+4, .25+4, .25+6.25, 5.5^2+6^2."""
    deltas = [[0.0], [1.0], [3.0], [3.5], [9.0]]
    assert krum_scores(np.array(deltas), 1) == [10, 5, 4.25, 6.5, 66.25]
    assert combined(Krum(f=1), deltas).item() == 3


def test_equal_scores_go_to_the_first(combined):
    assert combined(Krum(f=0), [[2.0], [-2.0], [2.0], [-2.0]]).item() == 2


def test_what_is_refused(setting):
    with pytest.raises(FieldError, match="f=-1"):
        Krum(f=-1)
    with pytest.raises(UserError, match=r"aggregator.combine.f=2: krum needs at least 2f \+ 3 = 7 .* may give 6"):
        Krum(f=2).check(setting(6, 20))
    Krum(f=2).check(setting(7))
