"""What the JSON of a checkpoint may say: a stranger's may be valid JSON, and sealed, and still no state of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from fedsim.build import MAX_INT

Check = Callable[[Any], bool]


def check_facts(facts: Mapping[str, Any]) -> None:
    """Check what is the same in the checkpoints of all runs; what an earlier version did not write may be missing.

    Raises:
        ValueError: naming the key, the value and what is allowed.
    """
    counts = ("bytes_down", "bytes_up", "virtual_seconds") if facts["format_version"] == 1 else ()
    for name in ("round", "num_clients", "progress", *counts):
        if name not in facts:
            raise ValueError(f"{name}: is missing")
    latest = facts["round"]
    _check("round", latest, _is_count, f"a whole number from 0 to {MAX_INT}")
    _check("num_clients", facts["num_clients"], lambda n: _is_count(n) and n > 0, f"a whole number from 1 to {MAX_INT}")
    most = 2**63 - 1
    for name in counts:
        _check(name, facts[name], lambda n: _is_number(n) and 0 <= n <= most, f"a number from 0 to {most}")
    _check_progress(facts["progress"], latest)
    _check_run(facts.get("run", {}))


def _check_progress(progress: Any, latest: int) -> None:
    names = ("metric", "mode", "best", "best_round", "since_best", "reason")
    _check(
        "progress",
        progress,
        lambda found: isinstance(found, dict) and set(found) == set(names),
        f"of {', '.join(names)}",
    )
    for name in ("metric", "reason"):
        _check(f"progress.{name}", progress[name], _is_text, "a text")
    _check("progress.mode", progress["mode"], lambda mode: mode in ("min", "max"), "min or max")
    _check("progress.best", progress["best"], lambda best: best is None or _is_number(best), "a number or null")
    for name in ("best_round", "since_best"):
        upto = f"a whole number from 0 to {latest}, the round"
        _check(f"progress.{name}", progress[name], lambda n: _is_count(n) and n <= latest, upto)


def _check_run(run: Any) -> None:
    _check("run", run, _is_mapping, "a mapping")
    model = run.get("model", {})
    wanted: dict[str, tuple[Check, str]] = {
        "record": (_is_mapping, "a mapping"),
        "data_hash": (_is_text, "a text"),
        "devices": (lambda found: found is None or _is_text(found), "a text or null"),
        "model": (_is_mapping, "a mapping"),
        "versions": (lambda found: _is_mapping(found) and all(map(_is_text, found.values())), "a mapping of texts"),
        "threads": (_is_count, "a whole number"),
        "processes": (_is_count, "a whole number"),
        "clients": (_is_text, "a text"),
        "privacy": (lambda found: found is None or _is_mapping(found), "a mapping or null"),
    }
    for name, (right, words) in wanted.items():
        if name in run:
            _check(f"run.{name}", run[name], right, words)
    if model:
        _check_model(model)


def _check_model(model: Mapping[str, Any]) -> None:
    def is_shape(found: Any) -> bool:
        return isinstance(found, list) and all(_is_count(n) and n > 0 for n in found)

    def are_names(found: Any) -> bool:
        return found is None or (isinstance(found, list) and all(map(_is_text, found)))

    wanted: dict[str, tuple[Check, str]] = {
        "cell": (_is_text, "a text"),
        "blocks": (are_names, "a list of names or null"),
        "parameters": (_is_mapping, "a mapping of shapes"),
    }
    for name, (right, words) in wanted.items():
        if name not in model:
            raise ValueError(f"run.model.{name}: is missing")
        _check(f"run.model.{name}", model[name], right, words)
    for name, shape in model["parameters"].items():
        _check(f"run.model.parameters.{name}", shape, is_shape, "a list of whole numbers above 0")


def _check(key: str, value: Any, right: Check, words: str) -> None:
    if not right(value):
        shown = json.dumps(value)
        raise ValueError(f"{key}={shown if len(shown) <= 60 else f'{shown[:57]}...'}: must be {words}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)
