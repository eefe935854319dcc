"""What a round gives: a row of metrics, an evaluation and how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Metrics = dict[str, int | float | None]
"""One row of ``metrics.csv``; None where a cell is empty."""


@dataclass(frozen=True)
class Evaluation:
    """What is found out about a state, over all test samples and per client.

    Attributes:
        metrics: by column of ``metrics.csv``.
        clients: by column of ``clients.csv``, ``[N]`` each; not a number for clients without test samples.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    clients: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def merge(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Join the evaluations of several parts."""
    merged = Evaluation()
    for one in evaluations:
        merged.metrics.update(one.metrics)
        merged.clients.update(one.clients)
    return merged


@dataclass(frozen=True)
class RoundResult:
    """What one round gives.

    Attributes:
        metrics: one row of ``metrics.csv``.
        evaluation: if this round was evaluated.
        seconds: wall-clock time by stage (``timing.csv``).
        samples: training samples that the cohort went through, each as often as it was used.
    """

    metrics: Metrics
    evaluation: Evaluation | None
    seconds: dict[str, float] = field(default_factory=dict)
    samples: int = 0


class Stopwatch:
    """Wall-clock seconds by stage; every lap begins where the last one ended."""

    def __init__(self) -> None:
        self.laps = {"train": 0.0}
        self._began = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End the lap of a stage."""
        now = time.perf_counter()
        self.laps[stage], self._began = now - self._began, now
