"""Compose as Hydra does, but read and merge the files for each choice of options only once.

Hydra reads and merges some forty files for every composition, which takes a sixth of a second. The jobs of a sweep
differ mostly in values, and these are set in a copy of the merged config. The composed config is the same, including
what Hydra records about the job.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from fedsim.config.user_files import check_file

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.override_parser.types import Override
    from hydra.plugins.config_source import ConfigResult
    from omegaconf import DictConfig

_T = TypeVar("_T")
_numbers = itertools.count()


class Cache:
    """A cache of the `size` most recently used values; every caller gets a copy."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """A copy of the value of `key`, made with `make` if it is not in the cache; exceptions are not cached."""
        kept = self._kept.pop(key, None) or (make(),)
        self._kept[key] = kept
        if len(self._kept) > self._size:
            del self._kept[next(iter(self._kept))]
        return copy.deepcopy(kept[0])


_FILES = Cache(500)
_MERGED = Cache(100)  # of about 150 kB each


class Repository(ConfigRepository):
    """Where Hydra finds configs.

    Those that come with a package are read once per process; those of a folder are checked before Hydra reads them.
    """

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Load a config by its path, such as ``model/gru``."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is not None and source.scheme() == "file":
            check_file(Path(source.path) / source._normalize_file_name(config_path))
        if source is None or source.scheme() != "pkg":
            return super().load_config(config_path)
        return _FILES.get((source.path, config_path), lambda: super(Repository, self).load_config(config_path))


class MergingOnce(ConfigLoaderImpl):
    """Hydra's config loader with a cache of merged configs.

    Configs made from fedsim's own folder alone are cached for the process, because its files do not change. Those
    that involve a user's folder are cached per loader, that is, per request, wherever its jobs run.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Repository(config_search_path)
        files = any(source.scheme() == "file" for source in self.repository.get_sources())
        self._request = (os.getpid(), next(_numbers)) if files else None

    @property
    def own(self) -> bool:
        """Whether configs are composed from fedsim's own folder alone."""
        return self._request is None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose one job through the cache; whatever is not a single job is left to Hydra."""
        compose = super().load_configuration
        try:
            given = [read(text) for text in overrides]
        except Exception:  # Hydra reports it below
            given = None
        if given is None or any(one.is_sweep_override() for one in given):
            return compose(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        chosen = self.choices(overrides)
        cfg = _MERGED.get(
            (self._request, config_name, *chosen), lambda: compose(config_name, chosen, RunMode.RUN, from_shell)
        )
        of_files = OmegaConf.to_container(cfg.hydra, resolve=False)
        recorded = {"hydra": [text for text in chosen if read(text).is_hydra_override()]}
        recorded["task"] = [text for text in chosen if text not in recorded["hydra"]]
        if not isinstance(of_files, dict) or of_files["overrides"] != recorded:  # a file set them, which must show
            return compose(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        self._apply_overrides_to_config([one for one in given if one.input_line not in chosen], cfg)
        of_task = [one for one in given if not one.is_hydra_override()]
        cfg.hydra.overrides.hydra = [one.input_line for one in given if one.is_hydra_override()]
        cfg.hydra.overrides.task = [one.input_line for one in of_task]
        cfg.hydra.runtime.cwd = os.getcwd()
        style = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            of_task, style.exclude_keys, style.item_sep, style.kv_sep
        )
        return cfg

    def choices(self, overrides: Sequence[str]) -> list[str]:
        """The overrides that choose an option, as Hydra decides it; all others set values in the merged config."""

        def chooses(one: Override) -> bool:
            return not (one.is_sweep_override() or isinstance(one.value(), dict))

        return [
            text for text in overrides if chooses(one := read(text)) and self.repository.group_exists(one.key_or_group)
        ]


@lru_cache(maxsize=4096)  # parsing takes a millisecond
def read(text: str) -> Override:
    """Parse one override."""
    return OverridesParser.create().parse_override(text)
