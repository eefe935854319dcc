"""What a reader must know of runs that failed, ended early or cannot be set side by side as they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fedsim.compare.groups import FINISHED, Group
from fedsim.compare.items import kind_of
from fedsim.compare.measures import DIVERGED, NEVER, Asked, Outcome, stopped_short
from fedsim.compare.reading import DAMAGED, NO_STATUS, Run
from fedsim.compare.seeds import Difference
from fedsim.compare.statistics import CONFIDENCE

_MOST = 12
Results = Sequence[Sequence[dict[str, Outcome]]]


def warn(groups: Sequence[Group], results: Results, partial: bool) -> list[str]:
    """Return a sentence for every run that has not ended well, and for every value that a run does not have."""
    said = []
    for run, found in _each(groups, results):
        short = stopped_short(run)
        lacks = [lack for lack in _lacks(found) if lack not in (short, NEVER)]
        if run.status == DAMAGED:
            used = "its numbers are used as they are (--partial)" if partial else "its numbers are not used"
            said.append(f"{run.path}: {run.fault}; {used}")
        elif run.status == DIVERGED:
            said.append(f"{run.path}: {short}")
        elif run.status not in (*FINISHED, NO_STATUS):
            way = "its last value counts as final (--partial)" if partial else "its last value does not count as final"
            hint = "" if partial else " (--partial counts it; --at ROUND compares in a round that all runs have)"
            said.append(f"{run.path}: {short}; {way}{hint}")
        said += [f"{run.path}: {lack}" for lack in lacks]
    return said


def notes(groups: Sequence[Group], results: Results, asked: Asked) -> list[str]:
    """Return sentences on what the numbers leave out, and on runs that differ in more than their settings."""
    runs = list(_each(groups, results))
    said = _lacking(groups, results)
    seeds = {frozenset(group.by_seed) for group in groups if group.by_seed}
    if len(seeds) > 1 and any(len(group.runs) > 1 for group in groups):
        said.append("the groups do not all have the same seeds")
    ends = sorted({found["final"].round for _, found in runs if not found["final"].lack})
    if len(ends) > 1:
        said.append(
            f"final values are those of rounds {ends[0]:g} to {ends[-1]:g}, where the runs ended; --at ROUND compares "
            "them in the same round"
        )
    if not asked.cumulative and _evaluated_differently([run for run, _ in runs], asked.metric):
        said.append(
            "not all runs were evaluated in the same rounds: the best value, the last evaluations and the rounds to a "
            "target depend on how often one looks"
        )
    if asked.cumulative:
        said.append(f"{asked.metric} only grows: its final value counts, and there is no best")
    for word in [*(["chosen"] if asked.choice else []), *(["best"] if asked.shows_best else [])]:
        if any(run.status == DIVERGED and not found[word].lack for run, found in runs):
            said.append(f"{word}: a diverged run's is from before it diverged")
        if (early := sum(found[f"{word} round"].value == 0 for _, found in runs)) > 0:
            what = f"{word} {asked.metric}"
            said.append(f"{what}: that of {early} of {len(runs)} runs is from round 0, before training")
    if (early := sum(found["target"].value == 0 for _, found in runs if "target" in found)) > 0:
        said.append(f"{asked.goal}: {early} of {len(runs)} runs are there in round 0, before training")
    if asked.unseen is not None:
        first, second = (asked.metric, asked.unseen) if asked.mode == "max" else (asked.unseen, asked.metric)
        said.append(
            f"gap to unseen: {first} minus {second}; clients that never train fare worse by it if it is positive"
        )
    if (errors := _standard_errors([run for run, _ in runs], asked.metric)) != "":
        said.append(f"{asked.metric} is of a sample of the clients (eval.clients): its last standard error is {errors}")
    if asked.partial:
        said.append(
            "partial results, as asked for: means, spreads and intervals are over the seeds that have a value, and the "
            "last value of an unfinished run is its final one"
        )
    return said


def of_differences(
    groups: Sequence[Group],
    baselines: Sequence[Group | None],
    differences: Sequence[Difference | None],
    column: str,
    asked: Asked,
) -> list[str]:
    """Return sentences on how differences to baselines were taken, and on those that could not be."""
    found = [one for one in differences if one is not None]
    tests = sum(not math.isnan(one.interval.p) for one in found)
    said = [
        f"difference: mean over seeds of {column} minus the baseline's with the same seed, with its {CONFIDENCE:.0%} "
        "paired t interval" + (" (not corrected for the number of intervals)" if tests > 1 else "")
    ]
    if tests > 1:
        said.append(f"p (Holm): of the paired t tests, corrected for the {tests} in this table by Holm's method")
    if any(one.interval.n < one.wanted for one in found):
        given = "mean and interval are over the others" if asked.partial else "so there is no interval"
        said.append(f"(k of n seeds): in the others, the run or its baseline has no value; {given}")
        if not asked.partial and any(_counts_failures(one) for one in found):
            said.append(
                "median difference, or worse (better): of all seeds, where a run that failed counts as worse than any "
                "value; a mean would leave out just these"
            )
    small = [(group, one) for group, one in zip(groups, differences, strict=True) if one is not None and one.too_small]
    if small:
        kind, worth = kind_of(asked.metric), max(one.item for _, one in small)
        labels = _some([group.label for group, _ in small])
        said.append(f"less than one {kind} item ({worth:.2g}) from the baseline, so neither better nor worse: {labels}")
    why: dict[tuple[str, str], list[str]] = {}
    for group, baseline, one in zip(groups, baselines, differences, strict=True):
        if baseline is None:
            why.setdefault(("difference", "no baseline equals it in all other settings"), []).append(group.label)
        elif one is not None and one.interval.n < 2 and one.interval.n == one.wanted - _unpaired(group, baseline):
            word = "one seed" if one.interval.n else "no seed"
            reason = f"{word} in common with the baseline {baseline.label}"
            why.setdefault(("interval", reason), []).append(group.label)
    return said + [f"no {what} for {_some(labels)}: {reason}" for (what, reason), labels in why.items()]


def _counts_failures(one: Difference) -> bool:
    """Whether a median stands in for the mean."""
    return math.isnan(one.interval.mean) and not math.isnan(one.median)


def _unpaired(group: Group, baseline: Group) -> int:
    """The number of seeds that only one of the two has."""
    return len(group.by_seed.keys() ^ baseline.by_seed.keys())


def _each(groups: Sequence[Group], results: Results) -> Iterable[tuple[Run, dict[str, Outcome]]]:
    for group, values in zip(groups, results, strict=True):
        yield from zip(group.runs, values, strict=True)


def _lacks(found: dict[str, Outcome]) -> list[str]:
    return list(dict.fromkeys(one.lack for one in found.values() if one.lack))


def _lacking(groups: Sequence[Group], results: Results) -> list[str]:
    """A sentence per group and reason for values that are missing; targets never reached have a column of their own."""
    said = []
    for group, values in zip(groups, results, strict=True):
        seeds: dict[str, list[str]] = {}
        for run, found in zip(group.runs, values, strict=True):
            for lack in _lacks(found):
                seeds.setdefault(lack, []).append(str(run.seed))
        seeds.pop(NEVER, None)
        for lack, there in seeds.items():
            words = [group.label] if len(groups) > 1 else []
            if len(group.runs) > 1:
                words.append(f"seed{'s' if len(there) > 1 else ''} {' '.join(there)}")
            said.append(f"{', '.join(words)}: {lack}" if words else lack)
    if len(said) > _MOST:
        said[_MOST:] = [f"and {len(said) - _MOST} more like these (see the columns n of --csv)"]
    return said


def _standard_errors(runs: Sequence[Run], metric: str) -> str:
    """The last standard errors of a metric, the least and the largest; empty if all clients were evaluated."""
    columns = [run.columns[name] for run in runs if (name := f"{metric}_se") in run.columns]
    last = [float(values.iloc[-1]) for values in columns if not values.empty]
    shown = [f"{value:.2g}" for value in sorted(filter(math.isfinite, last))]
    return "" if not shown else shown[0] if shown[0] == shown[-1] else f"{shown[0]} to {shown[-1]}"


def _evaluated_differently(runs: Sequence[Run], metric: str) -> bool:
    """Whether runs have the metric in different rounds, of those before the first of them ended."""
    ends = [run.rounds for run in runs if run.rounds is not None]
    found = {
        frozenset(at for at in run.columns[metric].index if at < min(ends))
        for run in runs
        if metric in run.columns and not run.columns[metric].empty
    }
    return len(found) > 1


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return ", ".join(labels[:3]) + more
