"""YAML of strangers, read within bounds: no file without an end, no aliases that double, nothing that holds itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import yaml

from fedsim.errors import UserError

LARGEST = 1_000_000
"""Bytes of a file. The longest config of fedsim's own has five thousand."""
NODES = 50_000
"""Values, lists and mappings of a file, before and after its aliases are replaced by what they stand for."""
DEEPEST = 20
"""Lists and mappings within each other; fedsim's own have 6. OmegaConf takes a dozen calls for each."""
SMALL = 50_000
"""Characters of a text without aliases that needs no look beforehand."""


def read_bounded(path: Path, most: int = LARGEST) -> str:
    """Return the text of a file.

    Raises:
        UserError: if it cannot be read, is no regular file, has more than `most` bytes or is not UTF-8.
    """
    try:
        # A pipe without a writer would wait for one.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{path}: is no regular file")
            content = file.read(most + 1)
    except IsADirectoryError:
        raise UserError(f"{path}: is no regular file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(content) > most:
        raise UserError(f"{path}: has more than {most:,} bytes, the most that such a file may have")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start})") from None


def check_yaml(text: str, where: str) -> list[str]:
    """Check that a text grows no further than the bounds when it is read; return its single values, as written.

    Args:
        text: YAML.
        where: its file, for the message.

    Raises:
        UserError: if it is too large, too deep, holds itself, or is no YAML.
    """
    if len(text) > LARGEST:
        raise UserError(f"{where}: has more than {LARGEST:,} characters, the most that a config may have")
    values: list[str] = []
    sizes: dict[str, int] = {}  # nodes of what an anchor names; 0 until it is complete
    counts, names = [0], [""]  # of the lists and mappings that are open
    nodes = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            size = 0
            if isinstance(event, yaml.ScalarEvent):
                values.append(event.value)
                size = 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                counts.append(1)
                names.append(event.anchor or "")
                if event.anchor is not None:
                    sizes[event.anchor] = 0
            elif isinstance(event, yaml.CollectionEndEvent):
                size, name = counts.pop(), names.pop()
                sizes[name] = size
            elif isinstance(event, yaml.AliasEvent):
                size = sizes.get(event.anchor or "", 1)  # one that is not defined is reported when it is read
                if size == 0:
                    raise UserError(f"{where}: *{event.anchor} is a part of itself")
            counts[-1] += size
            nodes += isinstance(event, yaml.NodeEvent)
            if len(counts) > DEEPEST:
                raise UserError(f"{where}: has more than {DEEPEST} lists and mappings within each other")
            if max(nodes, counts[-1]) > NODES:
                raise UserError(f"{where}: has more than {NODES:,} values once its aliases are replaced")
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    return values


def read_yaml(text: str, where: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return what a text holds, made of plain values, lists and mappings.

    Args:
        text: YAML.
        where: its file, for the message.
        loader: how values are read.

    Raises:
        UserError: as `check_yaml`.
    """
    if len(text) > SMALL or "*" in text:
        check_yaml(text, where)
    try:
        found = loader(text).get_single_data()
        _check_depth(found)
        return found
    except RecursionError:
        raise UserError(f"{where}: has more than {DEEPEST} lists and mappings within each other") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: cannot be read as YAML ({' '.join(str(error).split())})") from None


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, dict | list | tuple | set):
        for child in value:
            _check_depth(child, depth + 1)
        for child in value.values() if isinstance(value, dict) else ():
            _check_depth(child, depth + 1)
