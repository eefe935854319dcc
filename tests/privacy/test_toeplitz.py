"""Toeplitz factorisations: their sensitivity against all choices of rounds, their error, and that they are the best."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from fedsim.privacy import toeplitz
from fedsim.privacy.correlated import noise_for
from fedsim.samplers.participation import Participation


def matrix(column, rounds):
    """C, lower-triangular, from its first column."""
    padded = np.zeros(rounds)
    padded[: min(len(column), rounds)] = column[:rounds]
    return np.tril(scipy.linalg.toeplitz(padded))


def by_trying_all(C, where):
    """The largest ``|sum_i c_i u_i|`` over rounds that are b apart and vectors u_i no longer than 1.

    The squared norm is a sum of entries of ``C^T C`` times cosines, hence at most that of their absolute values, which
    parallel vectors reach if no entry is negative.
    """
    gram, best = np.abs(C.T @ C), 0.0
    for count in range(1, min(where.most, len(C)) + 1):
        for chosen in itertools.combinations(range(len(C)), count):
            if all(b - a >= where.separation for a, b in itertools.pairwise(chosen)):
                best = max(best, gram[np.ix_(chosen, chosen)].sum())
    return math.sqrt(best)


COLUMNS = {
    "one band": [1.0],
    "bands": [1.0, 0.7, 0.2],
    "bands that grow": [1.0, 0.2, 0.6],
    "bands of both signs": [1.0, -0.5, 0.4],
    "as many as rounds": [1.0, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.01],
    "all alike": [1.0] * 10,
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(("separation", "most"), [(1, 10), (1, 3), (2, 5), (3, 4), (3, 2), (4, 3), (10, 1)])
def test_the_worst_rounds_of_a_client(name, separation, most):
    """Exact for columns that fall, and where no two participations meet in a row; else an upper bound."""
    column, where = np.array(COLUMNS[name]), Participation(separation, most)
    falls = (np.diff(column) <= 0).all() and (column >= 0).all()
    for rounds in range(1, 11):
        found, worst = toeplitz.sensitivity(column, rounds, where), by_trying_all(matrix(column, rounds), where)
        if falls or len(column) <= separation:
            assert found == pytest.approx(worst)
        assert found >= worst * (1 - 1e-12)
    assert toeplitz.sensitivity(column, 0, where) == 0


def error(C):
    """Mean over rounds of the squared error of running sums: rows of ``A C^-1``, for unit noise."""
    summed = np.tril(np.ones_like(C)) @ np.linalg.inv(C)
    return (summed**2).sum() / len(C)


@pytest.mark.parametrize("name", ["bands", "as many as rounds"])
def test_the_error(name):
    C = matrix(np.array(COLUMNS[name]), 10)
    first = (np.tril(np.ones((10, 10))) @ np.linalg.inv(C))[:, 0]
    assert toeplitz.mean_error(first) == pytest.approx(error(C))


def test_the_root():
    """``C C = A``, the sums. With one participation it is the best for the largest error of a sum (Dvijotham 2024), and
    for the mean error not far from the best."""
    C = matrix(toeplitz.root(40), 40)
    np.testing.assert_allclose(C @ C, np.tril(np.ones((40, 40))), atol=1e-12)
    best = matrix(toeplitz.best_banded(40, 40), 40)

    def loss(C):
        return error(C) * (C[:, 0] ** 2).sum()

    assert loss(best) < loss(C) < 1.06 * loss(best)


@pytest.mark.parametrize(("rounds", "bands"), [(1, 1), (12, 1), (12, 3), (12, 12)])
def test_the_best_bands(rounds, bands):
    """A minimiser that knows neither filters nor derivatives, on whole matrices, finds nothing better."""

    def loss(tail):
        C = matrix(np.array([1.0, *tail]), rounds)
        return math.log(error(C) * (1 + (np.array(tail) ** 2).sum()))

    column = toeplitz.best_banded(rounds, bands)
    assert len(column) == bands
    assert column[0] == 1
    if bands > 1:
        start = 0.5 ** np.arange(1, bands)
        found = scipy.optimize.minimize(loss, start, method="Powell", options={"xtol": 1e-10, "ftol": 1e-14})
        assert loss(column[1:]) <= found.fun + 1e-7
        np.testing.assert_allclose(column[1:], found.x, atol=2e-3)


@pytest.mark.parametrize(("rounds", "separation"), [(1, 1), (2, 1), (30, 6), (200, 20), (500, 500)])
def test_the_best_buffers(rounds, separation):
    """No random change of it is better; not much worse than bands, which have more numbers, and much better than
    independent noise. McMahan 2024 finds BLTs to be nearly as good as bands."""
    where = Participation(separation, math.ceil(rounds / separation))
    decays, scales = toeplitz.best_buffered(rounds, where, 4)
    assert 1 <= len(decays) == len(scales) <= 4
    assert (decays > 0).all()
    assert (np.diff(decays) <= 0).all()
    assert decays[0] < 1
    assert (scales > 0).all()
    assert scales.sum() < 1

    def loss(decays, scales):
        column = toeplitz.buffered(decays, scales, rounds)
        return error(matrix(column, rounds)) * toeplitz.sensitivity(column, rounds, where) ** 2

    found, rng = loss(decays, scales), np.random.default_rng(0)
    for _ in range(50):
        near = np.clip(1 - (1 - decays) * np.exp(rng.normal(size=len(decays)) * 0.01), 0, 1 - 1e-9)
        other = loss(near, scales * np.exp(rng.normal(size=len(scales)) * 0.01))
        assert other >= found * (1 - 1e-6)
    column = toeplitz.best_banded(rounds, min(separation, rounds))
    banded = error(matrix(column, rounds)) * toeplitz.sensitivity(column, rounds, where) ** 2
    independent = error(np.eye(rounds)) * where.most
    assert found <= 1.14 * banded
    assert found <= independent * (1 + 1e-4)  # where that is the best, scales come near 0
    assert rounds < 30 or found < 0.4 * independent


def test_a_buffer_column():
    """c_j = sum_i scales_i decays_i^(j-1)."""
    found = toeplitz.buffered(np.array([0.5, 0.2]), np.array([0.4, 0.1]), 4)
    np.testing.assert_allclose(found, [1, 0.5, 0.22, 0.104])


def test_four_hundred_bands():
    """2000 rounds, 400 bands, clients 400 apart: five whole columns without a row in common.

    For epsilon = 3.42 at delta = 1e-10, one Gaussian mechanism takes the multiplier m at which the least over orders of
    ``a / (2 m^2) + log(1 - 1 / a) - log(delta a) / (a - 1)`` is 3.42, and this one sqrt(5) norms of a column as much.
    """
    pytest.importorskip("dp_accounting")
    column = toeplitz.best_banded(2000, 400)
    sensitivity = toeplitz.sensitivity(column, 2000, Participation(400, 5))
    assert sensitivity == pytest.approx(math.sqrt(5) * np.linalg.norm(column))
    orders = np.linspace(2, 200, 20000)
    multiplier = noise_for(3.42, 1e-10)
    spent = orders / (2 * multiplier**2) + np.log1p(-1 / orders) - (np.log(1e-10) + np.log(orders)) / (orders - 1)
    assert spent.min() == pytest.approx(3.42, abs=2e-3)
    assert multiplier * sensitivity / np.linalg.norm(column) == pytest.approx(4.255, abs=1e-3)
