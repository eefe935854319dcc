"""When a run ends before its round limit, and which of its rounds is the best."""

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
            regression, of the validation samples with ``eval.validation_fraction``, else of the test samples.
        mode: whether lower (``min``) or higher (``max``) values are better; ``auto`` takes what the column says.
        target: stop as soon as the metric is at least as good as this.
        patience: stop after this many evaluations in a row without a new best.
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
        metric: the column of ``metrics.csv`` that judges the run.
        mode: ``min`` or ``max``.
        best: best value so far, None before the first evaluation.
        best_round: the round of the best value.
        since_best: evaluations since the best one.
        reason: why the run should stop; empty while it should continue.
    """

    metric: str
    mode: str
    best: float | None = None
    best_round: int = 0
    since_best: int = 0
    reason: str = field(default="")

    @property
    def on(self) -> str:
        """The data by which rounds are judged: ``validation``, ``test`` (any data to report on) or ``other``."""
        kind = self.metric.partition("_")[0]
        return "test" if kind in ("test", "personal", "unseen") else "validation" if kind == "validation" else "other"

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better."""
        return value < than if self.mode == "min" else value > than

    def update(self, stop: Stop, round_number: int, value: float) -> None:
        """Record the value of an evaluated round, and set `reason` if the run should stop."""
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
    """Return the progress before the first evaluation.

    Raises:
        UserError: if neither low nor high values of the metric are better as such, and ``stop.mode`` is ``auto``.
    """
    metric = stop.metric or default_metric
    better = next(column.better for column in columns if column.name == metric)
    mode = better if stop.mode == "auto" else stop.mode
    if not mode:
        raise UserError(f"stop.metric={metric}: neither end is the better one; set stop.mode to min or max")
    return Progress(metric, mode)
