"""Forward a run to its tracker; tracker failures are reported and never stop the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from fedsim.build import record_of
from fedsim.config.keys import flat
from fedsim.core.results import Metrics
from fedsim.errors import print_error, printable
from fedsim.federation.experiment import Experiment
from fedsim.recording.trackers import Log, Logged, Tracked

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # messages for users are printed as well


def settings_of(experiment: Experiment) -> dict[str, Logged]:
    """Return every setting by its dotted key, with class names for components; those of the tracker are left out."""
    record = {key: value for key, value in record_of(experiment).items() if key != "tracker"}
    settings: dict[str, Logged] = {}
    for key, value in flat(record).items():
        if key.endswith("._target_"):
            settings[key.removesuffix("._target_")] = str(value).rpartition(".")[2]
        else:
            settings[key] = value if isinstance(value, Logged) else "null" if value is None else str(value)
    return settings


class Follower:
    """Forwards rounds to the tracker of an experiment, until the tracker fails.

    Args:
        experiment: the experiment, with its tracker.
        directory: the run's directory.
        rows: the rows of completed rounds; a tracker that is new to the run gets these, too.
        again: the row after them, if it has changed since it was logged.
    """

    def __init__(
        self, experiment: Experiment, directory: Path, rows: Iterable[Metrics] = (), again: Metrics | None = None
    ) -> None:
        self._log: Log | None = None
        self._name = type(experiment.tracker).__name__
        rows = list(rows)
        next_round = _round(rows[-1]) + 1 if rows else 0
        label = experiment.name or "/".join(directory.resolve().parts[-2:])
        try:
            self._log = experiment.tracker.begin(Tracked(directory, label, settings_of(experiment), next_round))
            if self._log is not None and again is not None:
                self._log.first = min(self._log.first, _round(again))
        except Exception as error:
            self._fail(error)
        for row in [*rows, *([] if again is None else [again])]:
            self.log(row)

    def log(self, row: Metrics) -> None:
        """Forward a row of ``metrics.csv``, unless the tracker has it already."""
        round_number = _round(row)
        if self._log is None or round_number < self._log.first:
            return
        metrics = {name: float(value) for name, value in row.items() if name != "round" and value is not None}
        try:
            self._log.log(round_number, metrics)
        except Exception as error:
            self._fail(error)

    def end(self, status: str) -> None:
        """Close the run in the tracker, with the run's status."""
        try:
            if self._log is not None:
                self._log.end(status)
        except Exception as error:
            self._fail(error)
        self._log = None

    def _fail(self, error: Exception) -> None:
        self._log = None
        what = " ".join(str(error).split()) or type(error).__name__
        text = f"tracker={self._name.lower()}: {what[:300]}; the run goes on without it, and metrics.csv has everything"
        log.warning(printable(text))
        print_error(text, "warning")


def _round(row: Metrics) -> int:
    return int(row["round"] or 0)
