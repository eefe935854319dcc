"""Find runs and read what they left behind.

The files may have been moved, cut off or edited: what cannot be used is reported with the reason, and the rest is
read. It is a `UserError` only if nothing can be used.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from fedsim.compare.agreement import disagreement
from fedsim.errors import UserError
from fedsim.recording.moved import moved
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

# Config keys that say nothing about the experiment.
_BOOKKEEPING = ("format_version", "console", "checkpoint", "tracker")
_TRACES = (CONFIG, SUMMARY, "run.log")  # a folder with one of these was a run's


class Lost(str):
    """A sentence about a run that could not be read, and so is missing from every table."""

    __slots__ = ()


class Target(str):
    """The class that a component names in ``_target_``."""

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
        elif match.name == METRICS or (match.suffix == ".csv" and not _within_run(match)):
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


def _unusable(file: Path, what: str, error: Exception) -> UserError:
    return UserError(f"{file}: {what} ({' '.join(str(error).split())})")  # the parsers' messages have several lines


def _load(path: Path) -> Run:
    if path.is_dir():
        refuse_links(path)
    rows, columns = _read_metrics(_csv(path))
    rounds = max(rows, default=None)
    if not path.is_dir():
        if rounds is None:
            raise UserError(f"{path}: this file has no rounds")
        return Run(path, NO_STATUS, None, None, rounds, columns)
    config = _read_config(path / CONFIG) if (path / CONFIG).exists() else None
    summary = _read_summary(path / SUMMARY) if (path / SUMMARY).exists() else {"status": INCOMPLETE}
    fault = disagreement(summary, rows, columns) or ""
    status = DAMAGED if fault else summary["status"]
    choices, typed = _read_choices(path / CHOICES) if (path / CHOICES).exists() else (None, frozenset[str]())
    if choices is not None and config is not None and _is_of_another(path / COMPOSED, config):
        choices, typed = None, frozenset()
    declared, growing = summary.get("columns"), summary.get("cumulative")
    better = {name: way for name, way in declared.items() if way in WAYS} if isinstance(declared, dict) else {}
    cumulative = frozenset(map(str, growing)) if isinstance(growing, list) else frozenset[str]()
    judge = _judge(summary.get("best"), path / SUMMARY)
    return Run(path, status, judge, config, rounds, columns, choices, typed, better, cumulative, fault)


def _read_metrics(path: Path) -> tuple[list[int], dict[str, pd.Series[float]]]:
    """The rounds, row by row, and the measured values of every other column."""
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8-sig")
        text = text[: text.rfind("\n") + 1]  # a line without its end was torn when the run was killed
        cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path}: the file is empty") from error
    except ValueError as error:  # not UTF-8, or not a CSV
        raise _unusable(path, "not a readable CSV", error) from error
    if "round" not in cells.columns:
        raise UserError(f"{path}: not the metrics of a run (it has no column 'round')")
    if not isinstance(cells.index, pd.RangeIndex):  # pandas takes the surplus for an index
        raise UserError(f"{path}: not a readable CSV (its lines have more cells than its header)")
    name, columns = "round", {}
    try:
        rounds = [int(cell) for cell in cells[name]]
        for name in cells.columns.drop("round"):
            measured = {at: float(cell) for at, cell in zip(rounds, cells[name], strict=True) if cell != ""}
            columns[name] = pd.Series(list(measured.values()), index=list(measured), dtype=float)
    except ValueError as error:
        raise _unusable(path, f"column {name!r} holds something other than numbers", error) from error
    return rounds, columns


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # not UTF-8, the date 2024-13-01, ...
        raise _unusable(path, "malformed YAML", error) from error


def _read_config(path: Path) -> dict[str, object]:
    config = _read_yaml(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a config (its top level is not a mapping)")
    try:
        flat = dict(_flatten(moved(config)))
    except RecursionError as error:
        raise _unusable(path, "malformed YAML", error) from error
    return {key: value for key, value in flat.items() if not _bookkeeping(key)}


def _bookkeeping(key: str) -> bool:
    return key.replace("/", ".").split(".")[0] in (*_BOOKKEEPING, "hydra")


def _flatten(node: Mapping[object, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values; a component's ``_target_`` stands under the component's own key."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{name}.")
        elif key == "_target_" and prefix:
            yield prefix.removesuffix("."), Target(value)
        elif isinstance(value, (bool, list, dict)) or value is None:
            yield name, json.dumps(value, default=str)  # as YAML writes them, and hashable
        else:
            yield name, value if isinstance(value, (int, float)) else str(value)


def _read_choices(path: Path) -> tuple[dict[str, str] | None, frozenset[str]]:
    """The options chosen and what the command line set, from Hydra's own record; None if they are not in it."""
    content = _read_yaml(path)
    try:
        hydra = content["hydra"]
        choices = {str(group): str(option or "-") for group, option in hydra["runtime"]["choices"].items()}
        words = [str(word) for word in hydra["overrides"]["task"]]
    except (KeyError, TypeError, AttributeError):
        return None, frozenset()
    # A null is what one half of an exclusive pair (client.epochs and client.steps) gives the other.
    typed = {word.split("=", 1)[0].lstrip("+~") for word in words if not word.endswith("=null")}
    return {group: option for group, option in choices.items() if not _bookkeeping(group)}, frozenset(typed)


def _is_of_another(composed: Path, config: Mapping[str, object]) -> bool:
    """Whether Hydra's record is of another run than the config, as after a second run was started in the directory."""
    if not composed.exists():
        return False
    there = _read_config(composed)
    changing = ("rounds", "stop", "threads")  # which a run may change when it is resumed
    return any(
        _word(value) != _word(config[key])
        for key, value in there.items()
        if key in config and key.split(".")[0] not in changing and "${" not in f"{value}{config[key]}"
    )


def _word(value: object) -> object:
    """A value as a word or number, for the record holds it as its field's type: 1.0 for 1, ``true`` for 1 or True."""
    text = str(value).lower().replace('"', "")
    text = {"true": "1", "false": "0"}.get(text, text)
    try:
        return float(text)
    except ValueError:
        return "".join(text.split()).replace(".0,", ",").replace(".0]", "]")


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _unusable(path, "malformed JSON", error) from error
    if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
        raise UserError(f"{path}: not the summary of a run (it has no 'status')")
    return summary


def _judge(best: object, path: Path) -> tuple[str, str] | None:
    """The metric that judged the run, and which way is better; None if nothing was evaluated."""
    if not best or (isinstance(best, dict) and best.get("metric", "") is None):
        return None
    if not isinstance(best, dict) or not isinstance(best.get("metric"), str) or best.get("mode") not in ("min", "max"):
        raise UserError(f"{path}: 'best' needs a 'metric' and a 'mode' that is 'min' or 'max'")
    return best["metric"], best["mode"]
