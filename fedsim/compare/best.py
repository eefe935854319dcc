"""Which rows of a comparison are the best, and what they, and the rounds of the runs, were chosen by."""

from __future__ import annotations

import math

from fedsim.compare.items import is_tie, kind_of, worth_of_one
from fedsim.compare.metric import HELD_OUT, HOW_TO_HOLD_BACK
from fedsim.compare.statistics import best_value
from fedsim.compare.table import Comparison


def best_rows(comparison: Comparison) -> list[bool]:
    """Which rows hold the best value of the column that the table is sorted by.

    None does if that is the mean of some seeds only, or if the next value is within what one item is worth.
    """
    values = comparison.table[comparison.sorted_by].astype(float)
    first = comparison.summaries[0][comparison.sorted_by]
    there = len(values) > 1 and first.n == first.total and not _tied(comparison)
    return [there and value == values.iloc[0] for value in values]


def _judging(comparison: Comparison) -> str:
    """The column of ``metrics.csv`` that the rows are sorted by; empty if it is what it took to reach a target."""
    if comparison.by == "chosen" and comparison.choice is not None:
        return comparison.choice.column
    return "" if comparison.by == "target" else comparison.metric


def _tied(comparison: Comparison) -> float:
    """What one item is worth if the first two rows differ by less; else 0."""
    values = comparison.table[comparison.sorted_by].astype(float)
    if len(values) < 2:
        return 0.0
    runs = [run for group in comparison.groups[:2] for run in group.runs]
    worth = worth_of_one(runs, _judging(comparison))
    return worth if is_tie(values.iloc[0], values.iloc[1], worth) else 0.0


def of_ties(comparison: Comparison) -> list[str]:
    """Why no row is the best, where the first two are too close."""
    if not (worth := _tied(comparison)):
        return []
    kind = kind_of(_judging(comparison))
    return [
        f"no row is best: the {comparison.sorted_by} of the first two differs by less than one {kind} item "
        f"({worth:.2g})"
    ]


def of_choice(comparison: Comparison) -> list[str]:
    """On which data rounds were chosen, and on which they are reported."""
    choice = comparison.choice
    if choice is None:
        return []
    runs = [run for group in comparison.groups for run in group.runs]
    rounds, equals, counted = set(), 0, 0
    for run in runs:
        best, at = best_value(run.columns.get(choice.column), choice.mode)
        if not math.isnan(at):
            rounds.add(int(at))
            equals += int((run.columns[choice.column] == best).sum()) > 1
            counted += 1
    span = f"{min(rounds)} to {max(rounds)}" if len(rounds) > 1 else "".join(map(str, rounds))
    where = f" (round{'s' if len(rounds) > 1 else ''} {span})" if rounds else ""
    said = (
        f"chosen on {choice.column}{where}, reported on {comparison.metric}: a run's chosen round is the one with the "
        f"best {choice.column}"
    )
    if equals:
        which = "several rounds have" if counted == 1 else f"in {equals} of {counted} runs several rounds have"
        said += f"; {which} it, and the first is chosen"
    return [said]


def of_optimism(comparison: Comparison) -> list[str]:
    """A sentence where rounds, or a row, are chosen on the data on which they are reported."""
    metric, choice = comparison.metric, comparison.choice
    if not metric.startswith(HELD_OUT):
        return []
    best = comparison.shows_best and any(row["best round"].n for row in comparison.summaries)
    row = comparison.by != "chosen" and any(best_rows(comparison))
    chosen = [*(["best rounds"] if best else []), *(["the best row"] if row else [])]
    if not chosen:
        return []
    verb = "is" if chosen == ["the best row"] else "are"
    way_out = HOW_TO_HOLD_BACK if choice is None else f"--by chosen goes by {choice.column}"
    return [f"{' and '.join(chosen)} {verb} chosen on test data: optimistic ({way_out})"]
