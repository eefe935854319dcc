"""Experiments from the records of runs: read again, changed, and given a place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from omegaconf import OmegaConf, errors, open_dict, read_write

from fedsim import build
from fedsim.config.command_line import check_places
from fedsim.config.compose import build_experiment, check_keys, check_options, compose, place_for
from fedsim.config.keys import texts
from fedsim.config.loader import SafeLoader, make_loader, of_hydra, parse
from fedsim.config.messages import one_line
from fedsim.config.request import Request
from fedsim.config.words import explained
from fedsim.errors import UserError
from fedsim.federation.experiment import Experiment

if TYPE_CHECKING:
    from omegaconf import DictConfig


def amend(record: Mapping[str, Any], request: Request) -> Experiment:
    """Apply the overrides of a request to a record: an option replaces its whole part, a value one key.

    Args:
        record: what `fedsim.runs.record.read_record` returned.
        request: normalised.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    _refuse_interpolations(record)
    try:
        amended = OmegaConf.create(dict(record))
        if request.overrides:  # composing takes a while
            _amend(amended, list(request.overrides), make_loader(request.config_dir))
    except UserError as error:
        raise UserError(explained(str(error), request)) from None
    except (errors.OmegaConfBaseException, AttributeError, TypeError) as error:
        raise UserError(one_line(error)) from None
    return build_experiment(amended, request.allow_modules)


_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")  # after an even number of backslashes


def _refuse_interpolations(record: Mapping[str, Any]) -> None:
    """Raise `UserError` if a value of a record would be replaced: as it was written, all of them had been."""
    for key, text in texts(record):
        if _INTERPOLATION.search(text):
            raise UserError(f"{key}={text}: is not what a run records; nothing in a record is replaced by other values")


def _amend(amended: DictConfig, overrides: list[str], loader: SafeLoader) -> None:
    for parsed in map(parse, overrides):
        text = parsed.input_line
        if of_hydra(parsed) or parsed.is_sweep_override() or parsed.is_delete() or parsed.package is not None:
            raise UserError(
                f"{text}: a recorded run can be changed only by single values and options, such as rounds=100"
            )
        if parsed.key_or_group in ("experiment", "baseline"):
            raise UserError(f"{text}: stands for several settings; change those one by one")
    chosen = check_options(overrides, loader)
    values = [text for text in overrides if text not in chosen]
    options = compose(loader, chosen)
    for group in (parse(text).key_or_group.replace("/", ".") for text in chosen):
        OmegaConf.update(amended, group, OmegaConf.select(options, group), merge=False)
    check_keys(values, amended, loader)
    for parsed in map(parse, values):
        OmegaConf.update(amended, parsed.key_or_group, parsed.value(), merge=True)


def place_of(request: Request, experiment: Experiment, new: bool = False) -> Path | None:
    """The directory that a request names for a run of `experiment` by ``hydra.run.dir``.

    Args:
        request: normalised.
        experiment: what is run.
        new: whether it is a new run, which gets the usual directory if none is named, and no used one; otherwise, if
            none is named, None is returned.

    Raises:
        UserError: if it names no directory.
    """
    task, own = split_place(request)
    if not (own or new):
        return None
    cfg = compose(make_loader(request.config_dir), own)
    with read_write(cfg), open_dict(cfg):
        for key, value in build.record_of(experiment).items():  # to which ${model.hidden_size} and the like refer
            cfg[key] = value
    if own:
        check_places(cfg, ("run.dir",), multirun=False, default=())
    with read_write(cfg), open_dict(cfg):
        style = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            [parse(text) for text in task], style.exclude_keys, style.item_sep, style.kv_sep
        )
    return place_for(cfg, None, used=not new)  # half a fork, which may be made again, is told from a run by the caller


def split_place(request: Request) -> tuple[tuple[str, ...], list[str]]:
    """The overrides of a request without ``hydra.run.dir``, and those of that key."""
    own = [text for text in request.overrides if parse(text).key_or_group == "hydra.run.dir"]
    return tuple(text for text in request.overrides if text not in own), own
