"""The accountant's figures against published ones, and the mechanism that it is told about."""

import math
import sys

import numpy as np
import pytest

from fedsim.errors import UserError
from fedsim.privacy.budget import make_budget, sampling
from fedsim.samplers.poisson import Poisson
from fedsim.samplers.round_robin import RoundRobin
from fedsim.samplers.sampler import ADD_OR_REMOVE, REPLACE, Sampling
from fedsim.samplers.uniform import Uniform

PUBLISHED = {
    # q, sigma, steps, delta, epsilon
    "TensorFlow Privacy, tutorial on MNIST (60 epochs, batches of 256)": (256 / 60000, 1.1, 14062, 1e-5, 3.01),
    "Abadi 2016, section 4: q = 0.01, sigma = 4, T = 10000": (0.01, 4.0, 10000, 1e-5, 1.26),
}


@pytest.fixture
def accountant():
    """Skips where dp-accounting is not installed."""
    pytest.importorskip("dp_accounting")


def renyi(q, sigma, order):
    """Of the sampled Gaussian mechanism, for a whole order (Mironov 2019, "Renyi DP of the SGM", section 3.3)."""
    k = np.arange(order + 1)
    binomials = [math.lgamma(order + 1) - math.lgamma(i + 1) - math.lgamma(order - i + 1) for i in k]
    terms = binomials + (order - k) * math.log1p(-q) + k * math.log(q) + (k**2 - k) / (2 * sigma**2)
    return np.logaddexp.reduce(terms) / (order - 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(accountant, name):
    """The publications turn Renyi's epsilon into the other by adding ``log(1 / delta) / (order - 1)`` (Mironov 2017,
    proposition 3). The accountant uses the tighter proposition 12 of Canonne 2020, so that its figure is lower, by
    what the same formula gives here."""
    q, sigma, steps, delta, published = PUBLISHED[name]
    orders = np.arange(2, 200)
    spent = steps * np.array([renyi(q, sigma, order) for order in orders])
    assert (spent - math.log(delta) / (orders - 1)).min() == pytest.approx(published, abs=0.03)
    tighter = spent + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    found = make_budget(sigma, None, delta, steps, Sampling(ADD_OR_REMOVE, 1.0, q, 60000)).epsilon(steps)
    assert found == pytest.approx(tighter.min(), rel=0.01)
    assert found < published


def test_replacing_a_client_counts_twice(accountant):
    """Everybody takes part: the Gaussian mechanism, whose sum moves by 2 S if a client is replaced."""
    everybody = Sampling(REPLACE, 10.0, None, 10)
    added = Sampling(ADD_OR_REMOVE, 10.0, 1.0, 10)
    for rounds in (1, 7):
        replaced = make_budget(2.0, None, 1e-5, rounds, everybody).epsilon(rounds)
        assert replaced == pytest.approx(make_budget(1.0, None, 1e-5, rounds, added).epsilon(rounds), rel=0.01)
        assert make_budget(2.0, None, 1e-5, rounds, None).epsilon(rounds) == pytest.approx(replaced, rel=0.01)


def test_the_gaussian_mechanism_by_hand(accountant):
    """Order a: ``a * T / (2 sigma^2)``; the least over orders of proposition 12 of Canonne 2020."""
    orders = np.linspace(1.01, 100, 20000)
    spent = orders * 5 / (2 * 3.0**2)
    expected = (spent + np.log1p(-1 / orders) - (math.log(1e-5) + np.log(orders)) / (orders - 1)).min()
    where = Sampling(ADD_OR_REMOVE, 10.0, 1.0, 10)
    assert make_budget(3.0, None, 1e-5, 5, where).epsilon(5) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("where", [Sampling(ADD_OR_REMOVE, 10.0, 0.1, 100), Sampling(REPLACE, 10.0, None, 100), None])
def test_noise_for_a_target(accountant, where):
    budget = make_budget(None, 4.0, 1e-5, 20, where)
    assert budget.epsilon(20) == pytest.approx(4, rel=1e-3)
    assert budget.epsilon(20) <= 4
    assert 0 == budget.epsilon(0) < budget.epsilon(1) < budget.epsilon(19) < budget.epsilon(20)
    assert make_budget(budget.noise_multiplier, None, 1e-5, 20, where).epsilon(20) == budget.epsilon(20)


@pytest.mark.parametrize("z", [0.5, 1.0, 3.0])
def test_the_smaller_of_two_bounds(accountant, z):
    """49 of 50 clients, which hide hardly more than all 50: what Wang 2019 proves of them is more than what can be
    proved without counting the sampling, by the formula of the Gaussian mechanism with half of the multiplier."""
    some, everybody = (Sampling(REPLACE, float(size), None, 50) for size in (49, 50))
    found, without = (make_budget(z, None, 1e-5, 20, where).epsilon(20) for where in (some, everybody))
    orders = np.linspace(1.001, 100, 100000)
    spent = orders * 20 / (2 * (z / 2) ** 2)
    plain = (spent + np.log1p(-1 / orders) - (math.log(1e-5) + np.log(orders)) / (orders - 1)).min()
    assert found == without == pytest.approx(plain, rel=0.01)


def test_few_of_many_are_hidden_by_the_sampling(accountant):
    few, everybody = (Sampling(REPLACE, size, None, 50) for size in (5.0, 50.0))
    found, without = (make_budget(3.0, None, 1e-5, 20, where).epsilon(20) for where in (few, everybody))
    assert found < 0.9 * without


def test_a_target_is_met_by_the_smaller_bound(accountant):
    where = Sampling(REPLACE, 49.0, None, 50)
    everybody = Sampling(REPLACE, 50.0, None, 50)
    noise = [make_budget(None, 4.0, 1e-5, 20, each).noise_multiplier for each in (where, everybody)]
    assert noise[0] == pytest.approx(noise[1], rel=1e-3)


def test_no_noise_is_little_enough(accountant):
    with pytest.raises(UserError, match=r"privacy.target_epsilon=1000000.0: no noise multiplier from 0.05 on"):
        make_budget(None, 1e6, 1e-5, 1, None)


def test_samplers():
    assert sampling(Poisson(probability=0.2), 50) == Sampling(ADD_OR_REMOVE, 10.0, 0.2, 50)
    assert sampling(Uniform(fraction=0.2), 50) == Sampling(REPLACE, 10.0, None, 50)
    with pytest.raises(UserError, match="sampler=round_robin: the accountant"):
        sampling(RoundRobin(), 50)


def test_without_the_accountant(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UserError, match=r"pip install 'dp-accounting>=.*\(the extra 'privacy'\)$"):
        make_budget(1.0, None, 1e-5, 1, None)
