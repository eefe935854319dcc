"""The record of a run, read back: its settings (``config.yaml``) and how far it got."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from fedsim import build
from fedsim.errors import UserError
from fedsim.federation.experiment import Experiment
from fedsim.json_bounds import read_json
from fedsim.recording.lock import holder
from fedsim.recording.moved import moved
from fedsim.recording.run_directory import FORMAT_VERSION, digest_of, refuse_links
from fedsim.recording.typed import sweep_overrides
from fedsim.yaml_bounds import read_bounded, read_yaml

MISSING, RUNNING, INTERRUPTED, DONE, DIVERGED, OTHER = (
    *("missing", "running", "interrupted", "done", "diverged", "other config"),
)

IN_PLACE = ("rounds", "stop", "console", "checkpoint", "tracker", "threads")
"""Keys that may change when a run is resumed: none of them affects completed rounds."""


HALF = ".fork.json"
"""The file that marks the directory of a fork until it is whole; it names the run that was forked."""


class _Loader(yaml.SafeLoader):
    """Reads 1e-05 as a number, as the writer of the record meant it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_record(directory: Path) -> dict[str, Any]:
    """Read ``config.yaml``, as `fedsim.build.record_of` made it.

    Raises:
        UserError: if there is no such file, or it is not a record of this format.
    """
    refuse_links(directory)
    path = directory / "config.yaml"
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory}: holds {_instead_of_a_run(directory)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return parse_record(read_bounded(path), path)


def parse_record(text: str, path: Path) -> dict[str, Any]:
    """Return the record in the content of a ``config.yaml``; `path` is for error messages.

    Raises:
        UserError: if it is not a record of this format.
    """
    content = read_yaml(text, str(path), _Loader)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: is not the record of a run (its top level is not a mapping)")
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: has format_version {version}; this fedsim reads {FORMAT_VERSION}")
    record: dict[str, Any] = moved(content)
    return record


def _instead_of_a_run(directory: Path) -> str:
    """Words for an error: what a folder without a ``config.yaml`` holds, and what to do about it."""
    runs = sorted(path.parent for path in directory.glob("[!.]*/config.yaml"))  # not Hydra's own folder
    if (directory / "sweep.yaml").is_file():
        inside = f", and {runs[0]} is one run of it" if runs else ""
        command = (
            f"fedsim run -m {shlex.join(sweep_overrides(directory)) or '...'} --resume {shlex.quote(str(directory))}"
        )
        return f"a sweep, which goes on with: {command}{inside}"
    if runs:
        return f"runs in folders of their own, such as {runs[0]}; name one of them"
    if (source := half_of(directory)) is not None:
        return (
            f"half a fork of {source}, as it was interrupted at its beginning; make it again: fedsim resume "
            f"{shlex.quote(source)} ... hydra.run.dir={directory}"
        )
    return "no run (there is no config.yaml)"


def half_of(directory: Path) -> str | None:
    """The run of which a directory holds half a fork, if it does: one without a ``config.yaml`` yet."""
    if (directory / "config.yaml").exists():
        return None
    try:
        content = read_json(directory / HALF)
    except UserError:
        return None
    source = content.get("fork_of") if isinstance(content, dict) else None
    return source if isinstance(source, str) else None


def plain_record(experiment: Experiment) -> dict[str, Any]:
    """The record of an experiment as JSON gives it back."""
    record: dict[str, Any] = json.loads(json.dumps(build.record_of(experiment), default=str))
    return record


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
        path = directory / ".hydra" / "hydra.yaml"
        return Path(read_yaml(read_bounded(path), str(path))["hydra"]["runtime"]["cwd"])
    except (UserError, LookupError, TypeError):
        return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two records differ, with both values; another class counts as one difference."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping) and one.get("_target_") == other.get("_target_"):
            found |= differences(one, other, f"{prefix}{key}.")
        elif one != other or type(one) is not type(other):
            found[f"{prefix}{key}"] = (one, other)
    return found


def in_place(key: str) -> bool:
    """Whether this dotted key may change when a run is resumed."""
    return key.split(".")[0] in IN_PLACE


def run_state(directory: Path, experiment: Experiment | None = None) -> str:
    """Return the state of the run in a directory.

    Args:
        directory: the run's directory, which may be missing.
        experiment: the experiment that it should be a run of; None takes its own record.

    Returns:
        ``missing`` (no run there), ``other config`` (its record differs in more than `IN_PLACE`), ``running`` (a
        running process holds it), ``done`` (or stopped early; `experiment` asks for no other rounds or stop),
        ``diverged``, or ``interrupted``, which is any run that `fedsim.runs.resume.resume_run` would continue.

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
    """Whether a run has ended, and changes of these dotted keys would not make it continue."""
    moved = any(key.split(".")[0] in ("rounds", "stop") for key in changed)
    return read_status(directory) in ("done", "stopped") and not moved


def read_status(directory: Path) -> str | None:
    """Return the status in ``summary.json``; None without one, for instance after the run was killed."""
    status = _read_summary(directory).get("status")
    return status if isinstance(status, str) else None


def check_rows(directory: Path) -> None:
    """Raise `UserError` if the ``metrics.csv`` of a run that has ended is not that of which its summary speaks.

    Summaries of earlier versions do not say which it is.
    """
    mark = _read_summary(directory).get("metrics")
    if mark is None:
        return
    path, content = directory / "metrics.csv", b""
    with suppress(OSError):
        content = path.read_bytes()
    if mark != {"size": len(content), "digest": digest_of(content).hexdigest()}:
        raise UserError(
            f"{path}: is no longer what it was when the run ended; put it back, or delete summary.json there and "
            "resume the run, so that rounds are run again"
        )


def _read_summary(directory: Path) -> dict[str, Any]:
    try:
        content = read_json(directory / "summary.json")
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}
