"""Find runs and read what they left behind.

The files may have been moved, cut off or edited: what cannot be used is reported with the reason, and the rest is
read. It is a `UserError` only if nothing can be used.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedsim.compare.agreement import disagreement
from fedsim.compare.records import (
    is_of_another,
    items_of,
    judge,
    judged_on,
    read_choices,
    read_config,
    read_metrics,
    read_summary,
)
from fedsim.errors import UserError
from fedsim.recording.run_directory import refuse_links

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
METRICS, CONFIG, SUMMARY, CHOICES = "metrics.csv", "config.yaml", "summary.json", ".hydra/hydra.yaml"
COMPOSED = ".hydra/config.yaml"
INCOMPLETE = "incomplete"  # no summary: still running, or killed
DAMAGED = "damaged"  # metrics.csv and summary.json disagree
NO_STATUS = "-"  # a CSV without its run directory
WAYS = ("min", "max", "")  # which values of a column are better: lower ones, higher ones, neither

_TRACES = (CONFIG, SUMMARY, "run.log")  # a folder with one of these was a run's


class Lost(str):
    """A sentence about a run that could not be read, and so is missing from every table."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left behind.

    Attributes:
        path: the run directory, or a bare CSV.
        status: summary.json's, ``incomplete`` without a summary, ``damaged`` if its metrics.csv is not the one that the
            summary describes, ``-`` for a bare CSV.
        judge: the metric by which the run chose its best round, and ``min`` or ``max``; None if unknown.
        config: dotted key to value, a component's own key holding its class; None without a config.yaml.
        rounds: the last round in the CSV; None before the first.
        columns: each column's measured values, indexed by round; empty cells are left out, measured NaNs are not.
        choices: config group to chosen option, such as ``client/optimizer`` to ``adam``; None without Hydra's record of
            them.
        typed: the groups and keys that the command line set.
        better: column to ``min`` or ``max``, the end that is better, or empty if neither is; only the columns that the
            run's summary.json declares.
        cumulative: the columns that only grow, as far as the summary.json declares them.
        fault: how metrics.csv and summary.json disagree; empty if they do not.
        judged_on: the data of the judging metric: ``validation`` (held back from training, for the global model),
            ``test`` or ``other``; empty where the run does not say, as older ones.
        items: the number of predictions that are scored on ``test``, ``validation`` and ``unseen`` data, as far as the
            summary.json says.
    """

    path: Path
    status: str
    judge: tuple[str, str] | None
    config: Mapping[str, object] | None
    rounds: int | None
    columns: Mapping[str, pd.Series[float]]
    choices: Mapping[str, str] | None = None
    typed: frozenset[str] = field(default=frozenset())
    better: Mapping[str, str] = field(default_factory=dict)
    cumulative: frozenset[str] = field(default=frozenset())
    fault: str = ""
    judged_on: str = ""
    items: Mapping[str, int] = field(default_factory=dict)

    @property
    def seed(self) -> object:
        """Its seed, or None if that is not known."""
        return None if self.config is None else self.config.get("seed")


def load_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """Read the runs that `paths` name: run directories, folders above them, glob patterns or bare CSVs.

    Returns:
        The runs, in the order of `paths`, each once, and in natural order (job 10 after job 9) below each path; and a
        sentence for everything found there that could not be used: a `Lost` one for a run.

    Raises:
        UserError: if a path does not exist, or no run can be read.
    """
    problems: list[str] = []
    once: dict[Path, Path] = {}
    for path in map(Path, paths):
        for run in _careful(partial(_find, path, problems), problems) or []:
            run = Path(os.path.abspath(run))
            once.setdefault(_csv(run).resolve(), run)
    runs = [_careful(partial(_load, run), problems, Lost) for run in once.values()]
    if not any(runs):
        more = f" (and {len(problems) - 1} more like it; no run can be read)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more if problems else "no runs to compare")
    return [run for run in runs if run is not None], problems


class _Missing(UserError):
    """A path that does not exist: a mistake in the request, not in the files."""


def _careful(read: Callable[[], T], problems: list[str], say: Callable[[str], str] = str) -> T | None:
    """The result of `read`; None and an entry in `problems` if that fails."""
    try:
        return read()
    except _Missing:
        raise
    except UserError as error:
        problems.append(say(str(error)))
    except OSError as error:
        problems.append(say(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    return None


def _find(path: Path, problems: list[str]) -> list[Path]:
    """The run directories and bare CSVs that one argument stands for."""
    if path.is_dir():
        if not (runs := _below(path, problems)):
            raise UserError(f"{path}: no runs here (no {METRICS} in this folder or below it)")
        return runs
    if path.exists():
        return [_owner(path)]
    if not any(sign in str(path) for sign in "*?["):
        raise _Missing(f"{path}: no such file or folder")
    runs, others = [], []
    for match in sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural):
        if match.is_dir():
            runs += (below := _below(match, problems))
            if not below and not _within_run(match):
                others.append(match.name)
        elif match.is_file() and (match.name == METRICS or (match.suffix == ".csv" and not _within_run(match))):
            runs.append(_owner(match))
        elif not _within_run(match):  # a run's timing.csv and the like, which `*` matches too, belong to the run
            others.append(match.name)
    if not runs:
        raise _Missing(f"{path}: no runs match this pattern")
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        problems.append(f"{path}: skipped what is not a run ({shown})")
    return runs


def _below(folder: Path, problems: list[str]) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error

    runs = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        if METRICS in files:
            runs.append(Path(parent))
            folders.clear()  # there are no runs within a run
            continue
        folders[:] = [name for name in folders if name != ".hydra"]
        if any(name in files for name in _TRACES):
            problems.append(Lost(f"{parent}: a run without {METRICS} (it ended before its first round)"))
    return sorted(runs, key=_natural)


def _within_run(path: Path) -> bool:
    return any((parent / METRICS).exists() for parent in path.parents)


def _owner(file: Path) -> Path:
    """The run directory, if `file` is the metrics.csv of one."""
    in_run = (file.parent / CONFIG).exists() or (file.parent / SUMMARY).exists()
    return file.parent if file.name == METRICS and in_run else file


def _csv(run: Path) -> Path:
    return run / METRICS if run.is_dir() else run


def _natural(path: Path) -> tuple[list[list[tuple[str, int]]], str]:
    """A sort key that takes digits as numbers."""
    parts = [[(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", part)] for part in path.parts]
    return parts, str(path)


def _load(path: Path) -> Run:
    if path.is_dir():
        refuse_links(path)
    rows, columns = read_metrics(_csv(path))
    rounds = max(rows, default=None)
    if not path.is_dir():
        _refuse_repeats(path, rows)
        if rounds is None:
            raise UserError(f"{path}: this file has no rounds")
        return Run(path, NO_STATUS, None, None, rounds, columns)
    config = read_config(path / CONFIG) if (path / CONFIG).exists() else None
    summary = read_summary(path / SUMMARY) if (path / SUMMARY).exists() else {"status": INCOMPLETE}
    fault = disagreement(summary, rows, columns) or ""
    status = DAMAGED if fault else summary["status"]
    if not fault:
        _refuse_repeats(path / METRICS, rows)
    choices, typed = read_choices(path / CHOICES) if (path / CHOICES).exists() else (None, frozenset[str]())
    if choices is not None and config is not None and is_of_another(path / COMPOSED, config):
        choices, typed = None, frozenset()
    declared, growing = summary.get("columns"), summary.get("cumulative")
    better = {name: way for name, way in declared.items() if way in WAYS} if isinstance(declared, dict) else {}
    cumulative = frozenset(map(str, growing)) if isinstance(growing, list) else frozenset[str]()
    judged = judge(summary.get("best"), path / SUMMARY)
    on, items = judged_on(summary.get("best")), items_of(summary.get("items"))
    return Run(path, status, judged, config, rounds, columns, choices, typed, better, cumulative, fault, on, items)


def _refuse_repeats(file: Path, rows: Sequence[int]) -> None:
    """Raise `UserError` if a round has several rows."""
    for at, following in pairwise(sorted(rows)):
        if at == following:
            raise UserError(f"{file}: round {at} has several rows")
