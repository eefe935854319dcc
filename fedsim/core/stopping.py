"""When a run ends before its round limit, and which round was the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedsim.errors import FieldError, UserError, check_at_least, check_one_of
from fedsim.metrics import Column


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Early stopping; with neither `target` nor `patience` only the round limit ends a run.

    Attributes:
        metric: column of ``metrics.csv`` that judges the run, also for its best round. None: accuracy, or RMSE for
            regression.
        mode: ``min``, ``max``, or ``auto`` (the better end of the column).
        target: stop as soon as the metric is at least as good as this.
        patience: stop after so many evaluations in a row without a new best.
    """

    metric: str | None = None
    mode: str = "auto"
    target: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        check_one_of(self, "mode", ("auto", "min", "max"))
        check_at_least(self, 1, "patience")
        if self.target is not None and not math.isfinite(self.target):
            raise FieldError("target", self.target, "must be a finite number")


@dataclass
class Progress:
    """The best value so far and what `Stop` needs to decide; part of a run's state.

    Attributes:
        metric: column that judges.
        mode: ``min`` or ``max``.
        best: best value so far, None before the first evaluation.
        best_round: its round.
        since_best: evaluations since then.
        reason: why the run should stop, empty while it should not.
    """

    metric: str
    mode: str
    best: float | None = None
    best_round: int = 0
    since_best: int = 0
    reason: str = field(default="")

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better."""
        return value < than if self.mode == "min" else value > than

    def update(self, stop: Stop, round_number: int, value: float) -> None:
        """Take in the value of an evaluated round."""
        if self.best is None or self.better(value, self.best):
            self.best, self.best_round, self.since_best = value, round_number, 0
        else:
            self.since_best += 1
        if stop.target is not None and not self.better(stop.target, value):
            sign = "<=" if self.mode == "min" else ">="
            self.reason = f"{self.metric}={value:.4g} {sign} target {stop.target:g}"
        elif stop.patience is not None and self.since_best >= stop.patience:
            self.reason = f"no better {self.metric} than {self.best:.4g} in {stop.patience} evaluations"


def start(stop: Stop, default_metric: str, columns: Sequence[Column]) -> Progress:
    """Progress before the first evaluation.

    Raises:
        UserError: if neither end of the metric is the better one, and ``stop.mode`` does not say which is wanted.
    """
    metric = stop.metric or default_metric
    better = next(column.better for column in columns if column.name == metric)
    mode = better if stop.mode == "auto" else stop.mode
    if not mode:
        raise UserError(f"stop.metric={metric}: neither end is the better one; set stop.mode to min or max")
    return Progress(metric, mode)
