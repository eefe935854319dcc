"""How many predictions stand behind an accuracy, and which differences are smaller than one of them."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.compare.groups import Group
from fedsim.compare.reading import Run

_MOST = 3
_KINDS = {"test": "test", "personal": "test", "validation": "validation", "unseen": "unseen"}


def kind_of(column: str) -> str:
    """The data that an accuracy is over, a key of `fedsim.compare.reading.Run.items`; empty for any other column."""
    return _KINDS.get(column.partition("_")[0], "") if column.endswith("_accuracy") else ""


def worth_of_one(runs: Sequence[Run], column: str) -> float:
    """By how much one prediction changes an accuracy, in that of the runs where it changes most.

    Returns:
        A share of 1; 0 for a column that is no accuracy, and where no run says how many predictions it is over.
    """
    return max((1 / run.items[kind] for run in runs if (kind := kind_of(column)) in run.items), default=0.0)


def is_tie(one: float, other: float, worth: float) -> bool:
    """Whether two accuracies differ by less than what one prediction is worth; one prediction is no tie."""
    return abs(one - other) < worth * (1 - 1e-6)  # 222 / 370 - 221 / 370 is not quite 1 / 370


def sentences(groups: Sequence[Group], columns: Sequence[str]) -> list[str]:
    """Return how many predictions stand behind each of these accuracies; by group only where these differ."""
    return [said for column in columns if (said := _sentence(groups, column))]


def _sentence(groups: Sequence[Group], column: str) -> str:
    kind = kind_of(column)
    found = [(group, sorted({run.items[kind] for run in group.runs if kind in run.items})) for group in groups]
    counts = sorted({n for _, own in found for n in own})
    if not counts:
        return ""
    words = " items of unseen clients" if kind == "unseen" else f" {kind} item{'s' if counts[-1] > 1 else ''}"
    over = _span([f"{n:,}" for n in counts]) + words
    least, most = f"{1 / counts[-1]:.2g}", f"{1 / counts[0]:.2g}"
    each = [f"{_span([f'{n:,}' for n in own])} for {group.label}" for group, own in found if own]
    if len(counts) > 1 and len({tuple(own) for _, own in found}) > 1:
        more = f", and {len(each) - _MOST} more" if len(each) > _MOST else ""
        over += f" ({'; '.join(each[:_MOST])}{more})"
    return f"{column} is over {over}: one is worth {_span([least, most])}"


def _span(texts: Sequence[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"
