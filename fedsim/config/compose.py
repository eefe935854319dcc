"""Compose and check the configs of a request; `fedsim.config.launch` lets Hydra run it.

A config is data, not code: `fedsim.build` makes the components, and ``hydra.utils.instantiate`` is not used. Hydra's
own settings are checked wherever Hydra composes a config (`fedsim.config.loader`). Every job of a sweep is checked
before Hydra makes the first directory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, errors, open_dict, read_write

from fedsim import build
from fedsim.config.command_line import check_plugins, check_tracker
from fedsim.config.grid import combinations, samples
from fedsim.config.keys import flat, within
from fedsim.config.loader import HYDRA_MULTIRUN, SafeLoader, of_hydra, parse
from fedsim.config.loader import make_loader as make_loader
from fedsim.config.messages import one_line
from fedsim.config.request import EXTRAS, PLUGINS
from fedsim.config.request import Job as Job
from fedsim.config.request import Request as Request
from fedsim.config.request import normalise as normalise
from fedsim.config.user_files import check_growth
from fedsim.config.words import explained
from fedsim.errors import UserError, did_you_mean, show
from fedsim.extras import install_hint
from fedsim.federation.experiment import Experiment
from fedsim.recording.run_directory import (
    FORMAT_VERSION,
    refuse_linked_jobs,
    refuse_links,
    refuse_other_sweep,
    refuse_used,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compose(loader: SafeLoader, overrides: Sequence[str]) -> DictConfig:
    """Compose; if that fails, name the override at fault where it can be found, else report Hydra's error."""
    try:
        return loader.load_configuration("config", list(overrides), RunMode.RUN, from_shell=False)
    except UserError:
        raise
    except Exception as error:  # YAML, grammar, interpolation, encoding: whatever a file or an override can cause
        overrides = [text for text in overrides if text != HYDRA_MULTIRUN]
        chosen = check_options(overrides, loader)
        if len(chosen) < len(overrides):
            check_keys(overrides, compose(loader, chosen), loader)
        known = isinstance(error, HydraException | errors.OmegaConfBaseException)
        raise UserError(("" if known else f"cannot compose {' '.join(overrides)}: ") + one_line(error)) from None


def check_request(request: Request, loader: SafeLoader | None = None) -> list[Job]:
    """Compose and check every job of a request, as `_check_request`; a word of another tool is explained.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    try:
        return _check_request(request, loader)
    except UserError as error:
        raise UserError(explained(str(error), request)) from None


def _check_request(request: Request, loader: SafeLoader | None) -> list[Job]:
    """Compose and check every job of a request; nothing is written.

    Args:
        request: normalised.
        loader: from `make_loader`, to share it with `launch`.

    Returns:
        the jobs; for an Optuna sweep, sample jobs that cover every value known beforehand.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    loader = loader or make_loader(request.config_dir)
    optuna = any(text == "hydra/sweeper=optuna" for text in request.overrides)
    for override in (parse(text) for text in request.overrides):
        if override.is_sweep_override() and not request.multirun:
            listed = _as_a_list(str(override.input_line), request, loader)
            raise UserError(
                f"{override.input_line}: several values make a sweep; add -m (--multirun) to fedsim run{listed}"
            )
        if override.is_sweep_override() and not override.is_discrete_sweep() and not optuna:
            raise UserError(
                f"{override.input_line}: a sweep takes single values, such as 1,2 or range(1,3); "
                "intervals need hydra/sweeper=optuna"
            )
        group = override.key_or_group
        if isinstance(override.value(), list) and group != "experiment" and group in _groups(loader):
            raise UserError(f"{override.input_line}: choose one option; -m {group}=A,B runs each of several")
        if group in PLUGINS:
            _check_plugin(group, str(override.value()), request, loader)
    jobs: list[Job] = []
    seen: set[Path] = set()
    same: dict[str, int] = {}
    mode = [HYDRA_MULTIRUN] if request.multirun else []
    for number, overrides in enumerate(_sweep(request, loader, optuna)):
        cfg = compose(loader, [*overrides, *mode])
        check_plugins(cfg, request)
        if request.from_file:
            check_growth(cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=False)))
        directory = place_for(cfg, number if request.multirun else None, used=request.resume is not None)
        if directory in seen:
            raise UserError(
                f"hydra.sweep.subdir={cfg.hydra.sweep.subdir}: must give each job of a sweep its own directory"
            )
        seen.add(directory)
        folder = Path(str(cfg.hydra.sweep.dir)) if request.multirun else directory
        if request.multirun and request.resume is None:
            refuse_other_sweep(folder, "hydra.sweep.dir")
        experiment = build_experiment(cfg, request.allow_modules)
        check_tracker(experiment, [parse(text) for text in request.overrides[request.from_file :]])
        if (first := same.setdefault(repr(experiment), number)) != number and not optuna:
            raise UserError(f"{_swept(request)}: jobs {first} and {number} would be the same run; give each value once")
        jobs.append(Job(tuple(overrides), experiment, directory, folder))
        loader.keep([*overrides, *mode], cfg)
    return jobs


def _as_a_list(text: str, request: Request, loader: SafeLoader) -> str:
    """A hint for ``attack.clients=0,3``, where the key takes a list; empty if it does not."""
    key, _, values = text.partition("=")
    others = [other for other in request.overrides if other != text and not parse(other).is_sweep_override()]
    try:
        build_experiment(compose(loader, [*others, f"{key}=[{values}]"]), request.allow_modules)
    except UserError:
        return ""
    return f", or write {key}=[{values}] for one list"


def _swept(request: Request) -> str:
    """The overrides that make a request a sweep, as they were typed."""
    return " ".join(text for text in request.overrides if parse(text).is_sweep_override()) or "-m"


def _check_plugin(group: str, option: str, request: Request, loader: SafeLoader) -> None:
    if not request.multirun:
        raise UserError(f"{group}={option}: is for sweeps; add -m (--multirun) to fedsim run")
    if not loader.repository.config_exists(f"{group}/{option}"):
        extra = EXTRAS.get(option, "optuna")
        raise UserError(f"{group}={option}: is not installed; {install_hint(extra)}")
    if option == "optuna" and request.resume is not None:
        raise UserError(
            f"--resume {request.resume}: does not resume an Optuna sweep; leave it out and repeat the command with the "
            "same hydra.sweeper.storage=sqlite:///FILE and hydra.sweeper.study_name to continue the study"
        )


def _sweep(request: Request, loader: SafeLoader, optuna: bool = False) -> list[list[str]]:
    """The overrides of every job: the grid that Hydra's basic sweeper runs, in its order.

    Optuna chooses its jobs later. For it, one job has the first value of every parameter, and each other value known
    beforehand (choices, and the ends of an interval) has a job.
    """
    if not request.multirun:
        return [list(request.overrides)]
    parsed = [parse(text) for text in request.overrides]
    hydras = [text for text, o in zip(request.overrides, parsed, strict=True) if of_hydra(o)]
    groups = _groups(loader)
    single = [str(o.input_line) for o in parsed if o.key_or_group in groups and not o.is_sweep_override()]
    cfg = compose(loader, [*single, *hydras])
    check_plugins(cfg, request)
    sweeper = cfg.hydra.sweeper
    if not optuna and sweeper.max_batch_size is not None and sweeper.max_batch_size < 1:
        raise UserError(f"hydra.sweeper.max_batch_size={sweeper.max_batch_size}: must be at least 1")
    try:
        params = [parse(f"{key}={value}") for key, value in (sweeper.params or {}).items()]
        if own := [one for one in params if of_hydra(one)]:
            raise UserError(f"hydra.sweeper.params: {own[0].input_line}: must be about the run, not about Hydra")
        parser = OverridesParser.create(loader)
        task = parser.parse_overrides([text for text in request.overrides if text not in hydras])
        jobs = (samples if optuna else combinations)([*params, *task], groups)
    except (HydraException, errors.OmegaConfBaseException, ValueError) as error:
        raise UserError(one_line(error)) from None
    return [[*job, *hydras] for job in jobs]


def check_options(overrides: Sequence[str], loader: SafeLoader) -> list[str]:
    """Raise `UserError` for a group's option that does not exist; return the overrides that choose options."""
    groups, chosen = _groups(loader), []
    for text in overrides:
        parsed = parse(text)
        group, value = parsed.key_or_group, parsed.value()
        if group not in groups or isinstance(value, dict) or (value is None and group == "experiment"):
            continue
        for name in [] if parsed.is_delete() else value if isinstance(value, list) else [value]:
            if name not in groups[group]:
                raise UserError(
                    f"{group}={show(name)}: no such option{did_you_mean(str(name), groups[group])}; "
                    f"available: {', '.join(groups[group])}"
                )
        if parsed.package is None and text.startswith("+"):
            raise UserError(f"{text}: {group} already has an option; to choose another, write {text.lstrip('+')}")
        chosen.append(text)
    return chosen


def check_keys(overrides: Sequence[str], cfg: DictConfig, loader: SafeLoader) -> None:
    """Raise `UserError` for a key that the config of the chosen options does not have."""
    groups = _groups(loader)
    leaves = [key.split(".") for key in flat(OmegaConf.to_container(cfg)) if not within(key, ("hydra",))]
    known = dict.fromkeys(".".join(parts[: n + 1]) for parts in leaves for n in range(len(parts)))
    for override in map(parse, overrides):
        key, text = override.key_or_group, override.input_line
        if key not in groups and key not in known and not of_hydra(override):
            parts = [one.key_or_group for one in map(parse, overrides) if one.key_or_group in groups]
            part = max((part for part in parts if within(key, [part.replace("/", ".")])), key=len, default=None)
            chosen = f" with {part}={OmegaConf.select(cfg, 'hydra.runtime.choices')[part]}" if part else ""
            raise UserError(f"{text}: no such key{chosen}{did_you_mean(key, [*known, *groups])}")


def list_options(config_dir: str | None = None) -> dict[str, list[str]]:
    """All groups, nested ones as ``aggregator/combine``, with their options."""
    return _groups(make_loader(config_dir))


def _groups(loader: SafeLoader) -> dict[str, list[str]]:
    def below(group: str) -> Iterator[tuple[str, list[str]]]:
        for name in loader.repository.get_group_options(group, ObjectType.GROUP):
            path = f"{group}/{name}" if group else name
            if path == "hydra" or name.startswith("_"):
                continue
            options = loader.repository.get_group_options(path, ObjectType.CONFIG)
            if options:
                yield path, sorted(options)
            yield from below(path)

    return dict(below(""))


def place_for(cfg: DictConfig, number: int | None, used: bool = False) -> Path:
    """The directory of a run, or of job `number` of a sweep; unless `used`, one that already holds a run is refused."""
    key = "hydra.run.dir" if number is None else "hydra.sweep.dir"
    try:
        named = str(cfg.hydra.run.dir if number is None else cfg.hydra.sweep.dir)
        if not named.strip():
            raise UserError(f"{key}={named!r}: must name a directory (. is the one you are in)")
        directory = Path(named)
        if number is not None:
            with read_write(cfg), open_dict(cfg):
                cfg.hydra.job.num = number
            directory = Path(named) / str(cfg.hydra.sweep.subdir)
            if directory == Path(named):
                raise UserError(
                    f"hydra.sweep.subdir={cfg.hydra.sweep.subdir}: must give each job of a sweep a directory of its own"
                )
        if number is not None and not str(directory).isprintable():
            raise UserError(f"{key}={str(directory)!r}: must not contain line breaks or control characters")
        if not used:
            refuse_used(directory, key)
        if number is not None:
            refuse_linked_jobs(Path(named), directory)
        refuse_links(directory)
    except (errors.OmegaConfBaseException, OSError, ValueError) as error:  # a name too long, or with a null byte
        raise UserError(f"{key}: {one_line(error)}") from None
    return directory


def build_experiment(cfg: DictConfig, allow_modules: Sequence[str] = ()) -> Experiment:
    """Turn a composed config into a checked `Experiment`.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    if cfg.get("experiment") is not None:
        raise UserError("experiment: its YAML has no effect without a first line `# @package _global_`")
    keys = [key for key in cfg if key not in ("hydra", "experiment")]
    root = OmegaConf.masked_copy(cfg, cast("list[str]", keys))
    try:
        content = OmegaConf.to_container(root, resolve=True, throw_on_missing=True)
    except (errors.OmegaConfBaseException, RecursionError) as error:
        raise UserError(one_line(error)) from None
    built = build.build(cast("dict[str, Any]", content), Experiment, allowed=allow_modules)
    assert isinstance(built, Experiment)
    _check_range(built)
    return built


_LARGEST = {"float32": (2 - 2**-23) * 2.0**127, "float64": sys.float_info.max}  # IEEE 754; torch.finfo imports torch
# Settings that no tensor holds, and the attack whose overflow is its point: what is not finite is the server's to drop.
_UNBOUNDED = ("stop", "attack.factor")


def _check_range(experiment: Experiment) -> None:
    """Raise `UserError` for a number that is finite here and would not be in a tensor of the run's ``dtype``."""
    largest = _LARGEST[experiment.dtype]
    for key, value in flat(build.record_of(experiment)).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and largest < abs(number) < math.inf and not within(key, _UNBOUNDED):
                raise UserError(
                    f"{key}={show(value)}: is beyond the numbers of dtype={experiment.dtype}, the largest of which is "
                    f"{largest:.2g}"
                )


def record_of(experiment: Experiment) -> dict[str, Any]:
    """The resolved record of an experiment, from which it can be built again."""
    return {"format_version": FORMAT_VERSION, **build.record_of(experiment)}


def to_yaml(record: Mapping[str, Any]) -> str:
    """The record as YAML, for `OmegaConf.load`."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(record)))


def launcher_of(job: Job, loader: SafeLoader) -> dict[str, Any]:
    """The settings of Hydra's launcher and sweeper for a job of a sweep, and under ``"names"`` which these are."""
    cfg = compose(loader, job.overrides)
    found = {part: OmegaConf.to_container(cfg.hydra[part], resolve=False) for part in ("launcher", "sweeper")}
    choices = cfg.hydra.runtime.choices
    return found | {"names": {part: choices[f"hydra/{part}"] for part in ("launcher", "sweeper")}}
