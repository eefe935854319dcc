"""Statistics of runs: one run's results, the mean and spread over seeds, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Values over seeds.

    Attributes:
        mean: their mean; NaN if there are none, or one of them is NaN.
        std: their sample standard deviation (divisor n - 1); NaN for fewer than two.
        n: their number.
    """

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean difference, its interval, and the p-value of the paired t test; these are NaN for fewer than two pairs."""

    mean: float
    low: float
    high: float
    p: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, n)
    with np.errstate(over="ignore", invalid="ignore"):  # values of runs that diverge may be near the largest float
        return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if n > 1 else math.nan, n)


def middle(values: Sequence[float]) -> float:
    """The median of values of which some may not be known.

    Args:
        values: infinite ones stand for results that are worse (or better) than any number; NaN for unknown ones.

    Returns:
        The median, which may be infinite; NaN if it depends on the unknown values, or there are none at all.
    """
    if not values:
        return math.nan
    low, high = (_median([worst if math.isnan(v) else v for v in values]) for worst in (-math.inf, math.inf))
    return low if low == high else math.nan


def _median(values: Sequence[float]) -> float:
    order = sorted(values)
    low, high = order[(len(order) - 1) // 2], order[len(order) // 2]
    return low if low == high else (low + high) / 2


def paired_interval(differences: Sequence[float]) -> Interval:
    """Student's paired interval of level `CONFIDENCE`: mean(d) ± t(n - 1) * std(d) / sqrt(n), and its two-sided test.

    Both hold for differences that are about normal; equal differences give an interval of width zero.
    """
    found = spread(differences)
    if found.n < 2 or math.isnan(found.mean):
        return Interval(found.mean, math.nan, math.nan, math.nan, found.n)
    # Student's distribution, without scipy.stats' long import
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # slow to import

    error = found.std / math.sqrt(found.n)
    half = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2)) * error
    ratio = abs(found.mean) / error if error > 0 else math.inf if found.mean != 0 else 0.0
    return Interval(found.mean, found.mean - half, found.mean + half, 2 * float(stdtr(found.n - 1, -ratio)), found.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's step-down method, which bounds the chance of any false rejection.

    The k-th smallest of m is multiplied by m - k + 1; none becomes smaller than the one before, or larger than 1.

    Args:
        p_values: NaN where no test was made; these stay NaN and do not count.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    order = sorted((at for at, p in enumerate(p_values) if not math.isnan(p)), key=lambda at: p_values[at])
    corrected, least = [math.nan] * len(p_values), 0.0
    for done, at in enumerate(order):
        least = max(least, min(1.0, (len(order) - done) * p_values[at]))
        corrected[at] = least
    return corrected


def best_value(values: pd.Series[float] | None, mode: str) -> tuple[float, float]:
    """The best finite value and the round of it (the first, of equals); NaNs if there is none."""
    finite = None if values is None else values[values.abs() < math.inf]
    if finite is None or finite.empty:
        return math.nan, math.nan
    at = int(finite.argmin() if mode == "min" else finite.argmax())
    return float(finite.iloc[at]), float(finite.index[at])


def round_reached(values: pd.Series[float] | None, target: float, mode: str) -> int | None:
    """The first evaluated round whose value is at least as good as `target`, or None."""
    if values is None:
        return None
    good = values[values <= target] if mode == "min" else values[values >= target]
    return None if good.empty else int(good.index[0])
