"""What the seeds of a group have together, and seed by seed against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedsim.compare.items import is_tie
from fedsim.compare.measures import Outcome
from fedsim.compare.statistics import Interval, middle, paired_interval, spread


class Summary(NamedTuple):
    """One measure of a group.

    Attributes:
        mean: over the seeds that have a value; NaN if there are none, or if one failed, unless partial means are asked
            for: a mean that leaves out failures would flatter.
        std: their sample standard deviation; NaN for fewer than two, or where a seed is missing (unless asked for).
        median: over all seeds, a failure being worse than any value; infinite if that is the median, NaN if it depends
            on values that are missing.
        n: the number of seeds with a value.
        total: the number of seeds.
        failed: the number of seeds that failed.
        until: the first round up to which a seed is known not to have reached the target; infinite if there is none.
        lack: why the first seed without a value has none; empty if all have one.
    """

    mean: float
    std: float
    median: float
    n: int
    total: int
    failed: int
    until: float
    lack: str


def summarise(outcomes: Sequence[Outcome], worst: float, partial: bool) -> Summary:
    """Put the outcomes of a group's seeds together.

    Args:
        outcomes: one per seed.
        worst: the infinite number that stands for a failure.
        partial: whether to give means and spreads over the seeds that have a value.
    """
    values = [found.value for found in outcomes if not found.lack]
    lacks, failures = [found.lack for found in outcomes if found.lack], [found for found in outcomes if found.fails]
    given = spread(values if partial or not failures else [])
    median = middle([worst if found.fails else found.value for found in outcomes])
    until = min((found.round for found in failures if not math.isnan(found.round)), default=math.inf)
    std = given.std if partial or not lacks else math.nan
    return Summary(given.mean, std, median, len(values), len(outcomes), len(failures), until, lacks[0] if lacks else "")


def rank(summary: Summary, low: bool) -> tuple[int, float]:
    """A sort key, best first: groups with a mean by it, then those with failures by their medians, then the rest."""
    sign = 1 if low else -1
    if summary.failed:
        return 1, math.inf if math.isnan(summary.median) else sign * summary.median
    return (2, 0.0) if math.isnan(summary.mean) else (0, sign * summary.mean)


class Difference(NamedTuple):
    """The differences of a group from its baseline, seed by seed.

    Attributes:
        interval: over the pairs of which both have a value; NaN if pairs are missing, but for its `n` (unless asked
            for); its mean is given as long as nothing failed.
        median: over all seeds, a failure being worse than any value; not finite if that, or a missing value, decides.
        wanted: the number of seeds that either has.
        better: the number of seeds in which the group is better than its baseline, also where the baseline failed.
        worse: the number of seeds in which it is worse.
        item: what one item is worth: smaller differences are neither better nor worse.
    """

    interval: Interval
    median: float
    wanted: int
    better: int
    worse: int
    item: float

    @property
    def too_small(self) -> bool:
        """Whether the difference of the means is less than one item is worth."""
        return is_tie(self.interval.mean, 0.0, self.item)


def difference(
    ours: Mapping[object, Outcome], theirs: Mapping[object, Outcome], worst: float, partial: bool, item: float = 0.0
) -> Difference:
    """Compare seed by seed.

    Args:
        ours: seed to outcome, of the group.
        theirs: seed to outcome, of its baseline.
        worst: the infinite number that stands for a failure, and by its sign says which way is worse.
        partial: whether to give the mean and its interval over the pairs that there are.
        item: what one item is worth; 0 where that is not known.
    """
    pairs = [_pair(ours.get(seed), theirs.get(seed), worst) for seed in dict.fromkeys([*ours, *theirs])]
    there = [value for value in pairs if math.isfinite(value)]
    failures = any(math.isinf(value) for value in pairs) or any(
        found is not None and found.fails for side in (ours, theirs) for found in side.values()
    )
    found = paired_interval(there)
    if len(there) < len(pairs) and not partial:
        mean = math.nan if failures else found.mean
        found = Interval(mean, math.nan, math.nan, math.nan, found.n)
    sign = math.copysign(1, worst)
    clear = [sign * value for value in pairs if not is_tie(value, 0.0, item)]
    better, worse = sum(value < 0 for value in clear), sum(value > 0 for value in clear)
    return Difference(found, middle(pairs), len(pairs), better, worse, item)


def _pair(ours: Outcome | None, theirs: Outcome | None, worst: float) -> float:
    """One seed's difference; infinite if one of the two failed, NaN if it is not known."""
    if ours is None or theirs is None or (ours.fails and theirs.fails):
        return math.nan
    if ours.fails or theirs.fails:
        failed, other = (ours, theirs) if ours.fails else (theirs, ours)
        # A run that ended earlier without reaching the target might have reached it sooner than the other did.
        unknown = other.lack != "" or other.value > failed.round
        return math.nan if unknown else worst if ours.fails else -worst
    return ours.value - theirs.value  # NaN if one of them is
