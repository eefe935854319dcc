"""Trackers: where the rounds of a run are logged in addition to ``metrics.csv``.

A tracker only observes. Its library is imported when a run begins, nothing is sent anywhere unless its settings name a
server, and `fedsim.runs.tracking` makes sure that its failures never stop a run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable
from urllib.parse import urlsplit

from fedsim.errors import FieldError, check_one_of, print_error
from fedsim.extras import require
from fedsim.recording.run_directory import open_new

FACTS = "tracker.json"
"""The file in a run's directory that names the tracker's own runs, so that a resumed run continues them."""

SQLITE = "sqlite:///"

Logged = str | int | float | bool


@dataclass(frozen=True)
class Tracked:
    """What a tracker knows about a run.

    Attributes:
        directory: the run's directory.
        name: the name under which the tracker lists it.
        config: every setting by its dotted key; a component is the name of its class.
        next: the first round that is still to come, or whose row has changed since it was logged.
    """

    directory: Path
    name: str
    config: Mapping[str, Logged]
    next: int = 0


class Log(Protocol):
    """A tracker's own run."""

    first: int
    """The first round that has not been logged yet."""

    def log(self, round_number: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a round."""
        ...

    def end(self, status: str) -> None:
        """Log the run's final status and close."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """A place to log rounds to, in addition to ``metrics.csv``."""

    def check(self) -> None:
        """Raise `UserError` if its library is not installed."""
        ...

    def begin(self, run: Tracked) -> Log | None:
        """Start or continue the tracker's own run; None if nothing is to be logged."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """No tracker: rounds are in ``metrics.csv`` alone."""

    def check(self) -> None:
        """Do nothing: no library is needed."""

    def begin(self, run: Tracked) -> Log | None:
        """Return None: nothing is logged."""
        return None


# ---------------------------------------------------------------------------------------------------------------------
# TensorBoard


@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard event files in the folder ``tensorboard`` of the run's directory.

    ``tensorboard --logdir outputs`` shows them. A resumed run continues in a new file, which makes TensorBoard discard
    the rounds that are run again.
    """

    def check(self) -> None:
        """Raise `UserError` if tensorboard is not installed."""
        require("tracker=tensorboard", "tensorboard", "tensorboard")

    def begin(self, run: Tracked) -> Log:
        """Open an event file."""
        return _TensorBoardLog(run)


class _TensorBoardLog:
    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.directory / "tensorboard"
        again = any(folder.glob("events.out.tfevents.*"))
        self.first = run.next if again else 0
        self._last = run.next
        # Every round flushes, where an error can be caught, instead of the writer's thread.
        self._writer = SummaryWriter(str(folder), purge_step=run.next if again else None, flush_secs=10**6)
        rows = "".join(f"| `{key}` | {value} |\n" for key, value in run.config.items())
        self._writer.add_text("config", f"| key | value |\n|---|---|\n{rows}", run.next)
        self._writer.flush()

    def log(self, round_number: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, round_number)
        self._last = round_number
        self._writer.flush()

    def end(self, status: str) -> None:
        self._writer.add_text("status", status, self._last)
        self._writer.close()


# ---------------------------------------------------------------------------------------------------------------------
# MLflow


@dataclass(frozen=True)
class MLflow:
    """A run in an MLflow store.

    Attributes:
        tracking_uri: ``sqlite:///FILE``, a database that is created if it does not exist, or ``http(s)://HOST``, a
            tracking server. Passwords belong in MLflow's environment variables, because this setting is recorded.
        experiment_name: name of the experiment under which MLflow lists the run.
    """

    tracking_uri: str = "sqlite:///outputs/mlflow.db"
    experiment_name: str = "fedsim"

    def __post_init__(self) -> None:
        scheme = self.tracking_uri.partition(":")[0]
        if not self.tracking_uri.startswith(("sqlite:///", "http://", "https://")) or self.tracking_uri == "sqlite:///":
            raise FieldError("tracking_uri", self.tracking_uri, "must be sqlite:///FILE or http(s)://HOST")
        if scheme != "sqlite" and (not _host(self.tracking_uri) or "@" in self.tracking_uri):
            raise FieldError(
                "tracking_uri",
                f"{scheme}://...",
                "must name a host and hold no password, which would be recorded; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the environment",
            )
        if not self.experiment_name.strip():
            raise FieldError("experiment_name", self.experiment_name, "must not be empty")

    def check(self) -> None:
        """Raise `UserError` if MLflow, or what it needs for a database, is not installed."""
        modules = ("mlflow", "sqlalchemy", "alembic") if self.tracking_uri.startswith("sqlite") else ("mlflow",)
        require("tracker=mlflow", "mlflow", *modules)

    def begin(self, run: Tracked) -> Log:
        """Create a run in the store, or continue the one that `FACTS` names."""
        return _MLflowLog(self, run)


class _MLflowLog:
    STATUS: ClassVar = {"done": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED"}
    BATCH = 100
    """The most parameters that MLflow accepts at once."""

    def __init__(self, settings: MLflow, run: Tracked) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # which reports usage to MLflow's makers
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a run should not wait minutes for a server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)  # no lines about a new database on the run's console
        self._metric = Metric
        facts = _read_facts(run.directory, "mlflow", tracking_uri=str, run_id=str)
        known = facts.get("settings") == [settings.tracking_uri, settings.experiment_name]
        known = known and _is_that_store(facts["tracking_uri"], settings.tracking_uri, run.directory)
        uri = facts["tracking_uri"] if known else _absolute(settings.tracking_uri)
        self._client = MlflowClient(tracking_uri=uri)
        place = str(run.directory.resolve())
        # A stranger's `FACTS` could name any run of the store.
        known = known and self._client.get_run(facts["run_id"]).data.tags.get("directory") == place
        _say_if_ignored(run.directory, bool(facts) and not known)
        if known:
            self._run: str = facts["run_id"]
            self._client.update_run(self._run, status="RUNNING")
            done = max((metric.step for metric in self._client.get_metric_history(self._run, "clients")), default=-1)
            self.first = done + 1
            return
        self.first = 0
        found = self._client.get_experiment_by_name(settings.experiment_name)
        experiment = found.experiment_id if found else self._client.create_experiment(settings.experiment_name)
        self._run = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in run.config.items()]
        for start in range(0, len(params), self.BATCH):
            self._client.log_batch(self._run, params=params[start : start + self.BATCH])
        self._client.set_tag(self._run, "directory", place)
        chosen = [settings.tracking_uri, settings.experiment_name]
        _write_facts(run.directory, "mlflow", {"settings": chosen, "tracking_uri": uri, "run_id": self._run})

    def log(self, round_number: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[self._metric(k, v, now, round_number) for k, v in metrics.items()])

    def end(self, status: str) -> None:
        self._client.set_tag(self._run, "status", status)
        self._client.set_terminated(self._run, self.STATUS.get(status, "FAILED"))


def _absolute(uri: str) -> str:
    """Make the path of a database absolute, so that the run can be resumed from any folder."""
    if not uri.startswith(SQLITE):
        return uri
    file = Path(uri.removeprefix(SQLITE)).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    return f"{SQLITE}{file}"


def _is_that_store(recorded: str, uri: str, directory: Path) -> bool:
    """Whether the store that a run's `FACTS` name is the one of its config, seen from a folder above the run."""
    if not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_absolute():
        return recorded == uri
    return any(recorded == f"{SQLITE}{above / uri.removeprefix(SQLITE)}" for above in directory.resolve().parents)


def _host(uri: str) -> str | None:
    try:
        return urlsplit(uri).hostname
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Weights & Biases


@dataclass(frozen=True)
class Wandb:
    """A run of Weights & Biases, in the folder ``wandb`` of the run's directory.

    It does not include code, git state, console output or facts about the machine.

    Attributes:
        project: name of the project under which W&B lists the run.
        mode: ``offline``, to be uploaded with ``wandb sync`` at any time, or ``online``, which needs ``wandb login``.
    """

    project: str = "fedsim"
    mode: str = "offline"

    def __post_init__(self) -> None:
        check_one_of(self, "mode", ("offline", "online"))
        if not self.project.strip() or any(letter in self.project for letter in "/\\#?%:"):
            raise FieldError("project", self.project, "must not be empty or contain any of / \\ # ? % :")

    def check(self) -> None:
        """Raise `UserError` if wandb is not installed."""
        require("tracker=wandb", "wandb", "wandb")

    def begin(self, run: Tracked) -> Log:
        """Start a run, or continue the one that `FACTS` names."""
        return _WandbLog(self, run)


class _WandbLog:
    QUIET: ClassVar[dict[str, Any]] = {
        **{"console": "off", "silent": True, "disable_git": True, "disable_code": True, "disable_job_creation": True},
        **{"x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True},
        **{"x_save_requirements": False, "finish_timeout": 60.0, "finish_timeout_raises": True},
    }

    def __init__(self, settings: Wandb, run: Tracked) -> None:
        if settings.mode == "offline":
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # which goes to W&B's makers even offline
        import wandb

        facts = _read_facts(run.directory, "wandb", id=str, logged=int)
        known = facts.get("project") == settings.project and re.fullmatch(r"[\w-]{1,64}", facts["id"]) is not None
        _say_if_ignored(run.directory, bool(facts) and not known)
        self._online = settings.mode == "online"
        kept = {key: value for key, value in self.QUIET.items() if key in wandb.Settings.model_fields}
        self._run = wandb.init(
            project=settings.project,
            name=run.name,
            config=dict(run.config),
            dir=str(run.directory),
            mode=settings.mode,
            id=facts["id"] if known else None,
            resume="allow" if known and self._online else None,
            reinit="create_new",  # not another run that this process has open
            settings=wandb.Settings(**kept),
        )
        there = known and facts.get("mode") == settings.mode  # the server does not have offline rounds
        self.first = facts["logged"] + 1 if there else 0
        self._directory = run.directory
        self._facts = {"project": settings.project, "mode": settings.mode, "id": self._run.id, "logged": self.first - 1}
        _write_facts(run.directory, "wandb", self._facts)

    def log(self, round_number: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=round_number)
        self._facts["logged"] = round_number
        _write_facts(self._directory, "wandb", self._facts)

    def end(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status in ("done", "stopped") else 1)


# ---------------------------------------------------------------------------------------------------------------------


def leads_outside(tracker: Tracker) -> str | None:
    """The field by which a tracker sends what it logs elsewhere or writes it outside ``outputs``, or None."""
    if isinstance(tracker, Wandb) and tracker.mode == "online":
        return "mode"
    if isinstance(tracker, MLflow):
        file = tracker.tracking_uri.removeprefix(SQLITE)
        if file == tracker.tracking_uri or not Path(file).resolve().is_relative_to(Path("outputs").resolve()):
            return "tracking_uri"
    return None


def _read_facts(directory: Path, name: str, **kinds: type) -> dict[str, Any]:
    """What `_write_facts` wrote; empty if it is incomplete, so that the tracker starts a new run."""
    facts = _all_facts(directory).get(name)
    whole = isinstance(facts, dict) and all(isinstance(facts.get(key), kind) for key, kind in kinds.items())
    return facts if isinstance(facts, dict) and whole else {}


def _say_if_ignored(directory: Path, ignored: bool) -> None:
    if ignored:
        print_error(f"{directory / FACTS}: does not agree with the config and is ignored; a new one begins", "warning")


def _all_facts(directory: Path) -> dict[str, Any]:
    try:
        facts = json.loads((directory / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _write_facts(directory: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Write them to `FACTS` atomically, but without a sync, because a tracker may do this in every round."""
    temporary = directory / f".{FACTS}.partial"
    with open_new(temporary) as file:
        file.write((json.dumps({**_all_facts(directory), name: facts}, indent=2) + "\n").encode())
    temporary.replace(directory / FACTS)
