"""Whether a run's ``metrics.csv`` holds what its ``summary.json`` says it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from fedsim.compare.statistics import best_value

if TYPE_CHECKING:
    import pandas as pd


def disagreement(
    summary: Mapping[str, Any], rounds: Sequence[int], columns: Mapping[str, pd.Series[float]]
) -> str | None:
    """Return how the two files disagree, or None. What the summary does not have is not compared.

    Args:
        summary: the content of ``summary.json``.
        rounds: the rounds in ``metrics.csv``, row by row.
        columns: its columns, as in `fedsim.compare.reading.Run`.
    """
    said, last = summary.get("rounds"), max(rounds, default=None)
    if _is_whole(said) and said != last:
        end = "has no rounds" if last is None else f"ends with round {last}"
        return f"metrics.csv {end}, but summary.json with round {said}"
    if _is_whole(said) and (odd := _not_counted_up(rounds)) is not None:
        return f"metrics.csv {odd}"
    final, best = summary.get("final"), summary.get("best")
    if isinstance(final, dict) and _is_whole(at := final.get("round")):
        for name, value in final.items():
            if name != "round" and not _same(columns, name, at, value):
                return _differs(columns, name, at, value)
    if isinstance(best, dict) and isinstance(name := best.get("metric"), str):
        at, value = best.get("round"), best.get("value")
        if _is_whole(at) and isinstance(value, (int, float)) and math.isfinite(value):
            if not _same(columns, name, at, value):
                return _differs(columns, name, at, value)
            found, where = best_value(columns.get(name), str(best.get("mode")))
            if not _same(columns, name, int(where), value):
                words = f"metrics.csv has {found:g} for {name} in round {where:g}"
                return f"{words}, better than summary.json's best, {value:g}"
            return _other_scores(best.get("test"), at, columns)
    return None


def _other_scores(scores: object, at: int, columns: Mapping[str, pd.Series[float]]) -> str | None:
    """What is wrong with the other scores of the best round."""
    for name, value in scores.items() if isinstance(scores, dict) else ():
        if not _same(columns, name, at, value):
            return _differs(columns, name, at, value)
    return None


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _not_counted_up(rounds: Sequence[int]) -> str | None:
    """What is wrong with rounds that should be 0, 1, 2, ..."""
    for expected, found in enumerate(rounds):
        if found != expected:
            return f"has no row of round {expected}" if found > expected else f"has round {found} out of order"
    return None


def _same(columns: Mapping[str, pd.Series[float]], name: str, at: int, value: object) -> bool:
    found = _cell(columns, name, at)
    if value is None:  # numbers that are not finite are null in JSON
        return found is None or not math.isfinite(found)
    if not isinstance(value, (int, float)):
        return True
    return found is not None and math.isclose(found, value, rel_tol=1e-9)


def _differs(columns: Mapping[str, pd.Series[float]], name: str, at: int, value: object) -> str:
    found = _cell(columns, name, at)
    here = "nothing" if found is None else f"{found:g}"
    return f"metrics.csv has {here} for {name} in round {at}, but summary.json has {value}"


def _cell(columns: Mapping[str, pd.Series[float]], name: str, at: int) -> float | None:
    values = columns.get(name)
    return None if values is None or at not in values.index else float(values.loc[at])
