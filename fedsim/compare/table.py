"""One row per group of runs: its settings, its results over seeds, and how it differs from a baseline."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedsim.compare import remarks
from fedsim.compare.bootstrap import over_clients
from fedsim.compare.differences import find_baselines
from fedsim.compare.groups import Group, group_runs, only_keys
from fedsim.compare.items import worth_of_one
from fedsim.compare.measures import COSTS, ROUNDS, Asked, Choice, Outcome, measure
from fedsim.compare.metric import choose_metric, find_choice, is_cumulative, read_target, unseen_column
from fedsim.compare.reading import Run
from fedsim.compare.seeds import Difference, Summary, difference, rank, summarise
from fedsim.compare.statistics import holm
from fedsim.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

BY = ("final", "chosen", "best", "last", "at", "target")
_DIFFERENCE = ("difference", "difference median", "low", "high", "p", "pairs", "pairs wanted", "better", "worse")
_WHOLE = ("n", "rounds", *ROUNDS, "reached", "pairs", "pairs wanted", "better", "worse")


@dataclass(frozen=True)
class Question:
    """What to compare, and how.

    Attributes:
        metric: the column to judge by; None: the one by which the runs judged themselves, or one that they share.
        last: also show the mean over this many last evaluated rounds.
        target: ``METRIC=VALUE``: also show how many rounds and bytes it took to get there.
        baseline: what to compare each group with (see `fedsim.compare.differences.find_baselines`).
        by: what to sort by and to take differences of: ``final``, ``chosen`` (sorted by the validation value that chose
            the round, differences of the test value in it), ``best``, ``last``, ``at`` or ``target`` (its rounds).
            None: ``chosen`` if rounds were chosen on validation data, else ``at`` or ``last`` if there is one, else
            ``final``.
        keys: the settings to show, and to find a group's baseline by; None: all in which the runs differ. Leave out,
            say, a learning rate that was tuned for each algorithm, and groups match by the partition alone.
        better: ``min`` or ``max``: which values of the metric are better, whatever the runs say of it; None: what they
            say, or what `fedsim.metrics.COLUMNS` says.
        last_rounds: instead of `last`, show the mean over what was evaluated in this many last rounds.
        at: also show the value in this round.
        partial: use what there is: means and intervals over fewer seeds than there are, and the last value of an
            unfinished run as its final one.
        bootstrap: also show intervals over clients (see `fedsim.compare.bootstrap`).
    """

    metric: str | None = None
    last: int | None = None
    target: str | None = None
    baseline: tuple[str, ...] = ()
    by: str | None = None
    keys: tuple[str, ...] | None = None
    better: str | None = None
    last_rounds: int | None = None
    at: int | None = None
    partial: bool = False
    bootstrap: bool = False

    def __post_init__(self) -> None:
        if self.better not in (None, "min", "max"):
            raise UserError(f"--better {self.better}: must be min (lower is better) or max (higher is better)")
        for option, value, least in (("last", self.last, 1), ("last-rounds", self.last_rounds, 1), ("at", self.at, 0)):
            if value is not None and value < least:
                raise UserError(f"--{option} {value}: must be at least {least}")
        if self.last is not None and self.last_rounds is not None:
            raise UserError("--last-rounds: not together with --last, which counts evaluations instead of rounds")
        if self.by not in (None, *BY):
            raise UserError(f"--by {self.by}: must be one of {', '.join(BY)}{did_you_mean(str(self.by), BY)}")
        given = {"last": self.last or self.last_rounds, "target": self.target, "at": self.at}
        if self.by in given and given[self.by] is None:
            raise UserError(f"--by {self.by}: needs --{self.by}{' or --last-rounds' if self.by == 'last' else ''}")

    @property
    def order(self) -> str:
        """The measure to sort by where no rounds were chosen on validation data, one of `BY`."""
        given = "at" if self.at is not None else "last" if self.last or self.last_rounds else "final"
        return self.by or given


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of a comparison.

    Attributes:
        table: one row per group, best first, with every number in full: the groups' keys, then `n` and what was
            measured. Of a column ``X`` that is a mean over seeds, ``X std`` is the spread, ``X median`` the median
            (infinite if half of the seeds failed) and ``X n`` the number of seeds that have a value.
        groups: the groups, in the order of the rows.
        summaries: column to its summary, one mapping per row.
        metric: the column that they are judged by.
        mode: whether lower (``min``) or higher (``max``) values of it are better.
        sorted_by: the column that the rows are sorted by.
        reported: the column that differences are taken of: the same, but for rows that are sorted by the validation
            value that chose the round.
        by: why these: one of `BY`.
        choice: how rounds were chosen on validation data; None if they were not.
        shows_best: whether rounds that are the best by the metric itself are shown.
        notes: sentences that are needed to read the table.
        warnings: what was left out or ended early, a sentence each.
    """

    table: pd.DataFrame
    groups: list[Group]
    summaries: list[dict[str, Summary]]
    metric: str
    mode: str
    sorted_by: str
    reported: str
    by: str
    choice: Choice | None
    shows_best: bool
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
    metric, mode, notes = choose_metric(runs, question.metric, question.better)
    choice, said = find_choice(runs, metric, question.by == "chosen")
    notes += said
    asked = _asked(runs, question, metric, mode, choice)
    groups, warnings = group_runs(runs)
    if question.keys is not None:
        groups, hidden = only_keys(groups, question.keys)
        notes += [f"not shown: the groups also differ in {', '.join(hidden)}"] if hidden else []
    results = [[measure(run, asked) for run in group.runs] for group in groups]
    warnings += remarks.warn(groups, results, asked.partial)
    several = any(len(group.runs) > 1 for group in groups)
    summaries = [_summaries(values, asked) for values in results]
    rows = [
        _identity(group, several, groups) | _cells(found, asked, several)
        for group, found in zip(groups, summaries, strict=True)
    ]
    notes += remarks.notes(groups, results, asked)
    key, reported = asked.names[asked.sorting], asked.names[asked.by]
    baselines: list[Group | None] = [None] * len(groups)
    if question.baseline:
        baselines = find_baselines(groups, question.baseline)
        differences = _differences(groups, baselines, results, asked)
        corrected = holm([math.nan if found is None else found.interval.p for found in differences])
        for row, group, baseline, found, p in zip(rows, groups, baselines, differences, corrected, strict=True):
            row |= _difference_cells(found, p, group is baseline)
        notes += remarks.of_differences(groups, baselines, differences, reported, asked)
    if question.bootstrap:
        cells, said = over_clients(groups, baselines, metric)
        rows = [row | more for row, more in zip(rows, cells, strict=True)]
        notes += said
    ranks = [rank(found[key], asked.worst(asked.sorting) > 0) for found in summaries]
    order = sorted(range(len(rows)), key=lambda at: ranks[at])
    table = pd.DataFrame([{_encodable(name): _encodable(cell) for name, cell in rows[at].items()} for at in order])
    for column in _WHOLE:
        if column in table and all(value is None or float(value).is_integer() for value in table[column].dropna()):
            table[column] = table[column].astype("Int64")
    shown = [groups[at] for at in order]
    ordered = [summaries[at] for at in order]
    how = (key, reported, asked.by, choice, asked.shows_best)
    return Comparison(table, shown, ordered, metric, mode, *how, notes, warnings)


def _encodable(cell: Any) -> Any:
    """A cell in which half a character, as names of files and YAML can hold it, is written as its code."""
    return cell.encode(errors="backslashreplace").decode() if isinstance(cell, str) else cell


def _asked(runs: Sequence[Run], question: Question, metric: str, mode: str, choice: Choice | None) -> Asked:
    goal = None if question.target is None else read_target(runs, question.target, metric, mode)
    cumulative = is_cumulative(runs, metric)
    if cumulative:
        for option, given in (
            ("--by best", question.by == "best"),
            (f"--last {question.last}", question.last),
            (f"--last-rounds {question.last_rounds}", question.last_rounds),
        ):
            if given:
                raise UserError(f"{option}: {metric} only grows, so only its value at the end, or --at a round, counts")
    if question.at is not None and not any(
        question.at in run.columns[metric].index for run in runs if metric in run.columns
    ):
        raise UserError(f"--at {question.at}: {_evaluated(runs, metric)}")
    return Asked(
        metric,
        mode,
        cumulative,
        question.last,
        question.last_rounds,
        question.at,
        goal,
        question.partial,
        choice,
        unseen_column(runs, metric),
        question.by or ("chosen" if choice is not None else question.order),
    )


def _evaluated(runs: Sequence[Run], metric: str) -> str:
    """The rounds in which all runs were evaluated, or any, in words."""
    found = [set(run.columns[metric].index) for run in runs if metric in run.columns]
    shared = sorted(set.intersection(*found)) if found else []
    if not shared:
        return f"no run has {metric} in this round, and there is none in which all have it"
    shown = ", ".join(map(str, shared if len(shared) <= 8 else [*shared[:3], "...", *shared[-3:]]))
    return f"no run has {metric} in this round; all have it in {shown}"


def _summaries(results: Sequence[dict[str, Outcome]], asked: Asked) -> dict[str, Summary]:
    """Every column's summary over a group's seeds; a cost that none of them has is left out."""
    found = {}
    for name, column in asked.names.items():
        there = [values[name] for values in results if name in values]
        if there:
            found[column] = summarise(there, asked.worst(name), asked.partial)
    return found


def _identity(group: Group, several: bool, groups: Sequence[Group]) -> dict[str, Any]:
    """The cells that identify a group: its runs, settings, seeds, status and rounds."""
    shared = os.path.commonpath([run.path.parent for other in groups for run in other.runs])
    row: dict[str, Any] = {"run": "; ".join(run.path.relative_to(shared).as_posix() for run in group.runs)}
    taken = {"run", "n", "seeds", "status", "rounds", "reached", *_DIFFERENCE}
    # `rounds` is also a config key: the rounds asked for, next to the rounds done. Names of results have spaces.
    row |= {f"config {key}" if key in taken or " " in key else key: value for key, value in group.keys.items()}
    if several:
        row |= {"n": len(group.runs), "seeds": " ".join(map(str, group.by_seed))}
    elif len({other.runs[0].seed for other in groups} - {None}) > 1:
        row["seed"] = "" if group.runs[0].seed is None else group.runs[0].seed
    statuses = [run.status for run in group.runs]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    row["status"] = statuses[0] if len(counts) == 1 else ", ".join(f"{n} {status}" for status, n in counts.items())
    done = [run.rounds for run in group.runs if run.rounds is not None]
    return row | {"rounds": sum(done) / len(done) if done else None}


def _cells(summaries: dict[str, Summary], asked: Asked, several: bool) -> dict[str, Any]:
    """Means and spreads over the seeds, and what they leave out."""
    row: dict[str, Any] = {}
    for name, column in asked.names.items():
        if name in (*COSTS, "bytes", "unseen", "gap") and column not in summaries:
            continue
        found = summaries[column]
        if name == "target":
            row["reached"] = found.n
        row[column] = None if math.isnan(found.mean) and name in ROUNDS else found.mean
        if several and name not in ROUNDS:
            row |= {f"{column} std": found.std, f"{column} median": found.median, f"{column} n": found.n}
    return row


def _differences(
    groups: Sequence[Group],
    baselines: Sequence[Group | None],
    results: Sequence[Sequence[dict[str, Outcome]]],
    asked: Asked,
) -> list[Difference | None]:
    """Each group's difference from its baseline; None for a baseline itself, and without one."""
    places = {id(group): at for at, group in enumerate(groups)}
    name = asked.by
    item = "" if name == "target" else asked.metric

    def by_seed(at: int) -> dict[object, Outcome]:
        pairs = zip(groups[at].runs, results[at], strict=True)
        return {run.seed: values[name] for run, values in pairs if run.seed is not None}

    return [
        None
        if baseline is None or baseline is group
        else difference(
            by_seed(at),
            by_seed(places[id(baseline)]),
            asked.worst(name),
            asked.partial,
            worth_of_one([*group.runs, *baseline.runs], item),
        )
        for at, (group, baseline) in enumerate(zip(groups, baselines, strict=True))
    ]


def _difference_cells(found: Difference | None, p: float, is_baseline: bool) -> dict[str, Any]:
    if found is None:
        empty = dict.fromkeys(_DIFFERENCE, math.nan) | dict.fromkeys(_DIFFERENCE[5:])
        return empty | ({"difference": 0.0} if is_baseline else {})
    one = found.interval
    values = (one.mean, found.median, one.low, one.high, p, one.n, found.wanted, found.better, found.worse)
    return dict(zip(_DIFFERENCE, values, strict=True))
