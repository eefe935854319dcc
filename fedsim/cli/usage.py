"""What to write instead of a command or an option that does not exist."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedsim.config.option_files import config_folders, groups_of, keys_of


def explained(message: str, arguments: Sequence[str]) -> str:
    """Add to a message of the parser what was meant, if that can be told.

    Args:
        message: about arguments that it could not take.
        arguments: all of them.
    """
    if found := re.search(r"No such command '([^']*)'", message):
        word = found[1]
        if "=" in word or word.endswith((".yaml", ".yml")):
            return f"{word}: a command comes first: fedsim run {' '.join(arguments)}"
    if found := re.search(r"No such option: '?(-+)([\w./-]+)", message):
        name = found[2].replace("-", "_")
        folders = config_folders(None)
        groups = groups_of(folders)
        if name in groups or name in keys_of(folders, groups, ()):
            return f"{found[1]}{found[2]}: settings have no dashes; write {name}=VALUE"
    return f"{message}; see fedsim --help"
