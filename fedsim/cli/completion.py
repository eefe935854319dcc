"""Shell completion of overrides: groups, options and lists of options, keys and their defaults.

Only the YAML files are read, and neither Hydra nor torch is imported, so that a key press is answered at once.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import typer

from fedsim.config.keys import flat
from fedsim.config.option_files import config_folders, groups_of, keys_of, load_mapping

BASH = ("_FEDSIM_COMPLETE", "complete_bash")
"""The environment variable that Typer's script for bash sets, and its value."""

_PLAIN = re.compile(r"[\w.,+/-]+")  # values that need no quotes in any shell


def complete_overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete an override of ``run``, ``resume``, ``evaluate`` or ``partition``."""
    words = _glued([str(word) for word in ctx.params.get("overrides") or ()])
    folder, run = ctx.params.get("config_dir"), ctx.params.get("run_dir")
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):  # the command itself reports it
        return candidates(incomplete, words, folder, Path(str(run)) if run else None)
    return []


def complete_listed(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a group, or an option of one, of ``fedsim list``."""
    with suppress(OSError):
        groups = groups_of(config_folders(ctx.params.get("config_dir")))
        group, equals, _ = incomplete.partition("=")
        known = [f"{group}={option}" for option in groups.get(group, ())] if equals else list(groups)
        return [one for one in known if one.startswith(incomplete)]
    return []


def candidates(
    incomplete: str, words: Sequence[str] = (), config_dir: str | None = None, run: Path | None = None
) -> list[str]:
    """The words that an incomplete one can be completed to.

    Args:
        incomplete: what has been typed so far: ``mod``, ``model=g``, ``model=gru,l``, ``client.ep``.
        words: the overrides before it; the options that they choose decide which keys exist.
        config_dir: a folder with the user's own configs.
        run: the run that the command is about, whose recorded settings are the keys.

    Returns:
        whole words. A name alone ends in ``=``, ``.`` or ``/``, for the user to type on; if a key is the only
        candidate, it is returned with and without its default, so that a shell does not treat it as finished.
    """
    folders = config_folders(config_dir)
    groups = groups_of(folders)
    name, equals, value = incomplete.partition("=")
    if equals and name in groups:
        done, comma, rest = value.rpartition(",")
        taken = done.split(",")
        return [f"{name}={done}{comma}{o}" for o in groups[name] if o.startswith(rest) and o not in taken]
    keys = _recorded(run) if run is not None else {}
    keys = keys or keys_of(folders, groups, words)
    if equals:
        return [f"{name}={text}" for text in _values(keys.get(name)) if text.startswith(value)]
    names = [f"{known}=" for known in dict.fromkeys([*groups, *keys])]
    while True:
        stems = sorted({_stem(known, len(incomplete)) for known in names if known.startswith(incomplete)})
        if len(stems) != 1:
            return stems
        if stems[0].endswith("="):
            name = stems[0][:-1]
            values = groups[name] if name in groups else _values(keys.get(name))
            return [*([stems[0]] if len(values) < 2 else []), *(f"{name}={text}" for text in values)]
        if stems[0] == incomplete:
            return []
        incomplete = stems[0]


def _stem(name: str, length: int) -> str:
    """A name up to the first separator at or after position `length`."""
    found = re.compile(r"[./=]").search(name, length)
    return name[: found.end()] if found else name


def _values(default: Any) -> list[str]:
    if isinstance(default, bool):
        return ["true", "false"]
    text = "null" if default is None else str(default)
    return [text] if _PLAIN.fullmatch(text) else []


def _recorded(run: Path) -> dict[str, Any]:
    """Every key of a run's record, with its value."""
    try:
        found = flat(load_mapping(run / "config.yaml"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if not key.endswith("_target_") and key != "format_version"}


# ---------------------------------------------------------------------------------------------------------------------
# bash, which treats = as a separate word and expects only what comes after it


def _glued(words: Sequence[str]) -> list[str]:
    """The words, with those that bash split at ``=`` joined again."""
    found: list[str] = []
    for word in words:
        if found and (word == "=" or found[-1].endswith("=")):
            found[-1] += word
        else:
            found.append(word)
    return found


def is_bash() -> bool:
    """Whether bash started this process to complete a word."""
    return os.environ.get(BASH[0]) == BASH[1]


def for_bash(app: Callable[[], Any]) -> None:
    """Let Typer complete for bash: give it whole words, and print only the part after the last ``=``."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    with suppress(ValueError):
        words = words if len(words) > 1 else shlex.split(words[0])
    number = os.environ.get("COMP_CWORD", "")
    position = int(number) if number.isdecimal() else len(words) - 1
    before = [*words[: position + 1], *[""] * (position + 1 - len(words))]
    whole = _glued(before)
    cut = len(whole[-1]) - len(before[-1]) if before[-1] != "=" else len(whole[-1])
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(whole), str(len(whole) - 1)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            app()
    finally:
        print("\n".join(line[cut:] for line in printed.getvalue().splitlines()))
