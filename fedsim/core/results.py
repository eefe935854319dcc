"""The results of a round: a row of metrics, an evaluation and how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Metrics = dict[str, int | float | None]
"""One row of ``metrics.csv``; None where a cell is empty."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a state, over all test samples and per client.

    Attributes:
        metrics: values by column of ``metrics.csv``.
        clients: values ``[N]`` by column of ``clients.csv``; NaN for clients without test samples.
        unseen: those of the clients that never train.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    clients: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    unseen: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def merge(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Join the evaluations of several parts."""
    merged = Evaluation()
    for one in evaluations:
        merged.metrics.update(one.metrics)
        merged.clients.update(one.clients)
        merged.unseen.update(one.unseen)
    return merged


@dataclass(frozen=True)
class RoundResult:
    """The results of one round.

    Attributes:
        metrics: one row of ``metrics.csv``.
        evaluation: the evaluation, or None if the round was not evaluated.
        seconds: wall-clock time by stage (``timing.csv``).
        samples: training samples that the cohort processed; a sample counts once per use.
    """

    metrics: Metrics
    evaluation: Evaluation | None
    seconds: dict[str, float] = field(default_factory=dict)
    samples: int = 0


class Stopwatch:
    """Measures wall-clock seconds by stage; every lap begins where the previous one ended."""

    def __init__(self) -> None:
        self.laps = {"train": 0.0}
        self._began = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End the current lap and record it under `stage`."""
        now = time.perf_counter()
        self.laps[stage], self._began = now - self._began, now
