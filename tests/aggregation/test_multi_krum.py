"""Multi-Krum."""

import numpy as np
import pytest

from fedsim.aggregation.krum import Krum
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.multi_krum import MultiKrum
from fedsim.errors import FieldError, UserError

DELTAS = np.random.default_rng(5).normal(size=(9, 4))


@pytest.mark.parametrize(("f", "m"), [(1, 3), (2, 5), (3, None), (1, None)])
def test_multi_krum(combined, f, m):
    """The mean of the m rows with the least sum of squared distances to their 9 - f - 2 nearest; None is 9 - f."""
    squares = np.sort(((DELTAS[:, None] - DELTAS) ** 2).sum(2), 1)[:, 1:]  # without the zero to itself
    best = np.argsort(squares[:, : 9 - f - 2].sum(1))[: m or 9 - f]
    np.testing.assert_allclose(combined(MultiKrum(f=f, m=m), DELTAS), DELTAS[best].mean(0), rtol=1e-12)


def test_one_is_krum_and_all_are_the_mean(combined):
    np.testing.assert_array_equal(combined(MultiKrum(f=2, m=1), DELTAS), combined(Krum(f=2), DELTAS))
    np.testing.assert_allclose(combined(MultiKrum(f=2, m=9), DELTAS), combined(Mean(), DELTAS), rtol=1e-12)


def test_what_is_refused(setting):
    with pytest.raises(FieldError, match="m=0"):
        MultiKrum(m=0)
    with pytest.raises(UserError, match=r"f=3: krum needs at least 2f \+ 3 = 9"):
        MultiKrum(f=3).check(setting(8))
    with pytest.raises(UserError, match=r"m=9: cannot be more than .* may give 8"):
        MultiKrum(m=9).check(setting(8))
    with pytest.raises(UserError, match=r"f=1 and m=8 choose all 8 clients; take aggregator/combine=mean"):
        MultiKrum(m=8).check(setting(8))
    with pytest.raises(UserError, match=r"f=0 and m=null choose all 8 clients"):
        MultiKrum(f=0).check(setting(8))
    MultiKrum(f=0, m=7).check(setting(8))
