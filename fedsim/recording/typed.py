"""What was typed to start a run or a sweep, from Hydra's record in its directory, where it is fit to be suggested."""

from __future__ import annotations

import re
from pathlib import Path

from fedsim.errors import UserError
from fedsim.yaml_bounds import read_bounded, read_yaml

_ABOUT_THE_RUN = re.compile(r"(?!hydra|tracker)\w[\w./@]*=|hydra\.sweep\.subdir=(?!.*\.\.|\W*/)|hydra/launcher=")
"""How an override begins that may be suggested from a stranger's record: never an option of the command line, such as
``--allow-module``, nor what says where things are loaded from, written or sent."""

_PLACES = ("hydra.sweep.dir=", "hydra.run.dir=", "hydra.mode=")


def sweep_overrides(directory: Path) -> list[str]:
    """The overrides of a sweep as they were typed; none if they cannot be read, or do more than set up the runs."""
    return _overrides(directory / "multirun.yaml")


def run_overrides(directory: Path) -> list[str]:
    """The overrides of a run as they were typed; none if they cannot be read, or do more than set up the run."""
    return _overrides(directory / ".hydra" / "hydra.yaml")


def _overrides(path: Path) -> list[str]:
    if path.is_symlink():
        return []
    try:
        given = read_yaml(read_bounded(path), str(path))["hydra"]["overrides"]
        overrides = [str(text) for text in (*given["task"], *given["hydra"])]
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return []
    found = [text for text in overrides if not text.startswith(_PLACES)]
    return found if all(_ABOUT_THE_RUN.match(text) and text.isprintable() for text in found) else []
