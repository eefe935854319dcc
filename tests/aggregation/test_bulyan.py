"""Bulyan."""

import numpy as np
import pytest

from fedsim.aggregation.bulyan import Bulyan
from fedsim.errors import FieldError, UserError

DELTAS = np.random.default_rng(6).normal(size=(13, 5))


def bulyan(deltas, f):
    """El Mhamdi 2018, section 4: Krum n - 2f times, then per coordinate the n - 4f values around the median."""
    left, chosen = list(range(len(deltas))), []
    while len(chosen) < len(deltas) - 2 * f:

        def score(i, left=left):
            squares = sorted(float(((deltas[i] - deltas[j]) ** 2).sum()) for j in left if j != i)
            return sum(squares[: max(len(left) - f - 2, f + 1)])

        best = min(left, key=score)
        chosen.append(best)
        left = [i for i in left if i != best]
    result = []
    for values in deltas[chosen].T:
        order = np.argsort(abs(values - np.median(values)))
        result.append(np.mean(values[order[: len(deltas) - 4 * f]]))
    return np.array(result)


@pytest.mark.parametrize(("clients", "f"), [(7, 1), (8, 1), (13, 1), (11, 2), (13, 2)])
def test_bulyan(combined, clients, f):
    np.testing.assert_allclose(combined(Bulyan(f=f), DELTAS[:clients]), bulyan(DELTAS[:clients], f), rtol=1e-12)


def test_by_hand(combined):
    """Of 0, 1, 2, 3, 4, 5.5 and 100, five are chosen, of which the three around the median stay.

    With n' left a score sums n' - 3 squares, at least 2. 3 goes first (1+1+4+6.25), then 2 (1+4+4 of the four left
    near it; 1 has 1+1+9), then 1 (1+9+... against 4), and so on: neither 100 nor one end can be among five and stay.
    """
    deltas = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.5], [100.0]])
    found = combined(Bulyan(f=1), deltas).item()
    assert found == pytest.approx(bulyan(deltas, 1).item())
    assert 1 <= found <= 4


def test_what_is_refused(setting):
    with pytest.raises(FieldError, match="f=0"):
        Bulyan(f=0)
    with pytest.raises(UserError, match=r"aggregator.combine.f=1: bulyan needs at least 4f \+ 3 = 7 .* may give 6"):
        Bulyan().check(setting(6, 20))
    Bulyan(f=2).check(setting(11))
