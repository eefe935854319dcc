"""What is in the files of a run: its rounds, settings, command line and summary.

Whatever is in them, the caller gets plain numbers and texts of a sensible size, or a `UserError` that names the file.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import UserError
from fedsim.json_bounds import read_json
from fedsim.recording.moved import moved
from fedsim.yaml_bounds import read_bounded, read_yaml

if TYPE_CHECKING:
    import pandas as pd

_LAST_ROUND = _LARGEST_COUNT = 2**53  # beyond it, floats have gaps

# Config keys that say nothing about the experiment.
_BOOKKEEPING = ("format_version", "console", "checkpoint", "tracker")


class Target(str):
    """The class that a component names in ``_target_``."""

    __slots__ = ()


def _unusable(file: Path, what: str, error: Exception) -> UserError:
    return UserError(f"{file}: {what} ({' '.join(str(error).split())})")  # the parsers' messages have several lines


def read_metrics(path: Path) -> tuple[list[int], dict[str, pd.Series[float]]]:
    """The rounds, row by row, and the measured values of every other column."""
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8-sig")
        text = text[: text.rfind("\n") + 1]  # a line without its end was torn when the run was killed
        if "\0" in text:  # pandas would take it for the end of a cell
            raise ValueError("it has NUL characters, as after a power failure")
        cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        first = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, header=None, nrows=1)
        header = list(first.iloc[0])  # of two equal names, pandas changes one
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path}: the file is empty") from error
    except ValueError as error:  # not UTF-8, or not a CSV
        raise _unusable(path, "not a readable CSV", error) from error
    if twice := [name for at, name in enumerate(header) if name in header[:at]]:
        raise UserError(f"{path}: not a readable CSV (two columns are named {twice[0]!r})")
    if "round" not in header:
        raise UserError(f"{path}: not the metrics of a run (it has no column 'round')")
    if not isinstance(cells.index, pd.RangeIndex):  # pandas takes the surplus for an index
        raise UserError(f"{path}: not a readable CSV (its lines have more cells than its header)")
    name, columns = "round", {}
    try:
        rounds = [int(cell) for cell in cells[name]]
        if odd := [at for at in rounds if not 0 <= at <= _LAST_ROUND]:
            raise ValueError(f"{odd[0]} is not a round")
        for name in cells.columns.drop("round"):
            measured = {at: float(cell) for at, cell in zip(rounds, cells[name], strict=True) if cell != ""}
            columns[name] = pd.Series(list(measured.values()), index=list(measured), dtype=float)
    except ValueError as error:
        raise _unusable(path, f"column {name!r} holds something other than numbers", error) from error
    return rounds, columns


def _read_yaml(path: Path) -> Any:
    return read_yaml(read_bounded(path), str(path))


def read_config(path: Path) -> dict[str, object]:
    """Dotted keys and values of a ``config.yaml``, without those that say nothing about the experiment."""
    config = _read_yaml(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a config (its top level is not a mapping)")
    try:
        flat = dict(_flatten(moved(config)))
    except (RecursionError, ValueError, TypeError) as error:  # a list of mappings with dates for keys, ...
        raise _unusable(path, "not a config", error) from error
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
        elif isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ValueError(f"the number at {name} is too large")
        elif isinstance(value, (bool, list, dict)) or value is None:
            yield name, json.dumps(value, default=str)  # as YAML writes them, and hashable
        else:
            yield name, value if isinstance(value, (int, float)) else str(value)


def read_choices(path: Path) -> tuple[dict[str, str] | None, frozenset[str]]:
    """The options chosen and what the command line set, from Hydra's own record; None if they are not in it."""
    content = _read_yaml(path)
    try:
        hydra = content["hydra"]
        choices = {str(group): str(option or "-") for group, option in hydra["runtime"]["choices"].items()}
        words = [str(word) for word in hydra["overrides"]["task"]]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):  # ValueError: digits without end
        return None, frozenset()
    # A null is what one half of an exclusive pair (client.epochs and client.steps) gives the other.
    typed = {word.split("=", 1)[0].lstrip("+~") for word in words if not word.endswith("=null")}
    return {group: option for group, option in choices.items() if not _bookkeeping(group)}, frozenset(typed)


def is_of_another(composed: Path, config: Mapping[str, object]) -> bool:
    """Whether Hydra's record is of another run than the config, as after a second run was started in the directory."""
    if not composed.exists():
        return False
    there = read_config(composed)
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


def read_summary(path: Path) -> dict[str, Any]:
    """The content of a ``summary.json``; it has a ``status``, and its integers are not too large for a float."""
    summary = read_json(path)
    if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
        raise UserError(f"{path}: not the summary of a run (it has no 'status')")
    return summary


def judge(best: object, path: Path) -> tuple[str, str] | None:
    """The metric that judged the run, and which way is better; None if nothing was evaluated."""
    if not best or (isinstance(best, dict) and best.get("metric", "") is None):
        return None
    if not isinstance(best, dict) or not isinstance(best.get("metric"), str) or best.get("mode") not in ("min", "max"):
        raise UserError(f"{path}: 'best' needs a 'metric' and a 'mode' that is 'min' or 'max'")
    return best["metric"], best["mode"]


def judged_on(best: object) -> str:
    """The data of the metric that judged the run: ``validation``, ``test`` or ``other``; empty if that is not said."""
    on = best.get("on") if isinstance(best, dict) else None
    return on if on in ("validation", "test", "other") else ""


def items_of(items: object) -> dict[str, int]:
    """How many predictions are scored on each kind of data; what is no positive whole number is left out."""
    found = items if isinstance(items, dict) else {}
    kinds = ("test", "validation", "unseen")
    return {kind: n for kind in kinds if type(n := found.get(kind)) is int and 0 < n <= _LARGEST_COUNT}
