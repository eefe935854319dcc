"""``fedsim list``: every config group and option with its one-line comment."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text  # not plain strings, in which rich reads [brackets] as markup

from fedsim.config.compose import list_options
from fedsim.config.loader import CONFIG_MODULE
from fedsim.errors import UserError, did_you_mean


def show(group: str | None, config_dir: str | None) -> None:
    """Print all groups, or one.

    Raises:
        UserError: if there is no such group.
    """
    groups = list_options(config_dir)
    if group is not None and group not in groups:
        raise UserError(f"{group}: no such group{did_you_mean(group, groups)}; available: {', '.join(groups)}")
    folders = [Path(str(importlib.resources.files(CONFIG_MODULE))), *([] if config_dir is None else [Path(config_dir)])]
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 500  # one line per option, for grep
    for name in [group] if group is not None else groups:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for option in groups[name]:
            table.add_row(Text(f"  {name}={option}"), Text(_comment(folders, f"{name}/{option}.yaml")))
        console.print(Text(name, style="bold"))
        console.print(table)
        console.print()


def _comment(folders: list[Path], name: str) -> str:
    """The first comment of an option's YAML, or an empty string."""
    for file in (folder / name for folder in folders):
        if file.is_file():
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("#") and "@package" not in line:
                    return line.lstrip("# ").rstrip()
    return ""
