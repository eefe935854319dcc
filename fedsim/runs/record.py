"""The record of a run read back: what was asked for (``config.yaml``) and how far it came."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fedsim import build
from fedsim.errors import UserError
from fedsim.federation.experiment import Experiment
from fedsim.recording.lock import holder
from fedsim.recording.moved import moved
from fedsim.recording.run_directory import FORMAT_VERSION

MISSING, RUNNING, INTERRUPTED, DONE, DIVERGED, OTHER = (
    *("missing", "running", "interrupted", "done", "diverged", "other config"),
)

IN_PLACE = ("rounds", "stop", "console", "checkpoint", "tracker", "threads")
"""Keys that a run may change on its way: none of them changes the rounds that are done."""


class _Loader(yaml.SafeLoader):
    """Reads 1e-05 as a number, as whoever wrote it does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_record(directory: Path) -> dict[str, Any]:
    """Read ``config.yaml``, as `fedsim.build.record_of` gave it.

    Raises:
        UserError: if there is none, or none of this format.
    """
    path = directory / "config.yaml"
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory}: holds {_instead_of_a_run(directory)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return parse_record(text, path)


def parse_record(text: bytes, path: Path) -> dict[str, Any]:
    """The record that the content of a ``config.yaml`` is; `path` is for messages.

    Raises:
        UserError: if it is none of this format.
    """
    try:
        content = _Loader(text.decode()).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as the record of a run ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: is not the record of a run (its top level is not a mapping)")
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: has format_version {version}; this fedsim reads {FORMAT_VERSION}")
    record: dict[str, Any] = moved(content)
    return record


def _instead_of_a_run(directory: Path) -> str:
    """What a folder without a ``config.yaml`` holds, and what to do with that."""
    runs = sorted(path.parent for path in directory.glob("*/config.yaml"))
    if (directory / "sweep.yaml").is_file():
        inside = f", and {runs[0]} is one run of it" if runs else ""
        command = (
            f"fedsim run -m {shlex.join(_sweep_overrides(directory)) or '...'} --resume {shlex.quote(str(directory))}"
        )
        return f"a sweep, which goes on with: {command}{inside}"
    if runs:
        return f"runs in folders of their own, such as {runs[0]}; name one of them"
    return "no run (there is no config.yaml)"


@contextmanager
def started_elsewhere(directory: Path, experiment: Experiment) -> Iterator[None]:
    """Add to a `UserError` where the run was started, if its data are there and not here."""
    try:
        yield
    except UserError as error:
        path, folder = getattr(experiment.data, "path", None), _started_in(directory)
        if not isinstance(path, str) or folder is None or Path(path).exists() or not (folder / path).exists():
            raise
        raise UserError(f"{error}; the run was started in {folder}, where it is: go there to continue it") from None


def _started_in(directory: Path) -> Path | None:
    """The folder in which a run was started, as Hydra recorded it, or None."""
    try:
        content = yaml.safe_load((directory / ".hydra" / "hydra.yaml").read_text(encoding="utf-8"))
        return Path(content["hydra"]["runtime"]["cwd"])
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return None


def _sweep_overrides(directory: Path) -> list[str]:
    """The overrides of a sweep as they were typed, or none where Hydra's record of them cannot be read."""
    try:
        given = yaml.safe_load((directory / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]["overrides"]
        overrides = [str(text) for text in (*given["task"], *given["hydra"])]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, RecursionError):
        return []
    return [text for text in overrides if not text.startswith(("hydra.sweep.dir=", "hydra.mode="))]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two records differ, with both values; a part of another class is one difference."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping) and one.get("_target_") == other.get("_target_"):
            found |= differences(one, other, f"{prefix}{key}.")
        elif one != other or type(one) is not type(other):
            found[f"{prefix}{key}"] = (one, other)
    return found


def in_place(key: str) -> bool:
    """Whether a run may change this dotted key on its way."""
    return key.split(".")[0] in IN_PLACE


def run_state(directory: Path, experiment: Experiment | None = None) -> str:
    """How the run in a directory is doing.

    Args:
        directory: may be missing.
        experiment: what it should be a run of; None takes its own record for that.

    Returns:
        ``missing`` (no run there), ``other config`` (its record differs in more than `IN_PLACE`), ``running`` (a
        living process holds it), ``done`` (stopped early included; `experiment` asks for no other rounds or stop),
        ``diverged``, or ``interrupted``: whatever `fedsim.runs.resume.resume_run` has something to do for.

    Raises:
        UserError: if the record cannot be read.
    """
    if not (directory / "config.yaml").exists():
        return OTHER if (directory / "metrics.csv").exists() else MISSING
    record = read_record(directory)
    changed = {} if experiment is None else differences(record, build.record_of(experiment))
    if not all(in_place(key) for key in changed):
        return OTHER
    if holder(directory) is not None:
        return RUNNING
    if is_finished(directory, changed):
        return DONE
    return DIVERGED if read_status(directory) == "diverged" else INTERRUPTED


def is_finished(directory: Path, changed: Iterable[str] = ()) -> bool:
    """Whether a run has come to its end, and changes of these dotted keys would not move that."""
    moved = any(key.split(".")[0] in ("rounds", "stop") for key in changed)
    return read_status(directory) in ("done", "stopped") and not moved


def read_status(directory: Path) -> str | None:
    """The status that ``summary.json`` names; None without one, as of a run that was killed."""
    try:
        content = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    status = content.get("status") if isinstance(content, dict) else None
    return status if isinstance(status, str) else None
