"""Compose, check and launch: the only file that imports Hydra and OmegaConf.

A config is data, not code: `fedsim.build` makes the components, and ``hydra.utils.instantiate`` is not used. What a
config says about Hydra itself is checked wherever Hydra composes one. Everything is checked, for every job of a
sweep, before Hydra makes the first directory.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, errors, open_dict, read_write

from fedsim import build
from fedsim.config_words import check_config_dir, flat, in_words, within
from fedsim.errors import UserError, did_you_mean, show
from fedsim.experiment import Experiment
from fedsim.recording.run_directory import FORMAT_VERSION, refuse_used

CONFIG_MODULE = "fedsim.configs"

# Pairs of keys of which exactly one is set: setting one on the command line nulls the default of the other.
EXCLUSIVE = (("client.epochs", "client.steps"), ("sampler.fraction", "sampler.cohort_size"))

# What a config may say about Hydra itself. All else could run code (callbacks, launchers, logging factories), reach
# other files (search paths) or change the environment (job.env_set).
HYDRA_SETTABLE = ("run.dir", "sweep.dir", "sweep.subdir", "sweeper.params", "sweeper.max_batch_size")
# What Hydra writes itself into a composed config, afterwards.
HYDRA_COMPUTED = ("runtime", "job.override_dirname")
HYDRA_MULTIRUN = "hydra.mode=MULTIRUN"


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


class SafeLoader(ConfigLoaderImpl):
    """Hydra's config loader, refusing whatever a config says about Hydra beyond `HYDRA_SETTABLE`.

    Hydra composes for a sweep as a whole and again for each job, and acts on its node of each result. So the check
    stands here, where all of them come from, and holds when a file changes between the check and the run.
    """

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose, and raise `UserError` if the result is not safe."""
        modes = [text for text in overrides if text == HYDRA_MULTIRUN]  # from `launch`
        given = [_parse(text) for text in overrides if text != HYDRA_MULTIRUN]  # beforehand: search paths are imported
        cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        wanted = _untouched() | {
            "mode": RunMode.MULTIRUN if modes else None,
            "overrides.hydra": [str(o.input_line) for o in given if _of_hydra(o)] + modes,
            "overrides.task": [str(o.input_line) for o in given if not _of_hydra(o)],
        }
        found = flat(OmegaConf.to_container(cfg.hydra, resolve=False))
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) != found.get(key) and not within(key, HYDRA_SETTABLE + HYDRA_COMPUTED):
                raise _refused(f"hydra.{key}={show(found.get(key))}")
        return cfg


@cache
def _untouched() -> dict[str, Any]:
    """Hydra's node as fedsim's own configs make it, flat. No folder of the user's has a part in it."""
    loader = ConfigLoaderImpl(create_config_search_path(f"pkg://{CONFIG_MODULE}"))
    cfg = loader.load_configuration("config", [], RunMode.RUN, from_shell=False)
    return flat(OmegaConf.to_container(cfg.hydra, resolve=False))


def _refused(text: str) -> UserError:
    hint = "; use --config-dir" if text.startswith("hydra.searchpath") else ""
    allowed = ", ".join(f"hydra.{name}" for name in HYDRA_SETTABLE)
    return UserError(f"{text}: fedsim does not let a config change this{hint}; allowed are {allowed}")


def _of_hydra(override: Override) -> bool:
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra"


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


def _loader(config_dir: str | None) -> SafeLoader:
    """A loader over fedsim's configs and the user's folder."""
    version.setbase("1.3")
    setup_globals()  # Hydra's resolvers, such as ${now:...}
    search_path = create_config_search_path(f"pkg://{CONFIG_MODULE}")
    if config_dir is not None:
        check_config_dir(Path(config_dir), CONFIG_MODULE)
        folder = f"file://{Path(config_dir).resolve()}"
        search_path.prepend("command-line", folder, SearchPathQuery(provider="schema"))
    return SafeLoader(search_path)


def _compose(loader: SafeLoader, overrides: Sequence[str]) -> DictConfig:
    """Compose, or say which override is at fault before repeating what Hydra says at length."""
    try:
        return loader.load_configuration("config", list(overrides), RunMode.RUN, from_shell=False)
    except UserError:
        raise
    except Exception as error:  # YAML, grammar, interpolation, encoding: whatever a file or an override can cause
        chosen = _check_options(overrides, loader)
        if len(chosen) < len(overrides):
            _check_keys(overrides, _compose(loader, chosen), loader)
        known = isinstance(error, HydraException | errors.OmegaConfBaseException)
        raise UserError(("" if known else f"cannot compose {' '.join(overrides)}: ") + in_words(error)) from None


def check_request(request: Request) -> list[Job]:
    """Compose and check every job of a request; nothing is written.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    loader = _loader(request.config_dir)
    for override in (_parse(text) for text in request.overrides):
        if override.is_sweep_override() and not request.multirun:
            raise UserError(f"{override.input_line}: several values make a sweep; add -m (--multirun) to fedsim run")
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(f"{override.input_line}: a sweep needs single values, such as 1,2 or range(1,3)")
        group = override.key_or_group
        if isinstance(override.value(), list) and group != "experiment" and group in _groups(loader):
            raise UserError(f"{override.input_line}: choose one option; -m {group}=A,B makes a run of each")
    jobs: list[Job] = []
    first = None
    for number, overrides in enumerate(_sweep(request, loader)):
        cfg = _compose(loader, overrides)
        first = first or cfg
        OmegaConf.copy_cache(first, cfg)  # one ${now:...} for all jobs, as in Hydra
        directory = _directory(cfg, number if request.multirun else None)
        if any(directory == job.directory for job in jobs):
            raise UserError(f"hydra.sweep.subdir={cfg.hydra.sweep.subdir}: the jobs of a sweep need a directory each")
        jobs.append(Job(tuple(overrides), build_experiment(cfg, request.allow_modules), directory))
    return jobs


@lru_cache(maxsize=4096)  # the grammar takes a millisecond
def _parse(text: str) -> Override:
    """Read one override, and refuse those of Hydra that are not settable."""
    try:
        text.encode()
        parsed = OverridesParser.create().parse_override(text)
        if not parsed.key_or_group:
            raise ValueError
    except (HydraException, ValueError, RecursionError):
        raise UserError(
            f"cannot read {text!r}: expected KEY=VALUE, such as model=gru or client.epochs=5, and quotes around "
            "special characters: \"name='my run: 1'\""
        ) from None
    if _of_hydra(parsed):
        key = parsed.key_or_group.replace("/", ".").removeprefix("hydra").removeprefix(".")
        if not within(key, HYDRA_SETTABLE) or parsed.is_sweep_override() or parsed.is_delete():
            raise _refused(text.lstrip("+~"))
    return parsed


def _sweep(request: Request, loader: SafeLoader) -> list[list[str]]:
    """The overrides of every job: the grid that Hydra's basic sweeper runs, in its order."""
    if not request.multirun:
        return [list(request.overrides)]
    parsed = [_parse(text) for text in request.overrides]
    hydras = [text for text, o in zip(request.overrides, parsed, strict=True) if _of_hydra(o)]
    groups = _groups(loader)
    single = [str(o.input_line) for o in parsed if o.key_or_group in groups and not o.is_sweep_override()]
    sweeper = _compose(loader, [*hydras, *single]).hydra.sweeper
    if sweeper.max_batch_size is not None and sweeper.max_batch_size < 1:
        raise UserError(f"hydra.sweeper.max_batch_size={sweeper.max_batch_size}: must be at least 1")
    try:
        params = [_parse(f"{key}={value}") for key, value in (sweeper.params or {}).items()]
        parser = OverridesParser.create(loader)
        task = parser.parse_overrides([text for text in request.overrides if text not in hydras])
        batches = BasicSweeper.split_arguments([*params, *task], None)
    except (HydraException, errors.OmegaConfBaseException, ValueError) as error:
        raise UserError(in_words(error)) from None
    return [[*job, *hydras] for batch in batches for job in batch]


def _check_options(overrides: Sequence[str], loader: SafeLoader) -> list[str]:
    """Raise `UserError` for a group's option that does not exist; return the overrides that choose options."""
    groups, chosen = _groups(loader), []
    for text in overrides:
        parsed = _parse(text)
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
            raise UserError(f"{text}: {group} has an option already; to choose another, write {text.lstrip('+')}")
        chosen.append(text)
    return chosen


def _check_keys(overrides: Sequence[str], cfg: DictConfig, loader: SafeLoader) -> None:
    """Raise `UserError` for a key that is not in the config of the chosen options."""
    groups = _groups(loader)
    leaves = [key.split(".") for key in flat(OmegaConf.to_container(cfg)) if not within(key, ("hydra",))]
    known = dict.fromkeys(".".join(parts[: n + 1]) for parts in leaves for n in range(len(parts)))
    for override in map(_parse, overrides):
        key, text = override.key_or_group, override.input_line
        if key not in groups and key not in known and not _of_hydra(override):
            raise UserError(f"{text}: no such key{did_you_mean(key, [*known, *groups])}")


def list_options(config_dir: str | None = None) -> dict[str, list[str]]:
    """All groups, nested ones as ``aggregator/combine``, with their options."""
    return _groups(_loader(config_dir))


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
        refuse_used(directory, key)
    except (errors.OmegaConfBaseException, OSError, ValueError) as error:  # a name too long, or with a null byte
        raise UserError(f"{key}: {in_words(error)}") from None
    return directory


def build_experiment(cfg: DictConfig, allow_modules: Sequence[str] = ()) -> Experiment:
    """Turn a composed config into a checked `Experiment`.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    if cfg.get("experiment") is not None:
        raise UserError("experiment: its YAML changes nothing without a first line `# @package _global_`")
    keys = [key for key in cfg if key not in ("hydra", "experiment")]
    root = OmegaConf.masked_copy(cfg, cast("list[str]", keys))
    try:
        content = OmegaConf.to_container(root, resolve=True, throw_on_missing=True)
    except (errors.OmegaConfBaseException, RecursionError) as error:
        raise UserError(in_words(error)) from None
    built = build.build(cast("dict[str, Any]", content), Experiment, allowed=allow_modules)
    assert isinstance(built, Experiment)
    return built


def amend(record: Mapping[str, Any], request: Request) -> Experiment:
    """Change a record as the overrides of a request say: an option brings its whole part, a value one key.

    Args:
        record: what `fedsim.recording.record.read_record` returned.
        request: normalised.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    loader = _loader(request.config_dir)
    for text in request.overrides:
        parsed = _parse(text)
        if _of_hydra(parsed) or parsed.is_sweep_override() or parsed.is_delete() or parsed.package is not None:
            raise UserError(f"{text}: a run is continued with single values and options, such as rounds=100")
        if parsed.key_or_group in ("experiment", "baseline"):
            raise UserError(f"{text}: stands for several settings; name those to change one by one")
    chosen = _check_options(request.overrides, loader)
    values = [text for text in request.overrides if text not in chosen]
    amended = OmegaConf.create(dict(record))
    options = _compose(loader, chosen)
    try:
        for group in (_parse(text).key_or_group.replace("/", ".") for text in chosen):
            OmegaConf.update(amended, group, OmegaConf.select(options, group), merge=False)
        _check_keys(values, amended, loader)
        for parsed in map(_parse, values):
            OmegaConf.update(amended, parsed.key_or_group, parsed.value(), merge=True)
    except (errors.OmegaConfBaseException, AttributeError, TypeError) as error:
        raise UserError(in_words(error)) from None
    return build_experiment(amended, request.allow_modules)


def record_of(experiment: Experiment) -> dict[str, Any]:
    """The resolved record of an experiment, from which it can be built again."""
    return {"format_version": FORMAT_VERSION, **build.record_of(experiment)}


def to_yaml(record: Mapping[str, Any]) -> str:
    """The record as YAML, for `OmegaConf.load`."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(record)))


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

    def run_job(cfg: DictConfig) -> str:
        experiment = build_experiment(cfg, request.allow_modules)
        statuses.append(job(experiment, Path(HydraConfig.get().runtime.output_dir)))
        return statuses[-1]

    hydra = Hydra("fedsim", _loader(request.config_dir))
    overrides = list(request.overrides)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        if show_config is not None:
            hydra.show_cfg("config", overrides, show_config, package=None)
        elif request.multirun:
            hydra.multirun("config", run_job, [*overrides, HYDRA_MULTIRUN])
        else:
            hydra.run("config", run_job, overrides)
    except (HydraException, errors.OmegaConfBaseException) as error:
        raise UserError(in_words(error)) from None
    finally:  # Hydra opened run.log and put its handlers in the place of those that were there
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return statuses
