"""What ``summary.json`` says about how a run was made; whatever is in the file, plain texts and numbers come out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedsim.compare.reading import SUMMARY, Run
from fedsim.compare.records import read_summary
from fedsim.errors import UserError

UNKNOWN = "not recorded"


def summary_of(run: Run) -> Mapping[str, Any]:
    """The content of a run's ``summary.json``; empty without one."""
    try:
        return read_summary(run.path / SUMMARY) if (run.path / SUMMARY).is_file() else {}
    except (UserError, OSError):  # a bare CSV has none, and one that cannot be read has been complained of
        return {}


def at(content: Mapping[str, Any], *keys: str) -> Any:
    """The value below these keys; None if there is none."""
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def text(content: Mapping[str, Any], *keys: str) -> str:
    """A text or number below these keys as text; empty for anything else."""
    found = at(content, *keys)
    return str(found) if isinstance(found, (str, int, float)) and not isinstance(found, bool) else ""


def number(content: Mapping[str, Any], *keys: str) -> float:
    """A number below these keys; NaN for anything else."""
    found = at(content, *keys)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else math.nan


def texts(content: Mapping[str, Any], *keys: str) -> list[str]:
    """The texts in a list below these keys."""
    found = at(content, *keys)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def together(values: Iterable[str], most: int = 8) -> str:
    """Different values in one text, each once; those of runs that do not say come last."""
    found = list(dict.fromkeys(value or UNKNOWN for value in values))
    found.sort(key=UNKNOWN.__eq__)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def packages(contents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Package to its version, or to the several that the runs were made with."""
    names = dict.fromkeys(
        name for one in contents if isinstance(at(one, "versions"), Mapping) for name in at(one, "versions")
    )
    return {str(name): together(text(one, "versions", name) for one in contents) for name in names}


def duration(seconds: float) -> str:
    """A time in the unit that suits it; empty for NaN."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
