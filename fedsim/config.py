"""Compose, check and launch: the only file that imports Hydra and OmegaConf.

A config is data, not code: `fedsim.build` makes the components, and ``hydra.utils.instantiate`` is not used. What a
config says about Hydra itself is checked wherever Hydra composes one. Everything is checked, for every job of a
sweep, before Hydra makes the first directory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, cast

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, errors, open_dict, read_write

from fedsim import build
from fedsim.config_words import check_config_dir, flat, in_words, within
from fedsim.errors import UserError, did_you_mean, show
from fedsim.experiment import Experiment
from fedsim.recording.run_directory import FORMAT_VERSION, refuse_used
from fedsim.request import (
    EXTRAS,
    HYDRA_COMPUTED,
    HYDRA_SETTABLE,
    PLUGINS,
    batches,
    check_choice,
    check_value,
    refused,
    samples,
    settable,
)
from fedsim.request import Job as Job
from fedsim.request import Request as Request
from fedsim.request import normalise as normalise

CONFIG_MODULE = "fedsim.configs"

HYDRA_MULTIRUN = "hydra.mode=MULTIRUN"
ALL_SETTABLE = {name for group, options in PLUGINS.items() for option in options for name in settable({group: option})}


class SafeLoader(ConfigLoaderImpl):
    """Hydra's config loader, refusing whatever a config says about Hydra beyond what `fedsim.request` lists.

    Hydra composes for a sweep as a whole and again for each job, and acts on its node of each result. So the check
    stands here, where all of them come from, and holds when a file changes between the check and the run. What the
    check composed is kept until Hydra asks for it, because composing takes a tenth of a second.
    """

    KEPT = 2000  # configs, of about 150 kB each

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._kept: dict[tuple[str, ...], DictConfig] = {}
        self._first: DictConfig | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: without what is kept for this one."""
        return self.__dict__ | {"_kept": {}, "_first": None}

    def keep(self, overrides: Sequence[str], cfg: DictConfig) -> None:
        """Give `cfg` to the next one who asks for these overrides, and the time of the first to all that follow."""
        self._first = self._first or cfg
        if len(self._kept) < self.KEPT:
            self._kept[tuple(sorted(overrides))] = cfg

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose, and raise `UserError` if the result is not safe."""
        kept = self._kept.pop(tuple(sorted(overrides)), None) if run_mode is RunMode.RUN else None
        if kept is not None:
            return kept
        modes = [text for text in overrides if text == HYDRA_MULTIRUN]  # from `launch`
        given = [_parse(text) for text in overrides if text != HYDRA_MULTIRUN]  # beforehand: search paths are imported
        cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        choices = {group: cfg.hydra.runtime.choices.get(group) for group in PLUGINS}
        choices = {group: option for group, option in choices.items() if option is not None}
        for group, option in choices.items():
            check_choice(group, option)
        untouched = _untouched(tuple(f"{group}={option}" for group, option in choices.items()))
        wanted = untouched | {
            "mode": RunMode.MULTIRUN if modes else None,
            "overrides.hydra": [str(o.input_line) for o in given if _of_hydra(o)] + modes,
            "overrides.task": [str(o.input_line) for o in given if not _of_hydra(o)],
        }
        found = flat(OmegaConf.to_container(cfg.hydra, resolve=False))
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) == found.get(key) or within(key, HYDRA_SETTABLE + HYDRA_COMPUTED):
                continue
            if key not in settable(choices) or "${" in str(found.get(key)):
                raise refused(f"hydra.{key}={show(found.get(key))}", choices)
            check_value(key, found[key])
        if self._first is not None:
            OmegaConf.copy_cache(self._first, cfg)  # one ${now:...} for the sweep and all its jobs, as in Hydra
        return cfg


@cache
def _untouched(plugins: tuple[str, ...]) -> dict[str, Any]:
    """Hydra's node as fedsim's own configs make it, flat. No folder of the user's has a part in it."""
    loader = ConfigLoaderImpl(create_config_search_path(f"pkg://{CONFIG_MODULE}"))
    cfg = loader.load_configuration("config", list(plugins), RunMode.RUN, from_shell=False)
    return flat(OmegaConf.to_container(cfg.hydra, resolve=False))


def _of_hydra(override: Override) -> bool:
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra"


def make_loader(config_dir: str | None) -> SafeLoader:
    """A loader over fedsim's configs and the user's folder; one for the check of a request and its launch."""
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
        overrides = [text for text in overrides if text != HYDRA_MULTIRUN]
        chosen = _check_options(overrides, loader)
        if len(chosen) < len(overrides):
            _check_keys(overrides, _compose(loader, chosen), loader)
        known = isinstance(error, HydraException | errors.OmegaConfBaseException)
        raise UserError(("" if known else f"cannot compose {' '.join(overrides)}: ") + in_words(error)) from None


def check_request(request: Request, loader: SafeLoader | None = None) -> list[Job]:
    """Compose and check every job of a request; nothing is written.

    Args:
        request: normalised.
        loader: of `make_loader`, if `launch` is to have the same.

    Returns:
        the jobs; of an Optuna sweep some of those that it may come to: every value that can be told beforehand.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    loader = loader or make_loader(request.config_dir)
    optuna = any(text == "hydra/sweeper=optuna" for text in request.overrides)
    for override in (_parse(text) for text in request.overrides):
        if override.is_sweep_override() and not request.multirun:
            raise UserError(f"{override.input_line}: several values make a sweep; add -m (--multirun) to fedsim run")
        if override.is_sweep_override() and not override.is_discrete_sweep() and not optuna:
            raise UserError(f"{override.input_line}: a sweep needs single values, such as 1,2 or range(1,3)")
        group = override.key_or_group
        if isinstance(override.value(), list) and group != "experiment" and group in _groups(loader):
            raise UserError(f"{override.input_line}: choose one option; -m {group}=A,B makes a run of each")
        if group in PLUGINS:
            _check_plugin(group, str(override.value()), request, loader)
    jobs: list[Job] = []
    seen: set[Path] = set()
    mode = [HYDRA_MULTIRUN] if request.multirun else []
    for number, overrides in enumerate(_sweep(request, loader, optuna)):
        cfg = _compose(loader, [*overrides, *mode])
        directory = _directory(cfg, number if request.multirun else None, used=request.resume is not None)
        if directory in seen:
            raise UserError(f"hydra.sweep.subdir={cfg.hydra.sweep.subdir}: the jobs of a sweep need a directory each")
        seen.add(directory)
        folder = Path(str(cfg.hydra.sweep.dir)) if request.multirun else directory
        jobs.append(Job(tuple(overrides), build_experiment(cfg, request.allow_modules), directory, folder))
        loader.keep([*overrides, *mode], cfg)
    return jobs


def _check_plugin(group: str, option: str, request: Request, loader: SafeLoader) -> None:
    if not request.multirun:
        raise UserError(f"{group}={option}: is for sweeps; add -m (--multirun) to fedsim run")
    if not loader.repository.config_exists(f"{group}/{option}"):
        extra = EXTRAS.get(option, "optuna")
        raise UserError(f"{group}={option}: is not installed; install fedsim with its extra [{extra}]")
    if option == "optuna" and request.resume is not None:
        raise UserError(
            f"--resume {request.resume}: Optuna continues a study by itself; give the same hydra.sweeper.storage="
            "sqlite:///FILE and hydra.sweeper.study_name without --resume"
        )


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
        group = parsed.key_or_group
        plain = not (parsed.is_sweep_override() or parsed.is_delete() or parsed.is_add() or parsed.package)
        if plain and group in PLUGINS:
            check_choice(group, parsed.value())
        elif not (plain and (within(key, HYDRA_SETTABLE) or key in ALL_SETTABLE)):
            raise refused(text.lstrip("+~"), {})
    return parsed


def _sweep(request: Request, loader: SafeLoader, optuna: bool = False) -> list[list[str]]:
    """The overrides of every job: the grid that Hydra's basic sweeper runs, in its order.

    For Optuna, which makes them later: the first value of every parameter, and each other value that can be told
    (choices, and the ends of an interval) in one job.
    """
    if not request.multirun:
        return [list(request.overrides)]
    parsed = [_parse(text) for text in request.overrides]
    hydras = [text for text, o in zip(request.overrides, parsed, strict=True) if _of_hydra(o)]
    groups = _groups(loader)
    single = [str(o.input_line) for o in parsed if o.key_or_group in groups and not o.is_sweep_override()]
    sweeper = _compose(loader, [*hydras, *single]).hydra.sweeper
    if not optuna and sweeper.max_batch_size is not None and sweeper.max_batch_size < 1:
        raise UserError(f"hydra.sweeper.max_batch_size={sweeper.max_batch_size}: must be at least 1")
    try:
        params = [_parse(f"{key}={value}") for key, value in (sweeper.params or {}).items()]
        parser = OverridesParser.create(loader)
        task = parser.parse_overrides([text for text in request.overrides if text not in hydras])
        if optuna:
            return [[*job, *hydras] for job in samples([*params, *task])]
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


def _directory(cfg: DictConfig, number: int | None, used: bool = False) -> Path:
    """Where a run (job `number` of a sweep) will go; a directory that already holds a run is refused."""
    key = "hydra.run.dir" if number is None else "hydra.sweep.dir"
    try:
        if number is None:
            directory = Path(str(cfg.hydra.run.dir))
        else:
            with read_write(cfg), open_dict(cfg):
                cfg.hydra.job.num = number
            directory = Path(str(cfg.hydra.sweep.dir)) / str(cfg.hydra.sweep.subdir)
        if number is not None and not str(directory).isprintable():
            raise UserError(f"{key}={str(directory)!r}: must not hold line breaks or control characters")
        if not used:
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
    try:
        amended = OmegaConf.create(dict(record))
        if request.overrides:  # to compose takes a while
            _amend(amended, list(request.overrides), make_loader(request.config_dir))
    except (errors.OmegaConfBaseException, AttributeError, TypeError) as error:
        raise UserError(in_words(error)) from None
    return build_experiment(amended, request.allow_modules)


def _amend(amended: DictConfig, overrides: list[str], loader: SafeLoader) -> None:
    for parsed in map(_parse, overrides):
        text = parsed.input_line
        if _of_hydra(parsed) or parsed.is_sweep_override() or parsed.is_delete() or parsed.package is not None:
            raise UserError(f"{text}: a run is continued with single values and options, such as rounds=100")
        if parsed.key_or_group in ("experiment", "baseline"):
            raise UserError(f"{text}: stands for several settings; name those to change one by one")
    chosen = _check_options(overrides, loader)
    values = [text for text in overrides if text not in chosen]
    options = _compose(loader, chosen)
    for group in (_parse(text).key_or_group.replace("/", ".") for text in chosen):
        OmegaConf.update(amended, group, OmegaConf.select(options, group), merge=False)
    _check_keys(values, amended, loader)
    for parsed in map(_parse, values):
        OmegaConf.update(amended, parsed.key_or_group, parsed.value(), merge=True)


def record_of(experiment: Experiment) -> dict[str, Any]:
    """The resolved record of an experiment, from which it can be built again."""
    return {"format_version": FORMAT_VERSION, **build.record_of(experiment)}


def to_yaml(record: Mapping[str, Any]) -> str:
    """The record as YAML, for `OmegaConf.load`."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(record)))


def launch(
    request: Request,
    job: Callable[[Experiment, Path], Any],
    show_config: str | None = None,
    *,
    loader: SafeLoader | None = None,
    pending: Sequence[tuple[int, Job]] | None = None,
) -> list[Any]:
    """Let Hydra run the jobs of a checked request.

    Args:
        request: already checked with `check_request`.
        job: what to do with an experiment in a directory; returns its status and does not raise, save
            KeyboardInterrupt, which ends a sweep, and for Optuna, to which an exception is a failed trial.
        show_config: ``job``, ``hydra`` or ``all``: print that config instead of running.
        loader: with which the request was checked.
        pending: the jobs of a grid that are to run, with their numbers; None is all of them.

    Returns:
        what `job` returned for every job that ran.
    """
    loader = loader or make_loader(request.config_dir)
    if request.multirun and pending is None:
        pending = list(enumerate(check_request(request, loader)))
    returned: list[Any] = []
    hydra = Hydra("fedsim", loader)
    overrides = list(request.overrides)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    task = partial(_run_job, allow_modules=request.allow_modules, job=job)
    try:
        if show_config is not None:
            hydra.show_cfg("config", overrides, show_config, package=None)
        elif "hydra/sweeper=optuna" in overrides:
            hydra.multirun("config", task, [*overrides, HYDRA_MULTIRUN])
        elif request.multirun:
            _launch_grid(hydra, [*overrides, HYDRA_MULTIRUN], task, pending or (), returned)
        else:
            returned.append(hydra.run("config", task, overrides).return_value)
    except (HydraException, errors.OmegaConfBaseException) as error:
        raise UserError(in_words(error)) from None
    finally:  # Hydra opened run.log and put its handlers in the place of those that were there
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return returned


def _run_job(cfg: DictConfig, allow_modules: Sequence[str], job: Callable[[Experiment, Path], Any]) -> Any:
    return job(build_experiment(cfg, allow_modules), Path(HydraConfig.get().runtime.output_dir))


def _launch_grid(
    hydra: Hydra, overrides: list[str], task: Any, pending: Sequence[tuple[int, Job]], returned: list[Any]
) -> None:
    """Do what Hydra's basic sweeper does, for jobs that are checked and may have gaps between their numbers."""
    loader = hydra.config_loader
    # A parameter may have many values: Hydra composes the sweep as a whole without the tasks' overrides just as well.
    cfg = hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=True)
    context = HydraContext(config_loader=loader, callbacks=Callbacks(cfg))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
    folder = Path(str(cfg.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "multirun.yaml")
    for batch in batches(pending, cfg.hydra.sweeper.max_batch_size):
        tasks = [[text for text in job.overrides if not _of_hydra(_parse(text))] for _, job in batch]
        results = launcher.launch(tasks, initial_job_idx=batch[0][0])
        returned.extend(result.return_value for result in results)


def launcher_of(request: Request, loader: SafeLoader) -> dict[str, Any]:
    """Hydra's launcher and sweeper as the request configures them: ``{"launcher": {...}, "sweeper": {...}}``."""
    hydras = [text for text in request.overrides if _of_hydra(_parse(text))]
    cfg = _compose(loader, hydras)
    found = {part: OmegaConf.to_container(cfg.hydra[part], resolve=False) for part in ("launcher", "sweeper")}
    choices = cfg.hydra.runtime.choices
    return found | {"names": {part: choices[f"hydra/{part}"] for part in ("launcher", "sweeper")}}
