"""Read runs back and set them side by side: where their configs differ, and what came of it.

`load_runs` finds and reads them, `compare` makes the table, `render` and `write_csv` show and keep it. Everything
read here is data that somebody may have moved, cut off or edited: what cannot be used is a `UserError` that names
the file.
"""

from __future__ import annotations

import glob
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fedsim.errors import UserError, did_you_mean
from fedsim.files import write_file
from fedsim.metrics import better_is

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

METRICS, CONFIG, SUMMARY = "metrics.csv", "config.yaml", "summary.json"
INCOMPLETE = "incomplete"  # no summary: still running, or killed
NO_STATUS = "-"  # a CSV without its run directory

_BOOKKEEPING = {"format_version"}  # config keys that say nothing about the experiment
_DEFAULT_METRICS = ("test_accuracy", "test_rmse", "test_loss")


class _Target(str):
    """The class that a component names in ``_target_``."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left behind.

    Attributes:
        path: the run directory, or a bare CSV.
        status: summary.json's, ``incomplete`` without a summary, ``-`` for a bare CSV.
        judge: the metric by which the run chose its best round, and ``min`` or ``max``; None if it has not said.
        config: dotted key to value, a component's own key holding its class; None without a config.yaml.
        rounds: the last round in the CSV; None before the first.
        columns: each column's measured values, indexed by round; empty cells are left out, measured NaNs are not.
    """

    path: Path
    status: str
    judge: tuple[str, str] | None
    config: Mapping[str, object] | None
    rounds: int | None
    columns: Mapping[str, pd.Series[float]]


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read the runs that `paths` name: run directories, folders above them, glob patterns or bare CSVs.

    They come in the order of `paths`, each run once, and in natural order (job 10 after job 9) below each path.
    """
    try:
        found = [Path(os.path.abspath(run)) for path in paths for run in _find(Path(path))]
        once: dict[Path, Path] = {}
        for run in found:
            once.setdefault(_csv(run).resolve(), run)
        return [_load(run) for run in once.values()]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


def compare(runs: Sequence[Run], metric: str | None = None) -> pd.DataFrame:
    """Return one row per run: its name, the config keys in which the runs differ, status, rounds, final and best.

    Args:
        runs: what `load_runs` returned.
        metric: the column to judge by; None: the one by which the runs judged themselves, or one that they share.

    Returns:
        The table. Its ``attrs`` hold ``mode`` (whether the best is the ``min`` or the ``max``) and ``note`` (None, or
        a sentence to show with it).
    """
    import pandas as pd

    if not runs:
        raise UserError("no runs to compare")
    metric, mode, note = _choose_metric(runs, metric)
    results = [_result(run.columns.get(metric), mode) for run in runs]
    outcome: dict[str, pd.Series[Any]] = {
        "status": pd.Series([run.status for run in runs], dtype=object),
        "rounds": pd.Series([run.rounds for run in runs], dtype="Int64"),
        f"final {metric}": pd.Series([final for final, _, _ in results], dtype=float),
        f"best {metric}": pd.Series([best for _, best, _ in results], dtype=float),
        "best round": pd.Series([at for _, _, at in results], dtype="Int64"),
    }
    shared = os.path.commonpath([run.path.parent for run in runs])  # of the parents: each run keeps its own name
    table = {"run": pd.Series([run.path.relative_to(shared).as_posix() for run in runs], dtype=object)}
    for key, values in _differing(runs).items():
        # `rounds` is also a config key: what was asked for, beside what was done.
        table[f"config {key}" if key in outcome or key == "run" else key] = pd.Series(values, dtype=object)
    frame = pd.DataFrame(table | outcome)
    frame.attrs.update(mode=mode, note=note)
    return frame


def render(table: pd.DataFrame) -> Table:
    """Return `compare`'s table for the terminal: the best run in bold, a note below where there is one."""
    import pandas as pd
    from rich import box
    from rich.table import Table
    from rich.text import Text  # not plain strings, in which rich reads [brackets] as markup

    note = table.attrs.get("note")
    rendered = Table(
        box=box.SIMPLE_HEAD, caption=Text(note) if note else None, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    for name in table.columns:
        # Long names are broken into narrow headers; rich then narrows the widest columns first, seldom the numbers.
        header = re.sub(r"([._])| ", r"\1\n", name) if len(name) >= 10 else name
        cells = table[name].astype(object)
        numeric = all(value is pd.NA or isinstance(value, (int, float)) or value == "" for value in cells)
        rendered.add_column(Text(header), justify="right" if numeric else "left", overflow="fold")
    values = table[next(name for name in table.columns if name.startswith("best "))]
    best = values.max() if table.attrs.get("mode") == "max" else values.min()
    for (_, row), value in zip(table.astype(object).iterrows(), values, strict=True):
        # A dash: nothing was measured, or nothing that is a number.
        shown = ["-" if pd.isna(cell) else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
        rendered.add_row(*map(Text, shown), style="bold" if len(table) > 1 and value == best else "")
    return rendered


def write_csv(table: pd.DataFrame, file: str | Path) -> None:
    """Write the table in full precision; a reader of `file` sees the old content or the new, never a part."""
    write_file(file, table.to_csv(index=False, lineterminator="\n").encode())


def _find(path: Path) -> list[Path]:
    """The run directories and bare CSVs that one argument stands for."""
    if path.is_dir():
        if not (runs := _below(path)):
            raise UserError(f"{path}: no runs here (no {METRICS} in this folder or below it)")
        return runs
    if path.exists():
        return [_owner(path)]
    if not any(sign in str(path) for sign in "*?["):
        raise UserError(f"{path}: no such file or folder")
    runs = []
    for match in sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural):
        if match.is_dir():
            runs += _below(match)
        elif match.name == METRICS or (match.suffix == ".csv" and not (match.parent / METRICS).exists()):
            runs.append(_owner(match))  # but not a run's timing.csv and the like, which `*` matches too
    if not runs:
        raise UserError(f"{path}: no runs match this pattern")
    return runs


def _below(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error

    runs = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        if METRICS in files:
            runs.append(Path(parent))
            folders.clear()  # there are no runs within a run
    return sorted(runs, key=_natural)


def _owner(file: Path) -> Path:
    """The run directory, if `file` is the metrics.csv of one."""
    beside = (file.parent / CONFIG).exists() or (file.parent / SUMMARY).exists()
    return file.parent if file.name == METRICS and beside else file


def _csv(run: Path) -> Path:
    return run / METRICS if run.is_dir() else run


def _natural(path: Path) -> tuple[list[list[tuple[str, int]]], str]:
    """A sort key that takes digits as numbers."""
    parts = [[(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", part)] for part in path.parts]
    return parts, str(path)


def _unusable(file: Path, what: str, error: Exception) -> UserError:
    return UserError(f"{file}: {what} ({' '.join(str(error).split())})")  # the parsers' messages have several lines


def _load(path: Path) -> Run:
    rounds, columns = _read_metrics(_csv(path))
    if not path.is_dir():
        if rounds is None:
            raise UserError(f"{path}: there are no rounds in this file")
        return Run(path, NO_STATUS, None, None, rounds, columns)
    config = _read_config(path / CONFIG) if (path / CONFIG).exists() else None
    status, judge = _read_summary(path / SUMMARY) if (path / SUMMARY).exists() else (INCOMPLETE, None)
    return Run(path, status, judge, config, rounds, columns)


def _read_metrics(path: Path) -> tuple[int | None, dict[str, pd.Series[float]]]:
    """The last round and the measured values of every other column."""
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
        raise _unusable(path, f"column {name!r} holds something else than numbers", error) from error
    return max(rounds, default=None), columns


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise UserError(f"{path}: not a config (its top level is not a mapping)")
        return {key: value for key, value in _flatten(config) if key not in _BOOKKEEPING}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # not UTF-8, the date 2024-13-01, ...
        raise _unusable(path, "malformed YAML", error) from error


def _flatten(node: Mapping[object, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values; a component's ``_target_`` stands under the component's own key."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{name}.")
        elif key == "_target_" and prefix:
            yield prefix.removesuffix("."), _Target(value)
        elif isinstance(value, (bool, list, dict)) or value is None:
            yield name, json.dumps(value, default=str)  # as YAML writes them, and hashable
        else:
            yield name, value if isinstance(value, (int, float)) else str(value)


def _read_summary(path: Path) -> tuple[str, tuple[str, str] | None]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _unusable(path, "malformed JSON", error) from error
    if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
        raise UserError(f"{path}: not the summary of a run (it has no 'status')")
    best = summary.get("best") or {"metric": None}  # nothing was evaluated
    if isinstance(best, dict) and best.get("metric", "") is None:
        return summary["status"], None
    if not isinstance(best, dict) or not isinstance(best.get("metric"), str) or best.get("mode") not in ("min", "max"):
        raise UserError(f"{path}: 'best' needs a 'metric' and a 'mode' that is 'min' or 'max'")
    return summary["status"], (best["metric"], best["mode"])


def _choose_metric(runs: Sequence[Run], asked: str | None) -> tuple[str, str, str | None]:
    """The metric, ``min`` or ``max``, and what the reader should be told about the choice."""
    known = list(dict.fromkeys(name for run in runs for name in run.columns))
    if asked is not None:
        if asked not in known:
            raise UserError(f"metric {asked!r}: must be one of {', '.join(known)}{did_you_mean(asked, known)}")
        return asked, _mode(runs, asked), None
    wanted = [run.judge[0] for run in runs if run.judge and run.judge[0] in run.columns]
    if not wanted:
        wanted = [name for run in runs if (name := next(filter(run.columns.__contains__, _DEFAULT_METRICS), None))]
    wanted = list(dict.fromkeys(wanted))
    shared = [name for name in known if name != "clients" and all(name in run.columns for run in runs)]
    if len(wanted) == 1 and wanted[0] in shared:
        return wanted[0], _mode(runs, wanted[0]), None
    if not shared:
        raise UserError("these runs share no column to compare them by")
    metric = next((name for name in shared if name.startswith("test_")), shared[0])
    mode = _mode(runs, metric)
    note = f"compared by {metric} ({mode}), the first column that all runs share"
    return metric, mode, f"not all runs are judged by the same metric ({', '.join(wanted)}): {note}" if wanted else note


def _mode(runs: Sequence[Run], metric: str) -> str:
    """What the runs say of the metric, if they agree; else what its name says."""
    said = {run.judge[1] for run in runs if run.judge and run.judge[0] == metric}
    return said.pop() if len(said) == 1 else better_is(metric)


def _result(values: pd.Series[float] | None, mode: str) -> tuple[float, float, int | None]:
    """The final value, the best one and the round of the best (the first, of equals)."""
    if values is None or values.empty:
        return math.nan, math.nan, None
    final, finite = values.iloc[-1], values[values.abs() < math.inf]
    if finite.empty:
        return final, math.nan, None
    at = int(finite.argmin() if mode == "min" else finite.argmax())
    return final, finite.iloc[at], finite.index[at]


def _differing(runs: Sequence[Run]) -> dict[str, list[object]]:
    """The values of the config keys in which the runs differ; a run without a config takes no part in that."""
    configs = [run.config for run in runs if run.config is not None]
    columns = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        if len({config.get(key, "") for config in configs}) > 1:
            values = [(run.config or {}).get(key, "") for run in runs]
            short = {value: value.rpartition(".")[2] for value in values if isinstance(value, _Target)}
            if len(set(short.values())) == len(short):  # else two modules have a class of this name
                values = [short[value] if isinstance(value, _Target) else value for value in values]
            columns[key] = values
    return columns


def show(paths: Sequence[str | Path], metric: str | None, csv: Path | None) -> None:
    """Print the comparison of the runs below `paths`, and write it to `csv` if asked."""
    from rich.console import Console

    table = compare(load_runs(paths), metric)
    Console(highlight=False).print(render(table))
    if csv is not None:
        write_csv(table, csv)
