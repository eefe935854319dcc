"""q-FFL."""

import numpy as np
import pytest

from fedsim.aggregation.mean import Mean
from fedsim.aggregation.qffl import QFFL
from fedsim.clients.optimizers import SGD, Adam
from fedsim.errors import Diverged, FieldError, UserError

RNG = np.random.default_rng(10)
DELTAS, LOSS, LR = RNG.normal(size=(9, 4)), RNG.uniform(0.1, 3, 9), 0.3


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_algorithm_2(combined, q, chunk):
    """Li 2020, Algorithm 2, in its own letters: w' = w - sum Delta_k / sum h_k."""
    w = RNG.normal(size=4)
    local, lipschitz = w + DELTAS, 1 / LR
    dw = lipschitz * (w - local)
    delta = LOSS[:, None] ** q * dw
    h = q * LOSS ** (q - 1) * (dw**2).sum(1) + lipschitz * LOSS**q
    expected = -delta.sum(0) / h.sum()
    found = combined(QFFL(q=q), DELTAS, chunk, start_loss=LOSS, lr=np.full(9, LR))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_q_zero_is_the_mean(combined):
    found = combined(QFFL(q=0), DELTAS, start_loss=LOSS, lr=np.full(9, LR))
    np.testing.assert_allclose(found, combined(Mean(), DELTAS), rtol=1e-14)


def test_a_loss_of_zero_is_no_accident(combined):
    """0 ** (0.5 - 1) is infinite; 1e-10 stands for 0."""
    found = combined(QFFL(q=0.5), [[1.0], [1.0]], start_loss=[0, 1], lr=[1, 1])
    assert np.isfinite(found).all()


def test_a_loss_that_is_not_finite(combined):
    with pytest.raises(Diverged, match="loss before training"):
        combined(QFFL(), DELTAS, start_loss=[*LOSS[1:], np.nan], lr=np.full(9, LR))


def test_what_is_refused(setting):
    with pytest.raises(FieldError, match="q=-1"):
        QFFL(q=-1)
    with pytest.raises(UserError, match=r"client/optimizer=adam: aggregator/combine=qffl takes"):
        QFFL().check(setting(optimizer=Adam()))
    QFFL().check(setting(optimizer=SGD(momentum=0.5)))
