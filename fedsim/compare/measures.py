"""What each run has to show for itself, and why where it has nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fedsim.compare.groups import FINISHED
from fedsim.compare.reading import DAMAGED, NO_STATUS, Run
from fedsim.compare.statistics import best_value, round_reached

if TYPE_CHECKING:
    import pandas as pd

COSTS = ("bytes_down", "bytes_up", "virtual_seconds")
TO_TARGET = ("target", "bytes", *COSTS)
ROUNDS = ("best round", "chosen round")
DIVERGED = "diverged"
NEVER = "never reached the target"


class Goal(NamedTuple):
    """A value that a column should reach, from above (``min``) or from below (``max``)."""

    column: str
    value: float
    mode: str

    def __str__(self) -> str:
        return f"{self.column}{'<=' if self.mode == 'min' else '>='}{self.value:g}"


class Choice(NamedTuple):
    """What rounds were chosen by: a column that is measured on validation data, and its better end."""

    column: str
    mode: str


@dataclass(frozen=True)
class Asked:
    """What is measured of every run.

    Attributes:
        metric: the column that runs are judged by.
        mode: whether lower (``min``) or higher (``max``) values of it are better.
        cumulative: whether it only grows, so that there is no best round.
        last: also the mean over this many last evaluated rounds; None: not.
        last_rounds: also the mean over what was evaluated in this many last rounds; None: not.
        at: also the value in this round; None: not.
        goal: also what it took to get there; None: not.
        partial: whether the last value of an unfinished run counts as its final one.
        choice: also the value in the round that was chosen on validation data; None: no round was.
        unseen: also this column, which is of clients that never train, and the gap to it; None: not.
        by: the measure that the runs are sorted by and differences taken of, one of `fedsim.compare.table.BY`.
    """

    metric: str
    mode: str
    cumulative: bool = False
    last: int | None = None
    last_rounds: int | None = None
    at: int | None = None
    goal: Goal | None = None
    partial: bool = False
    choice: Choice | None = None
    unseen: str | None = None
    by: str = "final"

    @property
    def shows_best(self) -> bool:
        """Whether best rounds are shown: not next to chosen ones, unless they are asked for."""
        return not self.cumulative and (self.choice is None or self.by == "best")

    @property
    def sorting(self) -> str:
        """The measure to sort by, a key of `names`: where rounds were chosen, the value that chose them."""
        return "validation" if self.by == "chosen" else self.by

    @property
    def names(self) -> dict[str, str]:
        """The columns in which a table shows the measures of `measure`."""
        names = {"final": f"final {self.metric}"}
        if self.choice is not None:
            names |= {"chosen": f"chosen {self.metric}", "validation": f"chosen {self.choice.column}"}
            names |= {"chosen round": "chosen round"}
        if not self.cumulative:
            names |= {"best": f"best {self.metric}", "best round": "best round"}
        if self.unseen is not None:
            names |= {"unseen": f"{'chosen' if self.choice else 'final'} {self.unseen}", "gap": "gap to unseen"}
        if self.last is not None:
            names["last"] = f"last {self.last} {self.metric}"
        if self.last_rounds is not None:
            names["last"] = f"last {self.last_rounds} rounds {self.metric}"
        if self.at is not None:
            names["at"] = f"at {self.at} {self.metric}"
        if self.goal is not None:
            names |= {"target": f"rounds to {self.goal}", "bytes": f"bytes to {self.goal}"}
            names |= {cost: f"{cost} to {self.goal}" for cost in COSTS}
        return names

    def worst(self, measure: str) -> float:
        """The infinite number that is worse than any value of a measure."""
        mode = self.choice.mode if self.choice is not None and measure == "validation" else self.mode
        return math.inf if mode == "min" or measure in (*TO_TARGET, "gap") else -math.inf


class Outcome(NamedTuple):
    """One run's value of a measure.

    Attributes:
        value: NaN if there is none.
        lack: why there is none; empty if there is one.
        fails: whether that is a result of its own, worse than any value: the run diverged, or never reached the target.
        round: where the value was measured; of a target that was not reached, the round up to which it was not.
    """

    value: float
    lack: str = ""
    fails: bool = False
    round: float = math.nan


def measure(run: Run, asked: Asked) -> dict[str, Outcome]:
    """Return a run's measures, by the keys of `Asked.names`; those of columns that it does not have are left out."""
    values = run.columns.get(asked.metric)
    found = {"final": _of_end(run, asked, values, _final)}
    if not asked.cumulative:
        found |= dict(zip(("best", "best round"), _best(run, asked, values, asked.mode), strict=True))
    if asked.choice is not None:
        found |= _chosen(run, asked, values, asked.choice)
    if asked.unseen is not None and asked.unseen in run.columns:
        found |= _unseen(run.columns[asked.unseen], found["chosen" if asked.choice else "final"], asked)
    if asked.last is not None or asked.last_rounds is not None:
        found["last"] = _of_end(run, asked, values, _last)
    if asked.at is not None:
        found["at"] = _at(run, asked, values, asked.at)
    return found if asked.goal is None else found | _to_target(run, asked, asked.goal)


def _no_column(asked: Asked) -> Outcome:
    return Outcome(math.nan, f"no column {asked.metric}")


def _unfinished(run: Run, asked: Asked) -> str:
    """The status of a run that has not come to its end, and whose last value is not taken for its final one."""
    ended = run.status in (*FINISHED, NO_STATUS, DIVERGED)
    return "" if ended or asked.partial else stopped_short(run)


def stopped_short(run: Run) -> str:
    """How far a run has come that has not ended as it should."""
    if run.fault:
        return f"{run.status} ({run.fault})"
    return f"{run.status}, no rounds yet" if run.rounds is None else f"{run.status} after round {run.rounds}"


def _of_end(
    run: Run,
    asked: Asked,
    values: pd.Series[float] | None,
    take: Callable[[Run, Asked, pd.Series[float]], Outcome],
) -> Outcome:
    """What `take` finds at the end of a run that has come to one."""
    if values is None:
        return _no_column(asked)
    if run.status == DIVERGED:
        return Outcome(math.nan, stopped_short(run), True)
    if lack := _unfinished(run, asked):
        return Outcome(math.nan, lack)
    return take(run, asked, values)


def _final(run: Run, asked: Asked, values: pd.Series[float]) -> Outcome:
    if values.empty:
        return Outcome(math.nan, "not evaluated")
    return _number(float(values.iloc[-1]), float(values.index[-1]))


def _last(run: Run, asked: Asked, values: pd.Series[float]) -> Outcome:
    """A mean over the last evaluations; the untrained round 0 does not count."""
    trained = values[values.index > 0]
    if asked.last_rounds is not None:
        done = run.rounds or 0
        if done < asked.last_rounds:
            return Outcome(math.nan, f"fewer than {asked.last_rounds} rounds (--last-rounds)")
        trained = trained[trained.index > done - asked.last_rounds]
        if trained.empty:
            return Outcome(math.nan, f"not evaluated in its last {asked.last_rounds} rounds (--last-rounds)")
    elif asked.last is not None:
        if len(trained) < asked.last:
            return Outcome(math.nan, f"fewer than {asked.last} evaluated rounds (--last)")
        trained = trained.iloc[-asked.last :]
    return _number(float(trained.mean()), float(trained.index[-1]))


def _best(run: Run, asked: Asked, values: pd.Series[float] | None, mode: str) -> tuple[Outcome, Outcome]:
    """The best value and its round; a diverged run's is from before it diverged."""
    if values is None:
        lacking = _no_column(asked)
        return lacking, lacking
    if lack := _unfinished(run, asked):
        return Outcome(math.nan, lack), Outcome(math.nan, lack)
    best, at = best_value(values, mode)
    if math.isnan(best):
        return Outcome(math.nan, "not evaluated"), Outcome(math.nan, "not evaluated")
    return Outcome(best, round=at), Outcome(at, round=at)


def _chosen(run: Run, asked: Asked, values: pd.Series[float] | None, choice: Choice) -> dict[str, Outcome]:
    """The value in the round with the best validation value, that value, and the round."""
    judging = run.columns.get(choice.column)
    best, at = _best(run, asked, judging, choice.mode)
    if judging is None:
        best = at = Outcome(math.nan, f"no column {choice.column}")
    if at.lack:
        chosen = at
    elif values is None:
        chosen = _no_column(asked)
    elif at.round in values.index:
        chosen = _number(float(values.loc[int(at.round)]), at.round)
    else:
        chosen = Outcome(math.nan, f"no {asked.metric} in the chosen round {at.round:g}")
    return {"chosen": chosen, "validation": best, "chosen round": at}


def _unseen(values: pd.Series[float], seen: Outcome, asked: Asked) -> dict[str, Outcome]:
    """The value of the clients that never train where `seen` was measured, and by how much it is worse."""
    if seen.lack:
        return {"unseen": seen, "gap": seen}
    if seen.round not in values.index:
        missing = Outcome(math.nan, f"no {asked.unseen} in round {seen.round:g}")
        return {"unseen": missing, "gap": missing}
    unseen = _number(float(values.loc[int(seen.round)]), seen.round)
    gap = seen.value - unseen.value if asked.mode == "max" else unseen.value - seen.value
    return {"unseen": unseen, "gap": unseen if unseen.lack else Outcome(gap, round=seen.round)}


def _at(run: Run, asked: Asked, values: pd.Series[float] | None, at: int) -> Outcome:
    """The value in one round, which an unfinished run may have, too."""
    if values is None:
        return _no_column(asked)
    if run.status == DAMAGED and not asked.partial:
        return Outcome(math.nan, stopped_short(run))
    if at in values.index:
        return _number(float(values.loc[at]), at)
    if (run.rounds or 0) >= at:
        return Outcome(math.nan, f"not evaluated in round {at} (--at)")
    if run.status == DIVERGED:
        return Outcome(math.nan, stopped_short(run), True)
    return Outcome(math.nan, f"no round {at} (--at)")


def _to_target(run: Run, asked: Asked, goal: Goal) -> dict[str, Outcome]:
    """The round in which a run reached its goal, and what it had cost by then."""
    costs = [cost for cost in COSTS if cost in run.columns]
    reached = round_reached(run.columns.get(goal.column), goal.value, goal.mode)
    if run.status == DAMAGED and not asked.partial:
        missing = Outcome(math.nan, stopped_short(run))
    elif goal.column not in run.columns:
        missing = Outcome(math.nan, f"no column {goal.column}")
    elif reached is None:
        missing = _not_reached(run)
    else:
        found = {"target": Outcome(reached, round=reached)}
        found |= {cost: _cost(run, cost, reached) for cost in costs}
        if "bytes_down" in found and "bytes_up" in found:
            down, up = found["bytes_down"], found["bytes_up"]
            found["bytes"] = Outcome(down.value + up.value, down.lack or up.lack, round=reached)
        return found
    both = ["bytes"] if "bytes_down" in costs and "bytes_up" in costs else []
    return dict.fromkeys(["target", *costs, *both], missing)


def _cost(run: Run, cost: str, at: int) -> Outcome:
    values = run.columns[cost]
    return _number(float(values.loc[at]), at) if at in values.index else Outcome(math.nan, f"no {cost} in round {at}")


def _not_reached(run: Run) -> Outcome:
    """A result of its own if the run has come to its end; otherwise it may yet get there."""
    rounds = run.rounds or 0
    if run.status == DIVERGED:
        return Outcome(math.nan, stopped_short(run), True, math.inf)
    if run.status in (*FINISHED, NO_STATUS):
        # A run at its round limit might have got there later; one that its own rule stopped would not.
        until = math.inf if run.status == "stopped" else rounds
        return Outcome(math.nan, NEVER, True, until)
    return Outcome(math.nan, stopped_short(run))


def _number(value: float, at: float) -> Outcome:
    return Outcome(value, round=at) if math.isfinite(value) else Outcome(math.nan, f"{value} in round {at:g}")
