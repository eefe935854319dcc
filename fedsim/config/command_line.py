"""What the command line alone may say: where things are written, and what is loaded or contacted.

A config may come from a stranger, the command line does not. A file that sets one of these keys is refused, or, for a
place, kept within the folder ``outputs``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf, open_dict, read_write

from fedsim.config.request import Request
from fedsim.errors import UserError, show
from fedsim.federation.experiment import Experiment
from fedsim.recording.trackers import leads_outside

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

OUTPUTS = "outputs"
ALONE = ("sweeper.storage", "launcher.ray.init.address", "launcher.submitit_folder")
"""Settings of Hydra's plugins that name a file that is loaded or a place that is contacted or written to."""


def refuse_in_file(key: str, value: object) -> None:
    """Raise `UserError` for a key of `ALONE`, which a file set."""
    if key in ALONE and value is not None:
        raise UserError(
            f"hydra.{key}={show(value)}: what is loaded, contacted or written to is named on the command line alone; "
            f"if you mean it, add hydra.{key}=... to the command"
        )


def check_places(cfg: DictConfig, typed: Collection[str], multirun: bool, default: Sequence[str]) -> None:
    """Raise `UserError` if a file would place a run or a sweep outside the working directory's `OUTPUTS`.

    Args:
        cfg: a composed config.
        typed: the keys of Hydra that the command line set, such as ``run.dir``.
        multirun: whether this is about a sweep.
        default: the texts of these keys that fedsim's own configs have.
    """
    filled = copy.deepcopy(cfg)  # so that what is resolved here, such as the time, is not kept
    if OmegaConf.is_missing(filled.hydra.job, "num"):
        with read_write(filled), open_dict(filled):
            filled.hydra.job.num = 0
    outputs = Path(OUTPUTS).resolve()
    within = outputs
    for key in ("sweep.dir", "sweep.subdir") if multirun else ("run.dir",):
        section, name = key.split(".")
        raw: Any = OmegaConf.to_container(cfg.hydra[section], resolve=False)
        text, value = str(raw[name]), str(filled.hydra[section][name])
        place = within / value if key == "sweep.subdir" else Path(value)
        if key in typed:
            _check_typed(key, text, value)
        elif text not in default and not _below(place, within):
            raise UserError(
                f"hydra.{key}={value}: a file may place a run only within {within}, and this is {place.resolve()}; "
                "another place is named on the command line"
            )
        within = Path(value).resolve() if key == "sweep.dir" else within


def _below(place: Path, folder: Path) -> bool:
    return place.resolve().is_relative_to(folder) and place.resolve() != folder


def _check_typed(key: str, text: str, value: str) -> None:
    """Refuse a place that a file's value, such as a name, leads out of the folder that was typed."""
    if "${" not in text:
        return
    up, absolute = Path(value).parts.count("..") > Path(text).parts.count(".."), Path(value).is_absolute()
    if up or (absolute and not text.startswith(("/", "~", "${oc.env:", "${now:"))):
        raise UserError(f"hydra.{key}={text}: becomes {value}, which leads out of the folder that it names")


def check_tracker(experiment: Experiment, typed: Sequence[Override]) -> None:
    """Raise `UserError` if the tracker sends or writes where the command line does not say so.

    Args:
        experiment: the checked experiment.
        typed: the overrides as they were typed.
    """
    field = leads_outside(experiment.tracker)
    if field is None:
        return
    value = getattr(experiment.tracker, field)
    if any(_says(one, field, value) for one in typed):
        return
    raise UserError(
        f"tracker.{field}={show(value)}: what is sent elsewhere, or written outside {OUTPUTS}, is named on the command "
        f"line; if you mean it, add tracker.{field}={show(value)} to the command, else tracker=none"
    )


def _says(override: Override, field: str, value: object) -> bool:
    if override.key_or_group == "tracker":
        given = override.value()
        return isinstance(given, dict) and str(given.get(field)) == value
    if override.key_or_group != f"tracker.{field}":
        return False
    if override.is_sweep_override():
        return any(str(one).strip("'\"") == value for one in override.sweep_iterator())
    text = str(override.value())
    return text == value or re.fullmatch(r"\$\{oc\.env:\w+\}", text) is not None


HARMLESS = {"hydra/launcher": ("basic", "joblib", "submitit_local"), "hydra/sweeper": ("basic",)}
"""The plugins that a file may choose: those that reach no other machine and load nothing."""


def check_plugins(cfg: DictConfig, request: Request) -> None:
    """Check which plugins of Hydra run the jobs of a sweep, and what Optuna would load.

    Raises:
        UserError: if a file chose one that reaches other machines or loads what was kept, or the study that is named
            could run code: Optuna keeps the state of CMA-ES in it as a pickle.
    """
    if not request.multirun:
        return
    choices = cfg.hydra.runtime.choices
    for group, options in HARMLESS.items():
        if choices[group] not in options and f"{group}={choices[group]}" not in request.overrides:
            raise UserError(
                f"{group}={choices[group]}: is chosen on the command line alone; add {group}={choices[group]} to it"
            )
    storage = cfg.hydra.sweeper.get("storage")
    if choices["hydra/sweeper"] != "optuna" or storage is None:
        return
    file = str(storage).removeprefix("sqlite:///").partition("?")[0]
    if not file or file.startswith("file:") or "uri=" in str(storage):
        raise UserError(f"hydra.sweeper.storage={storage}: must name a file as it is, such as sqlite:///study.db")
    if choices.get("hydra/sweeper/sampler") == "cmaes" and Path(file).exists():
        raise UserError(
            f"hydra.sweeper.storage={storage}: exists, and hydra/sweeper/sampler=cmaes would unpickle what it holds, "
            "which can run code; choose another file, or the sampler tpe, which continues a study"
        )
