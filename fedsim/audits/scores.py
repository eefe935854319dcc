"""How well a score tells members from the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc(members: Floats, others: Floats) -> float:
    """The chance that a member scores higher than another, ties counting half (Mann and Whitney 1947).

    Args:
        members: ``[m]`` scores, at least one.
        others: ``[n]`` scores, at least one.
    """
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, members, side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(ordered))


def true_positive_rate(members: Floats, others: Floats, rate: float) -> float:
    """The share of members above the lowest threshold that at most `rate` of the others are above.

    Args:
        members: ``[m]`` scores, at least one.
        others: ``[n]`` scores, at least one.
        rate: of false positives.
    """
    allowed = int(rate * len(others) + 1e-9)  # 0.07 * 100 is 7.000000000000001, and others come out below
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())
