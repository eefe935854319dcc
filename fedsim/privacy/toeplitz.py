"""Lower-triangular Toeplitz matrices C for noise ``C^-1 Z``: what they cost in privacy, and which ones are good.

C is given by its first column ``c_0 = 1, c_1, c_2, ...``. Let A be the matrix that sums up the rounds so far, and b the
first column of ``A C^-1``. The squared error of these sums is ``sum_j (1 - j / R) b_j^2`` in the mean over rounds, and
the noise that an epsilon takes grows with the sensitivity of C. So a good C makes the product of the error and the
squared sensitivity small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedsim.samplers.participation import Participation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[np.float64]

SLOWEST = 1e-4
"""A buffer's decay is at most one minus this fraction of 1 / R: beyond, it is a constant for the whole run."""

WORTH = 1e-3
"""A BLT gets another buffer only if that makes error times squared sensitivity smaller by this fraction."""


def sensitivity(column: Column, rounds: int, where: Participation) -> float:
    """Return how far one client moves C times the sums of the first rounds, in units of the clipping norm.

    With at most b bands, the columns of C for rounds b apart have no row in common, so that their squared norms add up
    (Choquette-Choo 2023, Theorem 2). Otherwise the rounds ``1, 1 + b, 1 + 2b, ...`` are the worst if the c_j are
    nonnegative and do not grow (Kalinin and Lampert 2024, Theorem 2); if they do, the smallest such numbers above them
    count.

    Args:
        column: ``[n]``, the c_j; those that are not given are 0.
        rounds: of these, from the first.
        where: how often and how far apart a client takes part.
    """
    if rounds == 0:
        return 0.0
    apart, column = where.separation, column[:rounds]
    times = min(where.most, -(-rounds // apart))
    if len(column) <= apart:
        ends = np.minimum(rounds - apart * np.arange(times), len(column))
        return float(np.sqrt(np.cumsum(column**2)[ends - 1].sum()))
    bounds = np.zeros(-(-rounds // apart) * apart)
    bounds[: len(column)] = np.maximum.accumulate(np.abs(column)[::-1])[::-1]
    sums = bounds.reshape(-1, apart).cumsum(0)  # what rounds 1, 1 + b, ... add up to, were there no end of them
    sums[times:] -= sums[:-times].copy()
    return float(np.linalg.norm(sums.ravel()[:rounds]))


def mean_error(summed: Column) -> float:
    """Return the mean squared error of the running sums for unit noise, from the first column ``[R]`` of ``A C^-1``."""
    return float((1 - np.arange(len(summed)) / len(summed)) @ summed**2)


def root(rounds: int) -> Column:
    """Return the first column of the square root of A, ``c_j = c_(j-1) (2j - 1) / 2j`` (Fichtenberger 2023)."""
    j = np.arange(1, rounds)
    return np.concatenate([[1.0], np.cumprod((2 * j - 1) / (2 * j))])


def best_banded(rounds: int, bands: int) -> Column:
    """Return the column ``[bands]`` for which the error times the squared norm of the column is least.

    The norm stands for the sensitivity: with at most b bands the latter is ``sqrt(k)`` times it (McKenna 2024).
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # slow to import
    from scipy.signal import correlate, lfilter  # type: ignore[import-untyped]  # slow to import

    weights, ones = 1 - np.arange(rounds) / rounds, np.ones(rounds)

    def loss(tail: Column) -> tuple[float, Column]:
        column = np.concatenate([[1.0], tail])
        summed = lfilter([1.0], column, ones)
        error, square = float(weights @ summed**2), float(column @ column)
        # The derivative of A C^-1 after c_j is minus A C^-2, j rounds later.
        twice = lfilter([1.0], column, summed)
        slope = correlate(weights * summed, twice)[rounds - 1 :][:bands]
        return np.log(error) + np.log(square), (2 * column / square - 2 * slope / error)[1:]

    if bands == 1:
        return np.ones(1)
    found = minimize(loss, root(bands)[1:], jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.concatenate([[1.0], found.x])


def buffered(decays: Column, scales: Column, rounds: int) -> Column:
    """Return the column ``c_j = sum_i scales_i decays_i^(j-1)`` for j from 1 to R - 1 of a BLT (Dvijotham 2024)."""
    return np.concatenate([[1.0], scales @ decays[:, None] ** np.arange(rounds - 1)])


def best_buffered(rounds: int, where: Participation, buffers: int) -> tuple[Column, Column]:
    """Return decays and scales ``[d]`` of the BLT whose error times squared sensitivity is least (McMahan 2024).

    There are at most `buffers` of them, and fewer where another one is not worth it. Decays are between 0 and 1, and
    scales are positive with a sum below 1, so that the c_j fall from 1 to 0.
    """
    from scipy.optimize import minimize  # slow to import
    from scipy.signal import lfilter
    from scipy.special import expit  # type: ignore[import-untyped]  # slow to import

    ones = np.ones(rounds)

    def unpacked(numbers: Column) -> tuple[Column, Column]:
        decays, shares = numbers.reshape(2, -1)
        top = max(0.0, shares.max())
        shares = np.exp(shares - top)
        return (1 - SLOWEST / rounds) * expit(decays), shares / (shares.sum() + np.exp(-top))

    def loss(numbers: Column) -> float:
        decays, scales = unpacked(numbers)
        # C as a ratio of polynomials in the delay: 1 + sum_i scales_i z / (1 - decays_i z).
        below = np.poly(decays)
        others = [np.atleast_1d(np.poly(np.delete(decays, i))) for i in range(len(decays))]
        above = below + np.concatenate([[0.0], scales @ np.array(others)])
        error = mean_error(lfilter(below, above, ones))
        return float(np.log(error) + 2 * np.log(sensitivity(buffered(decays, scales, rounds), rounds, where)))

    best, decays, scales = np.inf, ones[:0], ones[:0]
    for count in range(1, buffers + 1):
        tried = []
        for longest in (rounds, where.separation):  # time scales spread evenly, on a logarithmic scale
            slow = 1 / np.geomspace(2, max(4, longest), count)
            start = np.concatenate([np.log((1 - slow) / slow), np.full(count, np.log(0.5 / count))])
            tried.append(minimize(loss, start, method="L-BFGS-B", options={"maxiter": 500, "maxfun": 20000}))
        found = min(tried, key=lambda one: float(one.fun))
        if found.fun > best - WORTH:
            break
        best, (decays, scales) = found.fun, unpacked(found.x)
    order = np.argsort(-decays)
    return decays[order], scales[order]
