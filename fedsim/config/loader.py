"""Hydra's config loader, letting a config change only those settings of Hydra that `fedsim.config.request` lists.

Only this file, `fedsim.config.compose`, `fedsim.config.composed_cache` and `fedsim.config.launch` import Hydra and
OmegaConf.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra import version
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from fedsim.config.command_line import check_places, refuse_in_file
from fedsim.config.composed_cache import MergingOnce, read
from fedsim.config.keys import flat, within
from fedsim.config.request import HYDRA_COMPUTED, HYDRA_SETTABLE, PLUGINS, check_choice, check_value, refused, settable
from fedsim.config.user_files import check_growth
from fedsim.errors import UserError, show

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

CONFIG_MODULE = "fedsim.configs"

HYDRA_MULTIRUN = "hydra.mode=MULTIRUN"
ALL_SETTABLE = {name for group, options in PLUGINS.items() for option in options for name in settable({group: option})}


class SafeLoader(MergingOnce):
    """Hydra's config loader, refusing any setting of Hydra that `fedsim.config.request` does not list.

    Hydra composes once for a sweep as a whole and again for each job, and acts on the ``hydra`` node of each result.
    The check is therefore made here, where all of these configs come from, and holds even if a file changes between
    check and run. The configs that `check_request` composed are kept until Hydra asks for them.
    """

    KEPT = 2000  # configs, of about 150 kB each

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._kept: dict[tuple[str, ...], DictConfig] = {}
        self._first: DictConfig | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The state to send to another process, without the configs kept for this one."""
        return self.__dict__ | {"_kept": {}, "_first": None}

    def keep(self, overrides: Sequence[str], cfg: DictConfig) -> None:
        """Keep `cfg` for the next call with these overrides; all later configs get the time of the first one kept."""
        self._first = self._first or cfg
        if len(self._kept) < self.KEPT:
            self._kept[_in_order(overrides)] = cfg

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose, and raise `UserError` if the result is not safe."""
        kept = self._kept.pop(_in_order(overrides), None) if run_mode is RunMode.RUN else None
        if kept is not None:
            return kept
        modes = [text for text in overrides if text == HYDRA_MULTIRUN]  # from `launch`
        given = [
            parse(text) for text in overrides if text != HYDRA_MULTIRUN
        ]  # refused before composing, which imports search paths
        typed = {one.key_or_group.replace("/", ".").removeprefix("hydra.") for one in given if of_hydra(one)}
        cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        choices = {group: cfg.hydra.runtime.choices.get(group) for group in PLUGINS}
        choices = {group: option for group, option in choices.items() if option is not None}
        for group, option in choices.items():
            check_choice(group, option)
        plugins = [f"{group}={option}" for group, option in choices.items()]
        untouched = _untouched(tuple(self.choices([str(one.input_line) for one in given]) if self.own else plugins))
        wanted = untouched | {
            "mode": RunMode.MULTIRUN if modes else None,
            "overrides.hydra": [str(o.input_line) for o in given if of_hydra(o)] + modes,
            "overrides.task": [str(o.input_line) for o in given if not of_hydra(o)],
        }
        found = flat(OmegaConf.to_container(cfg.hydra, resolve=False))
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) == found.get(key) or within(key, HYDRA_SETTABLE + HYDRA_COMPUTED):
                continue
            if key not in settable(choices) or "${" in str(found.get(key)):
                raise refused(f"hydra.{key}={show(found.get(key))}", choices)
            check_value(key, found[key])
            if key not in typed:
                refuse_in_file(key, found[key])
        if not self.own:
            check_growth(cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=False)))
            own = [str(untouched[key]) for key in ("run.dir", "sweep.dir", "sweep.subdir")]
            check_places(cfg, typed, bool(modes), own)
        if self._first is not None:
            OmegaConf.copy_cache(self._first, cfg)  # one ${now:...} for the sweep and all its jobs, as in Hydra
        return cfg


def _in_order(overrides: Sequence[str]) -> tuple[str, ...]:
    """What tells two lists of overrides apart: the order of those about the run counts, Hydra's own may come first."""
    own = [text for text in overrides if text.startswith(("hydra.", "hydra/"))]
    return (*sorted(own), *(text for text in overrides if text not in own))


@lru_cache(maxsize=100)
def _untouched(choices: tuple[str, ...]) -> dict[str, Any]:
    """The flattened ``hydra`` node that fedsim's own configs make, without the user's folder."""
    loader = MergingOnce(create_config_search_path(f"pkg://{CONFIG_MODULE}"))
    cfg = loader.load_configuration("config", list(choices), RunMode.RUN, from_shell=False)
    return flat(OmegaConf.to_container(cfg.hydra, resolve=False))


def of_hydra(override: Override) -> bool:
    """Whether an override is about Hydra itself."""
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra"


@lru_cache(maxsize=4096)
def parse(text: str) -> Override:
    """Parse one override, and refuse settings of Hydra that may not be changed."""
    try:
        text.encode()
        parsed = read(text)
        if not parsed.key_or_group:
            raise ValueError
    except (HydraException, ValueError, RecursionError):
        raise UserError(
            f"cannot read {text!r}: expected KEY=VALUE, such as model=gru or client.epochs=5, and quotes around "
            "special characters: \"name='my run: 1'\""
        ) from None
    if of_hydra(parsed):
        key = parsed.key_or_group.replace("/", ".").removeprefix("hydra").removeprefix(".")
        group = parsed.key_or_group
        if within(key, ("sweeper.params",)):
            raise UserError(f"{text}: is for config files; on a command line write the sweep itself, such as seed=1,2")
        allowed = within(key, HYDRA_SETTABLE) or key in ALL_SETTABLE
        if parsed.is_sweep_override() and (allowed or group in PLUGINS):
            quoted = "" if group in PLUGINS else f"; quotes keep the commas of a name: \"{group}='...'\""
            raise UserError(f"{text}: is the same for all jobs of a sweep and takes one value{quoted}")
        plain = not (parsed.is_sweep_override() or parsed.is_delete() or parsed.is_add() or parsed.package)
        if plain and key.endswith("dir") and within(key, HYDRA_SETTABLE) and parsed.value() is None:
            raise UserError(f"{text}: must name a directory; leave it out for the default")
        if plain and group in PLUGINS:
            check_choice(group, parsed.value())
        elif not (plain and allowed):
            raise refused(text.lstrip("+~"), {})
    return parsed


def task_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides that are not about Hydra itself."""
    return [text for text in overrides if not of_hydra(parse(text))]


def make_loader(config_dir: str | None) -> SafeLoader:
    """A loader over fedsim's configs and the user's folder, shared by the check of a request and its launch."""
    version.setbase("1.3")
    setup_globals()  # Hydra's resolvers, such as ${now:...}
    search_path = create_config_search_path(f"pkg://{CONFIG_MODULE}")
    if config_dir is not None:
        _check_config_dir(Path(config_dir))
        folder = f"file://{Path(config_dir).resolve()}"
        search_path.prepend("command-line", folder, SearchPathQuery(provider="schema"))
    return SafeLoader(search_path)


def _check_config_dir(folder: Path) -> None:
    """Require a folder without files named like fedsim's own: Hydra would read fedsim's instead."""
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: no such folder")
    for file in sorted(folder.rglob("*.yaml")):
        name = file.relative_to(folder).as_posix()
        if importlib.resources.files(CONFIG_MODULE).joinpath(name).is_file():
            raise UserError(f"--config-dir {folder}: {name} has the name of one of fedsim's own files; rename it")
