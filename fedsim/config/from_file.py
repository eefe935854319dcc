"""``fedsim run FILE.yaml``: the settings of a file as the overrides that one would type."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from fedsim.config.option_files import config_folders, groups_of
from fedsim.config.request import Request
from fedsim.config.user_files import check_resolvers
from fedsim.errors import UserError, show
from fedsim.yaml_bounds import check_yaml, read_bounded, read_yaml

_WORDS = ("null", "true", "false", "inf", "nan")  # which need quotes to be texts


def is_file(text: str) -> bool:
    """Whether an argument is the name of a YAML file and not an override."""
    return "=" not in text and text.endswith((".yaml", ".yml"))


def with_files(request: Request) -> Request:
    """Put the settings of the YAML files that a request names in front of what was typed.

    A file holds what one would type: keys, nested or dotted, and names of options (``model: lstm``). A list of
    ``defaults`` chooses options too, as in the YAML of an experiment. What was typed takes precedence.

    Raises:
        UserError: if a file cannot be read, or says something about Hydra itself.
    """
    files = [text for text in request.overrides if is_file(text)]
    typed = tuple(text for text in request.overrides if not is_file(text))
    groups = groups_of(config_folders(request.config_dir))
    chosen = {text.partition("=")[0] for text in typed}
    given = [text for file in files for text in overrides_of(Path(file), groups)]
    kept = tuple(text for text in given if not (text.partition("=")[0] in groups and text.partition("=")[0] in chosen))
    return dataclasses.replace(request, overrides=(*kept, *typed), from_file=len(kept))


def overrides_of(path: Path, groups: Mapping[str, Any]) -> list[str]:
    """The overrides that say what a YAML file says; options come before values."""
    text = read_bounded(path)
    for value in check_yaml(text, str(path)):
        if "${" in value:
            check_resolvers(value, str(path))
    content = read_yaml(text, str(path))
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: must be settings, such as rounds: 100, or model: lstm")
    if "hydra" in content:
        raise UserError(f"{path}: hydra: settings of Hydra are typed, or are in an experiment of --config-dir")
    values = {key: value for key, value in content.items() if key != "defaults"}
    found = [*_choices(content.get("defaults") or (), path), *_settings(values, "", groups)]
    return sorted(found, key=lambda text: text.partition("=")[0] not in groups)


def _choices(defaults: Any, path: Path) -> Iterator[str]:
    """The overrides of a list of defaults."""
    for entry in defaults if isinstance(defaults, list | tuple) else [defaults]:
        if entry == "_self_":
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise UserError(f"{path}: defaults: {show(entry)}: must be a list of GROUP: OPTION")
        ((group, option),) = entry.items()
        name = str(group).removeprefix("override ").strip().lstrip("/")
        yield f"{name}={value_text(option)}"


def _settings(node: Mapping[str, Any], prefix: str, groups: Mapping[str, Any]) -> Iterator[str]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        group = name.replace(".", "/")
        if isinstance(value, str) and group in groups:
            yield f"{group}={value_text(value)}"
        elif isinstance(value, Mapping) and "_target_" in value:
            raise UserError(
                f"{name}._target_={show(value['_target_'])}: a file of settings names options, such as {name}: OPTION; "
                "what a run recorded is in its config.yaml"
            )
        elif isinstance(value, Mapping) and value:
            yield from _settings(value, f"{name}.", groups)
        else:
            yield f"{name}={value_text(value)}"


def value_text(value: Any) -> str:
    """A value as Hydra's grammar reads it back."""
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z]\w*", value, re.ASCII) and value.lower() not in _WORDS
        return value if plain else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{value_text(child)}" for key, child in value.items()) + "}"
    return show(value)
