"""What a table holds, in lines: its rows, and the span and the step of its times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.table_time import Times, shown_moment, shown_span

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 3
"""Different steps that are shown."""

Ints: TypeAlias = "NDArray[np.int64]"


def table_facts(sizes: Ints, clients: Sequence[str], what: str, times: Times | None) -> list[tuple[str, str]]:
    """Return lines about rows and times, text by label.

    Args:
        sizes: ``[N]`` rows of each client or sequence, those of one after those of another.
        clients: their N names.
        what: what these are, ``client`` or ``sequence``.
        times: ``[R]`` of the rows, rising within each, or None.
    """
    rows = f"{int(sizes.sum()):,}"
    if len(sizes) > 1:
        low, middle, high = (
            f"{value:,.1f}".removesuffix(".0") for value in (sizes.min(), np.median(sizes), sizes.max())
        )
        rows += f" of {len(sizes):,} {what}s" + (
            f", {low} each" if low == high else f", {low} to {high}, median {middle}"
        )
    facts = [("rows", rows)]
    if times is None or not len(times):
        return facts
    ends = np.cumsum(sizes)
    used = sizes > 0
    first, last = times[(ends - sizes)[used]], times[ends[used] - 1]
    span = f"{shown_moment(first.min())} to {shown_moment(last.max())}"
    if first.min() != first.max() or last.min() != last.max():
        span += f" ({what}s begin until {shown_moment(first.max())} and end from {shown_moment(last.min())} on)"
    return [*facts, ("times", span), ("step", _steps(times, sizes, clients, what))]


def _steps(times: Times, sizes: Ints, clients: Sequence[str], what: str) -> str:
    """The usual step of each client, the most frequent first."""
    dates = times.dtype.kind == "M"
    plain = times.astype(np.int64) if dates else times.astype(np.float64)
    found: Counter[str] = Counter()
    ends = np.cumsum(sizes)
    for end, size in zip(ends.tolist(), sizes.tolist(), strict=True):
        if size > 1:
            found[shown_span(float(np.median(np.diff(plain[end - size : end]))), dates)] += 1
    if len(found) == 1:
        return next(iter(found))
    shown = [f"{step} ({count:,} {what}{'s' * (count > 1)})" for step, count in found.most_common(MOST)]
    more = f" and {len(found) - MOST:,} more" if len(found) > MOST else ""
    return (", ".join(shown) + more) or "none, for no client has two rows"
