"""What the YAML files and the dataclasses' docstrings say of groups, options and keys.

``fedsim list``, ``fedsim init`` and the documentation's pages on config groups all read it here. Modules of users are
never imported for it: of theirs, the comments in the YAML files count.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fedsim.config.option_files import config_folders
from fedsim.errors import UserError
from fedsim.federation.experiment import Experiment
from fedsim.yaml_bounds import check_yaml, read_bounded

(OWN,) = config_folders(None)
"""The folder with fedsim's own configs."""

_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""For fedsim's own files: by libyaml where it is available, ten times as fast; its words about errors are others."""


class Key(NamedTuple):
    """A key as it is typed on the command line, its default as it is written in the YAML file, and what it means."""

    name: str
    default: str
    meaning: str


class Option(NamedTuple):
    """An option of a group, or with empty names what lies outside all groups.

    Attributes:
        group: such as ``client/optimizer``.
        name: such as ``sgd``.
        comment: the YAML file's first comment.
        target: the dotted path of its dataclass; None if it only sets keys of others, as experiments do.
        prose: the dataclass's docstring without its attributes.
        attributes: what the docstring says of each field.
        parts: the options that it chooses itself, as pairs of group and option.
        keys: its own, without those of `parts`.
    """

    group: str
    name: str
    comment: str
    target: str | None
    prose: str
    attributes: Mapping[str, str]
    parts: tuple[tuple[str, str], ...]
    keys: tuple[Key, ...]

    @property
    def title(self) -> str:
        """The override that chooses it, ``client/optimizer=sgd``."""
        return f"{self.group}={self.name}"


def file_of(group: str, name: str, config_dir: str | None = None) -> Path:
    """The YAML file of an option.

    Raises:
        UserError: if there is none.
    """
    places = (folder / group / f"{name}.yaml" for folder in config_folders(config_dir))
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"{group}={name}: has no file")
    return file


def top_level() -> Option:
    """The keys outside all groups, and the groups' default options."""
    return _read(OWN / "config.yaml", "", "", Experiment)


def read_option(group: str, name: str, config_dir: str | None = None) -> Option:
    """What is known of an option.

    Raises:
        UserError: if its file is no YAML, or there is none.
    """
    return _read(file_of(group, name, config_dir), group, name)


def _read(file: Path, group: str, name: str, cls: type | None = None) -> Option:
    text = read_bounded(file)
    loader = _FAST if file.is_relative_to(OWN) else yaml.SafeLoader
    if loader is yaml.SafeLoader:
        check_yaml(text, str(file))
    root = yaml.compose(text, Loader=loader)
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UserError(f"{file}: must hold keys with values")
    entries = {str(key.value): (key, value) for key, value in root.value} if root is not None else {}
    target = str(entries["_target_"][1].value) if "_target_" in entries else None
    cls = cls or (find(target) if target is not None else None)
    prose, attributes = documented(cls) if cls is not None else ("", {})
    package = re.match(r"#\s*@package\s+(\S+)", text)
    prefix = group.replace("/", ".") if package is None else "" if package[1] == "_global_" else package[1]
    comment, lines = comment_of(text), text.splitlines()
    keys = []
    for top, (key_node, value_node) in entries.items():
        if top not in ("defaults", "_target_", "hydra"):
            for path, key, value in _leaves(key_node, value_node, f"{prefix}.".lstrip(".")):
                said = _said(lines, key, value) or attributes.get(top) or (comment if len(entries) == 2 else "")
                written = text[value.start_mark.index : value.end_mark.index]
                default = " ".join(written.split()) if "\n" in written else written.strip()
                keys.append(Key(path, default or "null", said))
    parts = tuple(_parts(loader(text).get_single_data(), group)) if "defaults" in entries else ()
    return Option(group, name, comment, target, prose, attributes, parts, tuple(keys))


def _leaves(key: Any, value: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Every key below a node that has a single value or a list, with its dotted path."""
    path = f"{prefix}{key.value}"
    if isinstance(value, yaml.MappingNode) and value.value:
        for inner, node in value.value:
            yield from _leaves(inner, node, f"{path}.")
    else:
        yield path, key, value


def _said(lines: list[str], key: Any, value: Any) -> str:
    """The comment behind a value, on the same line."""
    end = value.end_mark if value.end_mark.line >= key.end_mark.line else key.end_mark
    rest = lines[end.line][end.column :] if end.line < len(lines) else ""
    found = re.match(r"\s*:?\s*#\s*(.*)", rest)
    return found[1].rstrip() if found else ""


def _parts(content: Mapping[str, Any], group: str) -> Iterator[tuple[str, str]]:
    """The options in a defaults list, as pairs of the whole group and the option."""
    for entry in content["defaults"] if isinstance(content["defaults"], list) else ():
        for part, chosen in entry.items() if isinstance(entry, dict) else ():
            found = re.match(r"(override |optional )?(/?)([\w/]+)", str(part))
            if found is None or found[3].startswith("hydra/"):
                continue
            whole = found[3] if found[2] or (found[1] or "").startswith("override") else f"{group}/{found[3]}"
            for one in chosen if isinstance(chosen, list) else [chosen]:
                if one is not None:
                    yield whole.strip("/"), str(one)


def comment_of(text: str) -> str:
    """The first comment of a YAML file, without its mark; empty if it has none."""
    lines = (line for line in text.splitlines() if line.startswith("#") and "@package" not in line)
    return next(lines, "").lstrip("# ").rstrip()


def find(target: str) -> type | None:
    """The dataclass that a ``_target_`` names, if it is fedsim's own; no other module is imported."""
    module, _, name = target.rpartition(".")
    if module.partition(".")[0] != __name__.partition(".")[0]:
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None


@cache
def documented(cls: type) -> tuple[str, Mapping[str, str]]:
    """A dataclass's docstring without its attributes, and these as ``{name: text}``; those of its bases too."""
    text = inspect.cleandoc(cls.__doc__ or "")
    prose, _, attributes = text.partition("\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", attributes, re.M)
    explained = {name: " ".join(what.split()) for name, what in found}
    for base in cls.__mro__[1:]:
        if dataclasses.is_dataclass(base):
            explained = {**documented(base)[1], **explained}
    return prose.strip(), explained


def groups_explained(options: Mapping[str, list[Option]]) -> dict[str, str]:
    """What each group is about: what the docstring says of the field that it fills.

    Args:
        options: those of each group.
    """
    explained = {**documented(Experiment)[1], "experiment": "a whole set-up: options and values together"}
    for group in options:
        parent, _, field = group.rpartition("/")
        if parent:
            said = (option.attributes.get(field) for option in options.get(parent, ()))
            explained[group] = next((text for text in said if text), "")
    return {group: explained.get(group, "") for group in options}
