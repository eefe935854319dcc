"""Compose as Hydra does, reading and merging the files of each choice of options once.

Hydra reads some forty files for every composition and merges them, which takes a sixth of a second; the jobs of a sweep
differ mostly in values, which are set in a copy of what was merged. What Hydra says about a job is the same.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

_T = TypeVar("_T")
_numbers = itertools.count()


class Memory:
    """Values by key, the last `size` of those that were asked for; a copy of its own for each who asks."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """A copy of what `make` returned for this key, now or earlier; what it raises is raised every time."""
        kept = self._kept.pop(key, None) or (make(),)
        self._kept[key] = kept
        if len(self._kept) > self._size:
            del self._kept[next(iter(self._kept))]
        return copy.deepcopy(kept[0])


_FILES = Memory(500)
_MERGED = Memory(100)  # of about 150 kB each


class Repository(ConfigRepository):
    """Where Hydra finds configs; those that come with a package are read once in a process."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Find a config by its path below the groups."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "pkg":
            return super().load_config(config_path)
        return _FILES.get((source.path, config_path), lambda: super(Repository, self).load_config(config_path))


class MergingOnce(ConfigLoaderImpl):
    """Hydra's config loader, keeping what it merges.

    What fedsim's own folder makes is kept for the process, for its files do not change; what a folder of the user's
    has a part in, for one loader, which is one request, wherever its jobs run.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Repository(config_search_path)
        files = any(source.scheme() == "file" for source in self.repository.get_sources())
        self._request = (os.getpid(), next(_numbers)) if files else None

    @property
    def own(self) -> bool:
        """Whether no folder of the user's has a part in what is composed."""
        return self._request is None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose one job, or by Hydra alone what is none."""
        compose = super().load_configuration
        try:
            given = [read(text) for text in overrides]
        except Exception:  # Hydra words it
            given = None
        if given is None or any(one.is_sweep_override() for one in given):
            return compose(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        chosen = self.choices(overrides)
        cfg = _MERGED.get(
            (self._request, config_name, *chosen), lambda: compose(config_name, chosen, RunMode.RUN, from_shell)
        )
        of_files = OmegaConf.to_container(cfg.hydra, resolve=False)
        told = {"hydra": [text for text in chosen if read(text).is_hydra_override()]}
        told["task"] = [text for text in chosen if text not in told["hydra"]]
        if not isinstance(of_files, dict) or of_files["overrides"] != told:  # a file set them, which is to be seen
            return compose(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        self._apply_overrides_to_config([one for one in given if one.input_line not in chosen], cfg)
        of_task = [one for one in given if not one.is_hydra_override()]
        cfg.hydra.overrides.hydra = [one.input_line for one in given if one.is_hydra_override()]
        cfg.hydra.overrides.task = [one.input_line for one in of_task]
        cfg.hydra.runtime.cwd = os.getcwd()
        words = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            of_task, words.exclude_keys, words.item_sep, words.kv_sep
        )
        return cfg

    def choices(self, overrides: Sequence[str]) -> list[str]:
        """Those overrides that choose an option, as Hydra tells them: all others set values in what is merged."""

        def chooses(one: Override) -> bool:
            return not (one.is_sweep_override() or isinstance(one.value(), dict))

        return [
            text for text in overrides if chooses(one := read(text)) and self.repository.group_exists(one.key_or_group)
        ]


@lru_cache(maxsize=4096)  # the grammar takes a millisecond
def read(text: str) -> Override:
    """Read one override."""
    return OverridesParser.create().parse_override(text)
