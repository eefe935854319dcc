"""The YAML files of all options: groups, options, keys and defaults, read without Hydra or torch."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.config.keys import flat


def config_folders(config_dir: str | None) -> list[Path]:
    """Where options lie: fedsim's own folder, and the user's."""
    ours = Path(str(importlib.resources.files("fedsim.configs")))
    return [ours, *([] if config_dir is None else [Path(config_dir).expanduser()])]


def groups_of(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Every group with its options."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            group = file.parent.relative_to(folder).as_posix()
            if group != "." and not group.startswith(("_", "hydra")):
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def read_option(folders: Sequence[Path], name: str) -> dict[str, Any]:
    """The mapping in the file of an option, such as ``model/gru``; empty if there is none."""
    return next((load_mapping(file) for folder in folders if (file := folder / f"{name}.yaml").is_file()), {})


def load_mapping(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file, or an empty one; raises `ValueError` if the file is not valid YAML."""
    import yaml  # only here: --help does not need it

    try:
        # the same as yaml.safe_load, but by libyaml where it is available: ten times as fast
        content = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(file.read_text(encoding="utf-8")).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return content if isinstance(content, dict) else {}


def default_values() -> dict[str, Any]:
    """The config of ``fedsim run`` alone, for `fedsim.build`: the default options, and those that they choose."""
    folders = config_folders(None)

    def whole(name: str, group: str = "") -> dict[str, Any]:
        content = read_option(folders, name)
        chosen = [pair for entry in content.pop("defaults", ()) if isinstance(entry, dict) for pair in entry.items()]
        parts = {
            part: whole(f"{group}{part}/{option}", f"{group}{part}/")
            for part, option in chosen
            if option is not None and not part.startswith("override ")
        }
        return parts | content

    return {key: value for key, value in whole("config").items() if key != "hydra"}


def keys_of(folders: Sequence[Path], groups: Mapping[str, Sequence[str]], words: Sequence[str]) -> dict[str, Any]:
    """Every key of the options that the words choose, with its default; several options contribute all their keys."""
    given = {word.partition("=")[0].lstrip("+"): word.partition("=")[2].split(",") for word in words}
    given = {group: options for group, options in given.items() if group in groups}

    def chosen(
        content: Mapping[str, Any], group: str = "", overriding: bool = False
    ) -> Iterator[tuple[str, list[str]]]:
        for entry in content.get("defaults") or ():
            for part, option in entry.items() if isinstance(entry, dict) else ():
                override = re.match(r"override /?([\w/]+)(?:@[\w.]+)?$", part)
                name = override[1] if override else f"{group}/{part}".strip("/")
                if option is not None and name in groups and (override or not overriding):
                    yield name, [str(option)]

    root = read_option(folders, "config")
    options = dict(chosen(root))
    for experiment in given.get("experiment", ()):
        options |= dict(chosen(read_option(folders, f"experiment/{experiment}")))
    options |= given
    for group in reversed(list(options)):  # as in Hydra, where the last option that overrides another group decides
        for option in () if group == "experiment" else options[group]:
            for part, names in chosen(read_option(folders, f"{group}/{option}"), group, overriding=True):
                options.setdefault(part, names)
    keys = {key: value for key, value in flat(root).items() if key.split(".")[0] not in ("defaults", "hydra")}
    todo = [(group, option) for group in options if group != "experiment" for option in options[group]]
    for group, option in todo:
        content = read_option(folders, f"{group}/{option}")
        plain = {key: value for key, value in content.items() if key not in ("defaults", "_target_")}
        keys |= flat(plain, f"{group.replace('/', '.')}.") if plain else {}
        parts = [(part, name) for part, names in chosen(content, group) if part not in options for name in names]
        todo += [pair for pair in parts if pair not in todo]
    return dict(sorted(keys.items()))
