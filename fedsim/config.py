"""Compose, check and build: the only file that imports Hydra and OmegaConf.

A config is data, not code. Every node with a ``_target_`` becomes the frozen dataclass of that name, and only if that
class belongs to fedsim or to a module that the user named on the command line; ``hydra.utils.instantiate`` is not
used. Everything is checked, for every job of a sweep, before Hydra makes the first directory.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.resources
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, errors, open_dict, read_write

from fedsim.errors import FieldError, UserError, did_you_mean
from fedsim.experiment import Experiment
from fedsim.recording.run_directory import refuse_used

FORMAT_VERSION = 1
CONFIG_MODULE = "fedsim.configs"

# Pairs of keys of which exactly one is set: setting one on the command line nulls the default of the other.
EXCLUSIVE = (("client.epochs", "client.steps"), ("sampler.fraction", "sampler.cohort_size"))

# What a config may say about Hydra itself. All else could run code (callbacks, launchers, logging factories), reach
# other files (search paths) or change the environment (job.env_set).
HYDRA_SETTABLE = ("run.dir", "sweep.dir", "sweep.subdir", "sweeper.params", "sweeper.max_batch_size")
HYDRA_COMPUTED = ("overrides", "runtime", "job.override_dirname", "job.num", "job.id", "job.config_name", "mode")


@dataclass(frozen=True)
class Request:
    """What the user typed after ``fedsim run``.

    Attributes:
        overrides: Hydra overrides.
        multirun: whether commas and ranges make a sweep.
        config_dir: a folder with the user's own configs, or None.
        allow_modules: modules besides fedsim whose dataclasses a config may name.
    """

    overrides: tuple[str, ...] = ()
    multirun: bool = False
    config_dir: str | None = None
    allow_modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One run of a request: its overrides, its experiment and its directory."""

    overrides: tuple[str, ...]
    experiment: Experiment
    directory: Path


# ---------------------------------------------------------------------------------------------------------------------
# compose


def normalise(request: Request) -> Request:
    """Add the nulls that exclusive pairs imply.

    ``client.steps=5`` becomes ``client.steps=5 client.epochs=null``.
    """
    overrides = list(request.overrides)
    given = {override.split("=", 1)[0].lstrip("+"): override.split("=", 1)[-1] for override in overrides}
    for first, second in EXCLUSIVE:
        for one, other in ((first, second), (second, first)):
            if given.get(one, "null") != "null" and other not in given:
                overrides.append(f"{other}=null")
    return dataclasses.replace(request, overrides=tuple(overrides))


@contextmanager
def _composer(request: Request) -> Iterator[ConfigLoader]:
    """Hydra's compose API over fedsim's configs and the user's folder."""
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _compose(overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    path = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    try:
        return compose("config", overrides=[*overrides, *path], return_hydra_config=True)
    except (HydraException, errors.OmegaConfBaseException) as error:
        raise UserError(_first_lines(error)) from None


def _first_lines(error: Exception) -> str:
    """Hydra's own message in one line."""
    return " ".join(str(error).split("\nSet the environment")[0].split())


def check_request(request: Request) -> list[Job]:
    """Compose and check every job of a request; nothing is written.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    if request.config_dir is not None and not Path(request.config_dir).is_dir():
        raise UserError(f"--config-dir {request.config_dir}: no such folder")
    with _composer(request) as loader:
        parsed = [_parse(override) for override in request.overrides]
        if not request.multirun:
            for override in parsed:
                if override.is_sweep_override():
                    raise UserError(f"{override.input_line}: several values make a sweep; add -m (--multirun)")
        _check_keys(parsed, request, loader)
        baseline = compose("config", return_hydra_config=True)
        jobs = []
        for number, overrides in enumerate(_sweep(request)):
            cfg = _compose(overrides, request.config_dir)
            _check_hydra(cfg, baseline, request.config_dir)
            directory = _directory(cfg, number if request.multirun else None)
            jobs.append(Job(tuple(overrides), build_experiment(cfg, request.allow_modules), directory))
    return jobs


def _parse(text: str) -> Override:
    try:
        parsed: Override = OverridesParser.create().parse_override(text)
    except HydraException:
        raise UserError(f"cannot read {text!r}: expected KEY=VALUE, such as model=gru or client.epochs=5") from None
    return parsed


def _sweep(request: Request) -> list[list[str]]:
    """The overrides of every job: the grid that Hydra's basic sweeper runs, in its order."""
    if not request.multirun:
        return [list(request.overrides)]
    plain = [o for o in request.overrides if not _parse(o).is_sweep_override()]
    cfg = _compose(plain, request.config_dir)
    params = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.get("params") or {}).items()]
    hydras = [o for o in request.overrides if _parse(o).is_hydra_override()]
    task = [o for o in request.overrides if o not in hydras]
    batches = BasicSweeper.split_arguments([_parse(o) for o in [*params, *task]], None)
    return [[*job, *hydras] for batch in batches for job in batch]


def _check_keys(parsed: Sequence[Override], request: Request, loader: ConfigLoader) -> None:
    """Name misspelt groups, options and keys before Hydra does it at length."""
    groups = dict(config_groups(loader, request.config_dir))
    chosen = []
    for override in parsed:
        key = override.key_or_group
        if override.is_hydra_override():
            continue
        if key in groups:
            if not override.is_delete() and not override.is_add():
                _check_option(override, groups[key])
            if not override.is_sweep_override():
                chosen.append(str(override.input_line))
    cfg = _compose(chosen, request.config_dir)
    known = [key for key in _dotted(cfg) if not key.startswith("hydra")]
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if key in groups or override.is_hydra_override() or override.is_add() or override.is_force_add():
            continue
        if key.replace(".", "/") in groups and "." in key:
            raise UserError(
                f"{text}: did you mean {text.replace('.', '/', key.count('.'))}? "
                "(a slash selects an option, a dot sets a number)"
            )
        swept = any(o.is_sweep_override() and key.startswith(o.key_or_group.replace("/", ".")) for o in parsed)
        if key not in known and not swept:
            raise UserError(f"{text}: no such key{did_you_mean(key, [*known, *groups])}")


def _check_option(override: Override, options: Sequence[str]) -> None:
    """Require that a group's value, or each of a sweep's, is one of its options."""
    if override.is_sweep_override():
        values = list(override.sweep_string_iterator())
    else:
        value = override.value()
        if value is None and override.key_or_group == "experiment":
            return
        values = [str(v) for v in value] if isinstance(value, list) else [str(value)]
    for value in values:
        if value not in options:
            raise UserError(
                f"{override.key_or_group}={value}: no such option{did_you_mean(value, options)}; "
                f"available: {', '.join(options)}"
            )


def config_groups(loader: ConfigLoader, config_dir: str | None = None) -> list[tuple[str, list[str]]]:
    """All groups, nested ones as ``aggregator/combine``, with their options."""

    def below(group: str) -> Iterator[tuple[str, list[str]]]:
        for name in sorted(set(loader.list_groups(group)) | set(_own(config_dir, group, folders=True))):
            path = f"{group}/{name}" if group else name
            if path == "hydra" or name.startswith("_"):
                continue
            options = set(loader.get_group_options(path, ObjectType.CONFIG)) | set(_own(config_dir, path))
            if options:
                yield path, sorted(options)
            yield from below(path)

    return list(below(""))


def _own(config_dir: str | None, group: str, folders: bool = False) -> list[str]:
    """Options (or sub-groups) of a group in the user's own folder."""
    if config_dir is None or not (Path(config_dir) / group).is_dir():
        return []
    entries = (Path(config_dir) / group).iterdir()
    return [p.name if folders else p.stem for p in entries if (p.is_dir() if folders else p.suffix == ".yaml")]


def list_options(config_dir: str | None = None) -> dict[str, dict[str, str]]:
    """``{group: {option: one-line comment}}``, the comment being the first that stands in the option's YAML."""
    with _composer(Request(config_dir=config_dir)) as loader:
        groups = config_groups(loader, config_dir)
    root = Path(str(importlib.resources.files(CONFIG_MODULE)))
    listing: dict[str, dict[str, str]] = {}
    for group, options in groups:
        for option in options:
            folders = [root] if config_dir is None else [root, Path(config_dir)]
            files = [f / group / f"{option}.yaml" for f in folders if (f / group / f"{option}.yaml").is_file()]
            listing.setdefault(group, {})[option] = _comment(files[0]) if files else ""
    return listing


def _comment(file: Path) -> str:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").rstrip()
    return ""


def _dotted(node: DictConfig, prefix: str = "") -> list[str]:
    """Every key of a config in dotted form."""
    keys = []
    for key in node:
        path = f"{prefix}{key!s}"
        keys.append(path)
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            keys += _dotted(child, f"{path}.")
    return keys


# ---------------------------------------------------------------------------------------------------------------------
# safety of the hydra node


def _check_hydra(cfg: DictConfig, baseline: DictConfig, config_dir: str | None) -> None:
    """Refuse whatever a config says about Hydra itself beyond `HYDRA_SETTABLE`."""
    ours = _flat(OmegaConf.to_container(baseline.hydra, resolve=False))
    theirs = _flat(OmegaConf.to_container(cfg.hydra, resolve=False))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) == theirs.get(key) or _within(key, HYDRA_SETTABLE + HYDRA_COMPUTED):
            continue
        if key == "searchpath" and config_dir is not None and len(theirs.get(key, ())) == 1:
            continue
        hint = "; use --config-dir" if key == "searchpath" else ""
        raise UserError(
            f"hydra.{key}={theirs.get(key)!r}: fedsim does not let a config change this{hint}; "
            f"allowed are {', '.join('hydra.' + name for name in HYDRA_SETTABLE)}"
        )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{dotted key: value}``."""
    if not isinstance(node, Mapping) or not node:
        return {prefix[:-1]: node}
    return {k: v for key, child in node.items() for k, v in _flat(child, f"{prefix}{key!s}.").items()}


def _within(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _directory(cfg: DictConfig, number: int | None) -> Path:
    """Where a run (job `number` of a sweep) will go; a directory that already holds a run is refused."""
    key = "hydra.run.dir" if number is None else "hydra.sweep.dir"
    try:
        if number is None:
            directory = Path(str(cfg.hydra.run.dir))
        else:
            with read_write(cfg), open_dict(cfg):
                cfg.hydra.job.num = number
            directory = Path(str(cfg.hydra.sweep.dir)) / str(cfg.hydra.sweep.subdir)
    except errors.OmegaConfBaseException as error:
        raise UserError(f"{key}: {_first_lines(error)}") from None
    refuse_used(directory, key)
    return directory


# ---------------------------------------------------------------------------------------------------------------------
# build


def build_experiment(cfg: DictConfig, allow_modules: Sequence[str] = ()) -> Experiment:
    """Turn a composed config into a checked `Experiment`.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    root = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "experiment")])
    try:
        OmegaConf.resolve(root)
    except errors.OmegaConfBaseException as error:
        raise UserError(_first_lines(error)) from None
    built = _build(root, Experiment, "", tuple(allow_modules))
    assert isinstance(built, Experiment)
    return built


def _build(node: DictConfig, expected: Any, key: str, allowed: tuple[str, ...]) -> object:
    """Build the dataclass that a node describes, its parts first."""
    target = node.get("_target_")
    if target is not None:
        cls = _resolve_target(str(target), key, allowed)
    elif dataclasses.is_dataclass(expected) and isinstance(expected, type):
        cls = expected
    else:
        raise UserError(f"{key}: has no _target_; choose an option with {key.replace('.', '/')}=OPTION")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    given = {}
    for name in (str(name) for name in node if name != "_target_"):
        path = f"{key}.{name}" if key else name
        if name not in fields:
            known = ", ".join(fields) or "it has none"
            raise UserError(f"{path}={node.get(name)}: no such key{did_you_mean(name, fields)}; known: {known}")
        value = node.get(name)
        if _is_plain(hints[name]):
            given[name] = _convert(path, value, hints[name])
        elif isinstance(value, DictConfig):
            given[name] = _build(value, hints[name], path, allowed)
        else:
            raise UserError(f"{path}={value}: choose an option with {path.replace('.', '/')}=OPTION")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise UserError(f"{key}.{name}: is missing" if key else f"{name}: is missing")
    try:
        built: object = cls(**given)
    except FieldError as error:
        raise UserError(f"{key}.{error!s}" if key else str(error)) from None
    if not _is_plain(expected) and not isinstance(built, expected):
        raise UserError(f"{key}: {cls.__name__} is not a {getattr(expected, '__name__', expected)}")
    return built


def _is_plain(hint: Any) -> bool:
    """Whether a field holds numbers, words, or lists and mappings of them, rather than a component."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, list, dict):
        return all(_is_plain(argument) for argument in typing.get_args(hint))
    return hint in (int, float, str, bool, type(None), Any)


def _convert(key: str, value: Any, hint: Any) -> Any:
    """Convert one value by OmegaConf's rules for a typed field, which refuse lossy conversions."""
    schema = OmegaConf.structured(dataclasses.make_dataclass("Field", [("value", hint)]))
    try:
        schema.value = value
    except errors.ValidationError:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
        kinds = [h for h in (typing.get_args(hint) or (hint,)) if h is not type(None)]
        wanted = " or ".join(words.get(kind, str(kind)) for kind in kinds)
        if typing.get_origin(hint) is list:
            wanted = f"a list, each entry {wanted}"
        null = " or null" if type(None) in typing.get_args(hint) else ""
        raise UserError(f"{key}={value}: must be {wanted}{null}") from None
    return OmegaConf.to_container(schema)["value"]  # type: ignore[index,call-overload]  # a mapping, by construction


def _resolve_target(target: str, key: str, allowed: tuple[str, ...]) -> type[Any]:
    """Find the dataclass that ``_target_`` names, importing nothing but fedsim and the allowed modules."""
    module_name, _, class_name = target.rpartition(".")
    trusted = ("fedsim", *allowed)
    if not _in_modules(module_name, trusted):
        raise UserError(
            f"{key}._target_={target}: not a part of fedsim; if you trust the module, add --allow-module "
            f"{module_name.split('.')[0] or target}"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}._target_={target}: {error}") from None
    # The class must be defined there too: `fedsim.config.hydra`, say, is a name in fedsim that leads elsewhere.
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and _in_modules(cls.__module__, trusted)):
        raise UserError(f"{key}._target_={target}: is not a component (a dataclass of {' or '.join(trusted)})")
    return cls


def _in_modules(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


# ---------------------------------------------------------------------------------------------------------------------
# record and launch


def record_of(experiment: Experiment) -> dict[str, Any]:
    """The resolved record of an experiment, from which it can be built again: plain values and ``_target_``."""

    def plain(value: object, name_class: bool = True) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            cls = type(value)
            named = {"_target_": f"{cls.__module__}.{cls.__qualname__}"} if name_class else {}
            return named | {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return value

    record = plain(experiment, name_class=False)
    return {"format_version": FORMAT_VERSION, **record}


def to_yaml(record: dict[str, Any]) -> str:
    """The record as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(record))


def launch(request: Request, job: Callable[[Experiment, Path], str], show_config: str | None = None) -> list[str]:
    """Let Hydra run the jobs of a checked request.

    Args:
        request: already checked with `check_request`.
        job: what to do with an experiment in a directory; returns its status and does not raise, save
            KeyboardInterrupt, which ends a sweep.
        show_config: ``job``, ``hydra`` or ``all``: print that config instead of running.

    Returns:
        the status of every job that ran.
    """
    statuses: list[str] = []

    @hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name="config")
    def main(cfg: DictConfig) -> str:
        experiment = build_experiment(cfg, request.allow_modules)
        statuses.append(job(experiment, Path(HydraConfig.get().runtime.output_dir)))
        return statuses[-1]

    arguments = ["fedsim run", *request.overrides]
    arguments += ["--config-dir", str(Path(request.config_dir).resolve())] if request.config_dir else []
    arguments += ["--multirun"] if request.multirun else []
    arguments += ["--cfg", show_config] if show_config else []
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are, instead of Hydra printing and exiting
    before, sys.argv = sys.argv, arguments
    try:
        main()
    finally:
        sys.argv = before
    return statuses
