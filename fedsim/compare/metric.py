"""The metric that runs are compared by, which way it is better, and the target that they should reach."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedsim.compare.measures import Choice, Goal
from fedsim.compare.reading import Run
from fedsim.errors import UserError, did_you_mean
from fedsim.metrics import COLUMNS

_DEFAULT_METRICS = ("test_accuracy", "test_rmse", "test_loss")
HELD_OUT = ("test_", "personal_", "unseen_")
"""What the columns begin with that are measured on test data."""
HOW_TO_HOLD_BACK = "eval.validation_fraction=0.2 holds data back for that"


def choose_metric(runs: Sequence[Run], metric: str | None, better: str | None) -> tuple[str, str, list[str]]:
    """Return the metric, ``min`` or ``max``, and a note for the reader where the choice is not an obvious one.

    Args:
        runs: the runs that are compared.
        metric: what ``--metric`` said.
        better: what ``--better`` said.

    Raises:
        UserError: if there is no such column, or it is not known which way it is better.
    """
    if metric is not None:
        _check_column(runs, metric, "metric")
        return metric, better or way(runs, metric, f"--metric {metric}"), []
    known = list(dict.fromkeys(name for run in runs for name in run.columns))
    wanted = [name for run in runs if (name := _reported(run)) is not None and name in run.columns]
    if not wanted:
        wanted = [name for run in runs if (name := next(filter(run.columns.__contains__, _DEFAULT_METRICS), None))]
    wanted = list(dict.fromkeys(wanted))
    shared = [name for name in known if all(name in run.columns for run in runs)]
    if len(wanted) == 1 and wanted[0] in shared:
        return wanted[0], better or way(runs, wanted[0], wanted[0]), []
    ranked = [name for name in shared if _ways(runs, name) in ({"min"}, {"max"})]
    if not ranked and len(wanted) == 1:
        note = f"compared by {wanted[0]}, which not all runs have; they share no column that is better low or high"
        return wanted[0], better or way(runs, wanted[0], wanted[0]), [note]
    if not shared:
        raise UserError("these runs share no column to compare them by; choose one that some have with --metric")
    if not ranked:
        raise UserError(
            f"none of the columns that these runs share ({', '.join(shared)}) is known to be better low or high; "
            "choose one with --metric and --better min or --better max"
        )
    metric = next((name for name in ranked if name in COLUMNS and COLUMNS[name].evaluated), ranked[0])
    mode = better or way(runs, metric, metric)
    note = f"compared by {metric} ({mode}), the first column that all runs share"
    judges = f"not all runs are judged by the same metric ({', '.join(wanted)}): " if wanted else ""
    return metric, mode, [judges + note]


def _seen(metric: str) -> str:
    """The column that is on test data of clients that train what this one is on other data: better at the same end."""
    data, _, score = metric.partition("_")
    if data not in ("unseen", "validation"):
        return metric
    return score if score.startswith("personal_") else f"test_{score}"


def _counterpart(run: Run) -> str | None:
    """The column that is on test data what the run's judging metric is on validation data."""
    if run.judge is None or run.judged_on != "validation":
        return None
    return f"test_{run.judge[0].removeprefix('validation_')}"


def _reported(run: Run) -> str | None:
    """The column to compare a run by: what judged it, or, if that is of validation data, the same of test data."""
    name = _counterpart(run)
    if run.judge is None or name is None:
        return None if run.judge is None else run.judge[0]
    return next(filter(run.columns.__contains__, (name, *_DEFAULT_METRICS)), run.judge[0])


def find_choice(runs: Sequence[Run], metric: str, asked: bool) -> tuple[Choice | None, list[str]]:
    """Return how rounds were chosen on validation data, if all runs did it by the same metric.

    Args:
        runs: the runs that are compared; one that does not say what judged it follows the others.
        metric: what they are compared by.
        asked: whether ``--by chosen`` was.

    Returns:
        The choice, or None; and a note for the reader where only some runs made one.

    Raises:
        UserError: if there is no choice, but it was asked for.
    """
    judged = [run for run in runs if run.judge is not None]
    choices = {Choice(*run.judge) for run in judged if run.judge and run.judged_on == "validation"}
    with_choice = sum(run.judged_on == "validation" for run in judged)
    alike = len(choices) == 1 and with_choice == len(judged)
    if alike and metric.startswith(HELD_OUT):
        return choices.pop(), []
    if not choices:
        why = f"no run chose its round on validation data ({HOW_TO_HOLD_BACK})"
    elif alike:
        why = f"a chosen round is reported by what is measured on test data, and {metric} is not"
    elif with_choice < len(judged):
        why = f"only {with_choice} of {len(runs)} runs chose their rounds on validation data"
    else:
        why = f"the runs chose their rounds by different metrics ({', '.join(sorted(one.column for one in choices))})"
    if asked:
        raise UserError(f"--by chosen: {why}")
    return None, [why] if choices and not alike else []


def unseen_column(runs: Sequence[Run], metric: str) -> str | None:
    """The column that is of clients that never train what `metric` is of the others; None if no run has it."""
    name = metric if metric.startswith("personal_") else metric.removeprefix("test_")
    if not metric.startswith(("test_", "personal_")):
        return None
    return f"unseen_{name}" if any(f"unseen_{name}" in run.columns for run in runs) else None


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
    judged = {run.judge[1] for run in runs if run.judge and metric in (run.judge[0], _counterpart(run))}
    declared = {run.better[metric] for run in runs if metric in run.better}
    own = {COLUMNS[name].better for name in (metric, _seen(metric)) if name in COLUMNS}
    return next((ways for ways in (judged, declared, own) if len(ways) == 1), judged | declared)


def way(runs: Sequence[Run], metric: str, asked: str, way_out: str = "") -> str:
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


def read_target(runs: Sequence[Run], text: str, compared: str, mode: str) -> Goal:
    """Read ``METRIC=VALUE``; the direction is `mode` if it is the metric `compared`.

    Raises:
        UserError: if this is no target, or one that every run has reached before it begins.
    """
    metric, sign, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not sign or not math.isfinite(number):
        raise UserError(f"--target {text}: must be METRIC=NUMBER, such as test_accuracy=0.9")
    _check_column(runs, metric, "target")
    way_out = f"give the direction with --metric {metric} and --better min or --better max"
    goal = Goal(metric, number, mode if metric == compared else way(runs, metric, f"--target {text}", way_out))
    if goal.mode == "min" and is_cumulative(runs, metric):
        raise UserError(
            f"--target {text}: {metric} only grows, so every run begins below any target; name a score, such as "
            "test_accuracy=0.9, and what it took to reach that is shown"
        )
    return goal


def is_cumulative(runs: Sequence[Run], column: str) -> bool:
    """Whether a column counts from the beginning of a run and only grows, by `COLUMNS` or by what a run declares."""
    if column in COLUMNS:
        return COLUMNS[column].cumulative  # whatever a damaged or strange summary says
    return any(column in run.cumulative for run in runs)
