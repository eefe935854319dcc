"""One row per group of runs: its settings, its results over seeds, and how it differs from a baseline."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedsim.compare.differences import find_baselines
from fedsim.compare.groups import FINISHED, Group, group_runs, only_keys
from fedsim.compare.reading import NO_STATUS, Run
from fedsim.compare.statistics import best_value, final_value, last_mean, paired_interval, round_reached, spread
from fedsim.errors import UserError, did_you_mean
from fedsim.metrics import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

_DEFAULT_METRICS = ("test_accuracy", "test_rmse", "test_loss")
BY = ("final", "best", "last", "target")
COSTS = ("bytes_down", "bytes_up", "virtual_seconds")


@dataclass(frozen=True)
class Question:
    """What to compare, and how.

    Attributes:
        metric: the column to judge by; None: the one by which the runs judged themselves, or one that they share.
        last: also show the mean over this many last evaluated rounds.
        target: ``METRIC=VALUE``: also show how many rounds and bytes it took to get there.
        baseline: what to compare each group with (see `fedsim.compare.differences.find_baselines`).
        by: what to sort by and to take differences of: ``final``, ``best``, ``last`` or ``target`` (its rounds).
            None: ``last`` if there is one, else ``final``.
        keys: the settings to show, and to find a group's baseline by; None: all in which the runs differ. Leave out,
            say, a learning rate that was tuned for each algorithm, and groups match by the partition alone.
        better: ``min`` or ``max``: which values of the metric are better, whatever the runs say of it; None: what they
            say, or what `fedsim.metrics.COLUMNS` says.
    """

    metric: str | None = None
    last: int | None = None
    target: str | None = None
    baseline: tuple[str, ...] = ()
    by: str | None = None
    keys: tuple[str, ...] | None = None
    better: str | None = None

    def __post_init__(self) -> None:
        if self.better not in (None, "min", "max"):
            raise UserError(f"--better {self.better}: must be min (lower is better) or max (higher is better)")
        if self.last is not None and self.last < 1:
            raise UserError(f"--last {self.last}: must be at least 1")
        if self.by not in (None, *BY):
            raise UserError(f"--by {self.by}: must be one of {', '.join(BY)}{did_you_mean(str(self.by), BY)}")
        for word in ("last", "target"):
            if self.by == word and getattr(self, word) is None:
                raise UserError(f"--by {word}: needs --{word}")

    @property
    def order(self) -> str:
        """The measure to sort by, one of `BY`."""
        return self.by or ("last" if self.last else "final")


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of a comparison.

    Attributes:
        table: one row per group, best first, with every number in full: the groups' keys, then `n` and what was
            measured; a column ``X std`` is the spread of the column ``X``, which is then a mean over seeds.
        groups: the groups, in the order of the rows.
        metric: the column that they are judged by.
        mode: whether lower (``min``) or higher (``max``) values of it are better.
        sorted_by: the column that the rows are sorted by.
        notes: sentences that are needed to read the table.
        warnings: what was left out or ended early, a sentence each.
    """

    table: pd.DataFrame
    groups: list[Group]
    metric: str
    mode: str
    sorted_by: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def compare(runs: Sequence[Run], question: Question | None = None) -> Comparison:
    """Group runs and put the groups side by side.

    Raises:
        UserError: if there are no runs, or they do not have what is asked for.
    """
    import pandas as pd

    question = question or Question()
    if not runs:
        raise UserError("no runs to compare")
    metric, mode, notes = _choose_metric(runs, question)
    target = None if question.target is None else _read_target(runs, question.target, metric, mode)
    groups, warnings = group_runs(runs)
    if question.keys is not None:
        groups, hidden = only_keys(groups, question.keys)
        notes += [f"not shown: the groups also differ in {', '.join(hidden)}"] if hidden else []
    warnings += [said for group in groups for said in _unfinished(group)]
    names = _names(metric, question.last, target)
    results = [[_result(run, metric, mode, question.last, target) for run in group.runs] for group in groups]
    if question.last is not None:
        short = [run.path for g, r in zip(groups, results, strict=True) for run, v in zip(g.runs, r, strict=True)
                 if math.isnan(v["last"])]  # fmt: skip
        warnings += [f"{path}: has fewer than {question.last} evaluated rounds (--last)" for path in short]
    several = any(len(group.runs) > 1 for group in groups)
    rows = [
        _identity(group, several, groups) | _measures(group, values, names, several, target)
        for group, values in zip(groups, results, strict=True)
    ]
    if question.baseline:
        baselines = find_baselines(groups, question.baseline)
        by_run = {id(run): v for g, r in zip(groups, results, strict=True) for run, v in zip(g.runs, r, strict=True)}
        warnings += _add_differences(rows, groups, baselines, by_run, question.order)
        notes.append(
            f"difference: mean over common seeds of {names[question.order]} minus the baseline's, with its 95% paired "
            "t interval (not corrected for multiple comparisons)"
        )
    key, low = names[question.order], mode == "min" or question.order == "target"
    order = sorted(range(len(rows)), key=lambda at: _rank(rows[at][key], low))
    table = pd.DataFrame([rows[at] for at in order])
    for column in ("n", "rounds", "best round", "reached", "pairs"):
        if column in table and all(value is None or float(value).is_integer() for value in table[column].dropna()):
            table[column] = table[column].astype("Int64")
    return Comparison(table, [groups[at] for at in order], metric, mode, key, notes, warnings)


def _names(metric: str, last: int | None, target: tuple[str, float, str] | None) -> dict[str, str]:
    """The columns in which the table shows the measures of `_result`."""
    names = {"final": f"final {metric}", "best": f"best {metric}", "best round": "best round"}
    if last is not None:
        names["last"] = f"last {last} {metric}"
    if target is not None:
        goal = f"{target[0]}{'<=' if target[2] == 'min' else '>='}{target[1]:g}"
        names |= {"target": f"rounds to {goal}", "bytes": f"bytes to {goal}"}
        names |= {cost: f"{cost} to {goal}" for cost in COSTS}
    return names


def _result(
    run: Run, metric: str, mode: str, last: int | None, target: tuple[str, float, str] | None
) -> dict[str, float]:
    """One run's measures; NaN where nothing was measured."""
    values = run.columns.get(metric)
    best, at = best_value(values, mode)
    result = {"final": final_value(values), "best": best, "best round": at}
    if last is not None:
        result["last"] = last_mean(values, last)
    if target is not None:
        reached = round_reached(run.columns.get(target[0]), target[1], target[2])
        result["target"] = math.nan if reached is None else reached
        for cost in COSTS:
            if cost in run.columns:
                result[cost] = math.nan if reached is None else float(run.columns[cost].get(reached, math.nan))
        if "bytes_down" in result and "bytes_up" in result:
            result["bytes"] = result["bytes_down"] + result["bytes_up"]
    return result


def _identity(group: Group, several: bool, groups: Sequence[Group]) -> dict[str, Any]:
    """The cells that identify a group: its runs, settings, seeds, status and rounds."""
    shared = os.path.commonpath([run.path.parent for other in groups for run in other.runs])
    row: dict[str, Any] = {"run": "; ".join(run.path.relative_to(shared).as_posix() for run in group.runs)}
    taken = {"run", "n", "seeds", "status", "rounds", "reached", "difference", "low", "high", "pairs"}
    # `rounds` is also a config key: the rounds asked for, next to the rounds done.
    row |= {f"config {key}" if key in taken else key: value for key, value in group.keys.items()}
    if several:
        row |= {"n": len(group.runs), "seeds": " ".join(map(str, group.by_seed))}
    elif len({other.runs[0].seed for other in groups} - {None}) > 1:
        row["seed"] = "" if group.runs[0].seed is None else group.runs[0].seed
    statuses = [run.status for run in group.runs]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    row["status"] = statuses[0] if len(counts) == 1 else ", ".join(f"{n} {status}" for status, n in counts.items())
    done = [run.rounds for run in group.runs if run.rounds is not None]
    return row | {"rounds": sum(done) / len(done) if done else None}


def _measures(
    group: Group,
    values: Sequence[dict[str, float]],
    names: dict[str, str],
    several: bool,
    target: tuple[str, float, str] | None,
) -> dict[str, Any]:
    """Means and spreads over the seeds; of what it took to reach the target, over those that reached it."""
    row: dict[str, Any] = {}
    for measure, name in names.items():
        there = [value[measure] for value in values if measure in value]
        to_target = measure in ("target", "bytes", *COSTS)
        if to_target:
            there = [value for value in there if not math.isnan(value)]
            if not any(measure in value for value in values) and measure != "target":
                continue  # a column that these runs do not have
        if measure == "target":
            row["reached"] = len(there)
        found = spread(there)
        row[name] = None if math.isnan(found.mean) and measure == "best round" else found.mean
        if several and measure != "best round":
            row[f"{name} std"] = found.std
    return row


def _add_differences(
    rows: list[dict[str, Any]],
    groups: Sequence[Group],
    baselines: Sequence[Group | None],
    results: dict[int, dict[str, float]],
    measure: str,
) -> list[str]:
    """Add the difference to the baseline to each row; return a sentence for every one that is missing."""
    said, alone = [], dict[str, list[str]]()
    for row, group, baseline in zip(rows, groups, baselines, strict=True):
        row |= dict.fromkeys(("difference", "low", "high"), math.nan) | {"pairs": None}
        if baseline is group:
            row["difference"] = 0.0
            continue
        if baseline is None:
            said.append(f"{group.label}: no baseline equals it in all other settings")
            continue
        mine, theirs = group.by_seed, baseline.by_seed
        pairs = [
            results[id(mine[seed])][measure] - results[id(theirs[seed])][measure] for seed in mine if seed in theirs
        ]
        pairs = [value for value in pairs if math.isfinite(value)]
        found = paired_interval(pairs)
        row |= {"difference": found.mean, "low": found.low, "high": found.high, "pairs": found.n}
        if found.n < 2:
            word = "no seed" if found.n == 0 else "one seed"
            alone.setdefault(f"{word} in common with the baseline {baseline.label}", []).append(group.label)
    for why, labels in alone.items():
        others = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
        said.append(f"no interval for {', '.join(labels[:3])}{others}: {why}")
    return said


def _rank(value: float, low: bool) -> float:
    return math.inf if math.isnan(value) else (value if low else -value)


def _unfinished(group: Group) -> list[str]:
    return [
        f"{run.path}: {run.status}, {'no rounds yet' if run.rounds is None else f'last round {run.rounds}'}; its last "
        "measured value counts as final"
        for run in group.runs
        if run.status not in (*FINISHED, NO_STATUS)
    ]


def _choose_metric(runs: Sequence[Run], question: Question) -> tuple[str, str, list[str]]:
    """The metric, ``min`` or ``max``, and a note for the reader where the choice is not an obvious one."""
    if question.metric is not None:
        _check_column(runs, question.metric, "metric")
        return question.metric, question.better or _mode(runs, question.metric, f"--metric {question.metric}"), []
    known = list(dict.fromkeys(name for run in runs for name in run.columns))
    wanted = [run.judge[0] for run in runs if run.judge and run.judge[0] in run.columns]
    if not wanted:
        wanted = [name for run in runs if (name := next(filter(run.columns.__contains__, _DEFAULT_METRICS), None))]
    wanted = list(dict.fromkeys(wanted))
    shared = [name for name in known if all(name in run.columns for run in runs)]
    if len(wanted) == 1 and wanted[0] in shared:
        return wanted[0], question.better or _mode(runs, wanted[0], wanted[0]), []
    if not shared:
        raise UserError("these runs share no column to compare them by")
    ranked = [name for name in shared if _ways(runs, name) in ({"min"}, {"max"})]
    if not ranked:
        raise UserError(
            f"none of the columns that these runs share ({', '.join(shared)}) is known to be better low or high; "
            "choose one with --metric and --better min or --better max"
        )
    metric = next((name for name in ranked if name in COLUMNS and COLUMNS[name].evaluated), ranked[0])
    mode = question.better or _mode(runs, metric, metric)
    note = f"compared by {metric} ({mode}), the first column that all runs share"
    judges = f"not all runs are judged by the same metric ({', '.join(wanted)}): " if wanted else ""
    return metric, mode, [judges + note]


def _check_column(runs: Sequence[Run], name: str, option: str) -> None:
    known = list(dict.fromkeys(name for run in runs for name in run.columns))
    if name not in known:
        raise UserError(f"--{option} {name}: must be one of {', '.join(known)}{did_you_mean(name, known)}")


def _ways(runs: Sequence[Run], metric: str) -> set[str]:
    """Which values of a metric are better, by the first of three sources that gives a single answer.

    The sources are what the runs were judged by, what they declare, and `COLUMNS`.

    Returns:
        One of ``min``, ``max`` and the empty text (neither end is better); several if the runs contradict each other
        and `COLUMNS` does not have the metric; none if no source has it.
    """
    judged = {run.judge[1] for run in runs if run.judge and run.judge[0] == metric}
    declared = {run.better[metric] for run in runs if metric in run.better}
    own = {COLUMNS[metric].better} if metric in COLUMNS else set()
    return next((ways for ways in (judged, declared, own) if len(ways) == 1), judged | declared)


def _mode(runs: Sequence[Run], metric: str, asked: str, way_out: str = "") -> str:
    """Return ``min`` or ``max`` for a metric.

    Args:
        runs: the runs that are compared.
        metric: a column.
        asked: what an error message begins with; it names the metric.
        way_out: how to give the direction; empty: with ``--better``.

    Raises:
        UserError: if neither direction is the better one, or it is not known which is.
    """
    ways = _ways(runs, metric)
    if ways in ({"min"}, {"max"}):
        return ways.pop()
    if ways == {""}:
        why = "neither lower nor higher values are better"
    elif ways:
        why = "these runs contradict each other on whether lower or higher values are better"
    else:
        why = "nothing says whether lower or higher values are better"
    raise UserError(f"{asked}: {why}; {way_out or 'give the direction with --better min or --better max'}")


def _read_target(runs: Sequence[Run], text: str, compared: str, mode: str) -> tuple[str, float, str]:
    """``METRIC=VALUE`` as the metric, the value, and ``min`` or ``max``: `mode` if it is the metric `compared`."""
    metric, sign, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not sign or not math.isfinite(number):
        raise UserError(f"--target {text}: must be METRIC=NUMBER, such as test_accuracy=0.9")
    _check_column(runs, metric, "target")
    if metric == compared:
        return metric, number, mode
    way_out = f"give the direction with --metric {metric} and --better min or --better max"
    return metric, number, _mode(runs, metric, f"--target {text}", way_out)
