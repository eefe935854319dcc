"""What the user typed after ``fedsim run``, and which settings of Hydra a config may change. Imports no Hydra."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import UserError, show
from fedsim.federation.experiment import Experiment
from fedsim.yaml_bounds import read_bounded, read_yaml

# Pairs of keys of which exactly one is set: setting one on the command line nulls the default of the other.
EXCLUSIVE = (
    ("model.hidden_size", "model.parameters"),
    ("client.epochs", "client.steps"),
    ("sampler.fraction", "sampler.cohort_size"),
    ("attack.fraction", "attack.clients"),
    ("privacy.noise_multiplier", "privacy.target_epsilon"),
    ("schedule.clusters", "schedule.threshold"),
)

# The settings of Hydra that a config may change. All others could run code (callbacks, logging factories, unknown
# plugins), reach other files (search paths) or change the environment (job.env_set).
HYDRA_SETTABLE = ("run.dir", "sweep.dir", "sweep.subdir", "sweeper.params", "sweeper.max_batch_size")
# What Hydra itself writes into a composed config.
HYDRA_COMPUTED = ("runtime", "job.override_dirname")

_QUEUE = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name", "stderr_to_stdout", "submitit_folder")
_SLURM = (
    *("partition", "qos", "comment", "constraint", "exclude", "gres", "cpus_per_gpu", "gpus_per_task", "mem_per_gpu"),
    *("mem_per_cpu", "account", "signal_delay_s", "max_num_timeout", "array_parallelism"),
)
_SAMPLER = ("sampler.seed",)
# The plugins that a config may choose, and which of their keys it may set: numbers and names, nothing that is run
# (submitit's `setup`, Optuna's `custom_search_space`) or could name a class.
PLUGINS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "hydra/launcher": {
        "basic": (),
        "joblib": ("n_jobs",),
        "submitit_local": _QUEUE,
        "submitit_slurm": (*_QUEUE, *_SLURM),
        "ray": (
            *("ray.init.address", "ray.init.num_cpus", "ray.init.num_gpus"),
            *("ray.remote.num_cpus", "ray.remote.num_gpus"),
        ),
    },
    "hydra/sweeper": {
        "basic": (),
        "optuna": ("direction", "storage", "study_name", "n_trials", "n_jobs", "max_failure_rate", *_SAMPLER),
    },
    "hydra/sweeper/sampler": {"tpe": (), "random": (), "cmaes": (), "grid": ()},
}
EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


@dataclass(frozen=True)
class Request:
    """What the user typed after ``fedsim run``.

    Attributes:
        overrides: Hydra overrides.
        multirun: whether commas and ranges make a sweep.
        config_dir: a folder with the user's own configs, or None.
        allow_modules: modules besides fedsim whose dataclasses a config may name.
        resume: the folder of an earlier sweep to finish, or None.
        objective: the value that Optuna optimises, ``best`` or ``final``; None if not given.
        from_file: how many of the overrides, the first ones, are not typed but come from a YAML file.
    """

    overrides: tuple[str, ...] = ()
    multirun: bool = False
    config_dir: str | None = None
    allow_modules: tuple[str, ...] = ()
    resume: str | None = None
    objective: str | None = None
    from_file: int = 0


@dataclass(frozen=True)
class Job:
    """One run of a request: its overrides, its experiment and its directory, and the folder of the whole sweep."""

    overrides: tuple[str, ...]
    experiment: Experiment
    directory: Path
    folder: Path = Path()


def normalise(request: Request) -> Request:
    """Add what the request implies.

    ``client.steps=5`` becomes ``client.steps=5 client.epochs=null``, a resumed sweep stays in its folder, and Optuna
    continues after failed trials unless ``max_failure_rate`` says otherwise.
    """
    overrides = list(request.overrides)
    given = {override.split("=", 1)[0].lstrip("+"): override.split("=", 1)[-1] for override in overrides}
    for first, second in EXCLUSIVE:
        for one, other in ((first, second), (second, first)):
            if given.get(one, "null") != "null" and other not in given and _may_have(request, given, other):
                overrides.append(f"{other}=null")
    if request.resume is not None:
        if not request.multirun:
            raise UserError(f"--resume {request.resume}: finishes a sweep; add -m and the overrides of that sweep")
        if "hydra.sweep.dir" in given:
            raise UserError(f"--resume {request.resume}: the sweep stays in this folder; leave out hydra.sweep.dir")
        if not (Path(request.resume) / "sweep.yaml").is_file():
            raise UserError(f"--resume {request.resume}: does not hold a sweep (there is no sweep.yaml)")
        escaped = str(request.resume).replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.sweep.dir='{escaped}'")
    optuna = given.get("hydra/sweeper") == "optuna"
    if optuna and "hydra.sweeper.max_failure_rate" not in given:
        overrides.append("hydra.sweeper.max_failure_rate=1.0")
    if request.objective is not None and not (optuna and request.multirun):
        raise UserError(f"--objective {request.objective}: is for Optuna sweeps; add -m hydra/sweeper=optuna")
    if request.objective not in (None, "best", "final"):
        raise UserError(f"--objective {request.objective}: must be best or final")
    return dataclasses.replace(request, overrides=tuple(overrides))


def _may_have(request: Request, given: Mapping[str, str], key: str) -> bool:
    """Whether the chosen option has this key; false only for a user's own option that lacks it."""
    group, _, name = key.partition(".")
    if request.config_dir is None or group not in given:
        return True
    try:
        path = Path(request.config_dir) / group / f"{given[group]}.yaml"
        content = read_yaml(read_bounded(path), str(path))
    except (UserError, ValueError):  # not there, or reported when it is composed
        return True
    return not isinstance(content, dict) or "defaults" in content or name in content


def settable(choices: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of Hydra's node that a config may set, given the plugins chosen: ``{"hydra/launcher": "joblib"}``."""
    names = list(HYDRA_SETTABLE)
    for group, options in PLUGINS.items():
        part = group.split("/")[1]
        names += [f"{part}.{name}" for name in options.get(str(choices.get(group)), ())]
    return tuple(names)


def check_value(key: str, value: Any) -> None:
    """Refuse anything but a plain value for a plugin's key: a mapping could name a class, a line break end a comment.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    if isinstance(value, Mapping | list):
        raise UserError(f"hydra.{key}={value}: must be a single value")
    if isinstance(value, str) and any(not c.isprintable() for c in value):
        raise UserError(f"hydra.{key}={value!r}: must not contain line breaks or control characters")
    if key == "sweeper.storage" and value is not None and not str(value).startswith("sqlite:///"):
        raise UserError(f"hydra.{key}={value}: must be null or a file, such as sqlite:///study.db")


def refused(text: str, choices: Mapping[str, Any]) -> UserError:
    """The error for a setting of Hydra that may not be changed."""
    hint = "; use --config-dir" if text.startswith("hydra.searchpath") else ""
    allowed = ", ".join([f"hydra.{name}" for name in settable(choices)] + [f"{group}=..." for group in PLUGINS])
    return UserError(f"{text}: fedsim does not let a config change this{hint}; allowed are {allowed}")


def check_choice(group: str, option: Any) -> None:
    """Raise `UserError` for a plugin that fedsim does not know."""
    if not isinstance(option, str) or option not in PLUGINS[group]:
        raise UserError(f"{group}={show(option)}: must be one of {', '.join(PLUGINS[group])}")


def batches(pending: Sequence[tuple[int, Job]], size: int | None) -> list[list[tuple[int, Job]]]:
    """Split jobs into batches of at most `size` with consecutive numbers, as launchers require."""
    found: list[list[tuple[int, Job]]] = []
    for number, job in pending:
        if found and found[-1][-1][0] == number - 1 and len(found[-1]) != size:
            found[-1].append((number, job))
        else:
            found.append([(number, job)])
    return found
