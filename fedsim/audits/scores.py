"""How well a score separates members from non-members."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"


def auc(members: Floats, others: Floats) -> float:
    """The chance that a member scores higher than a non-member, ties counting half (Mann and Whitney 1947).

    Args:
        members: ``[m]``, scores of the members, at least one.
        others: ``[n]``, scores of the non-members, at least one.
    """
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, members, side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(ordered))


def true_positive_rate(members: Floats, others: Floats, rate: float) -> float:
    """The share of members above the lowest threshold that at most `rate` of the non-members exceed.

    Args:
        members: ``[m]``, scores of the members, at least one.
        others: ``[n]``, scores of the non-members, at least one.
        rate: the largest false positive rate.
    """
    allowed = int(rate * len(others) + 1e-9)  # 0.29 * 100 is 28.999999999999996 in binary
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())
