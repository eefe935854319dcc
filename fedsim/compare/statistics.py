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
    """A mean difference and its confidence interval; `low` and `high` are NaN for fewer than two pairs."""

    mean: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, n)
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if n > 1 else math.nan, n)


def paired_interval(differences: Sequence[float]) -> Interval:
    """Student's paired interval of level `CONFIDENCE`: mean(d) ± t(n - 1) * std(d) / sqrt(n).

    It holds for differences that are about normal; equal differences give an interval of width zero.
    """
    found = spread(differences)
    if found.n < 2 or math.isnan(found.mean):
        return Interval(found.mean, math.nan, math.nan, found.n)
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # the quantile, without scipy.stats' long import

    half = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2)) * found.std / math.sqrt(found.n)
    return Interval(found.mean, found.mean - half, found.mean + half, found.n)


def final_value(values: pd.Series[float] | None) -> float:
    """The last measured value."""
    return math.nan if values is None or values.empty else float(values.iloc[-1])


def best_value(values: pd.Series[float] | None, mode: str) -> tuple[float, float]:
    """The best finite value and the round of it (the first, of equals); NaNs if there is none."""
    finite = None if values is None else values[values.abs() < math.inf]
    if finite is None or finite.empty:
        return math.nan, math.nan
    at = int(finite.argmin() if mode == "min" else finite.argmax())
    return float(finite.iloc[at]), float(finite.index[at])


def last_mean(values: pd.Series[float] | None, k: int) -> float:
    """The mean over the last `k` evaluated rounds; NaN if there are fewer, the untrained round 0 not counted."""
    trained = None if values is None else values[values.index > 0]
    return math.nan if trained is None or len(trained) < k else float(trained.iloc[-k:].mean())


def round_reached(values: pd.Series[float] | None, target: float, mode: str) -> int | None:
    """The first evaluated round whose value is at least as good as `target`, or None."""
    if values is None:
        return None
    good = values[values <= target] if mode == "min" else values[values >= target]
    return None if good.empty else int(good.index[0])
