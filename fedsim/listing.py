"""``fedsim list``: every config group and option with its one-line comment."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fedsim.config import list_options
from fedsim.errors import UserError, did_you_mean


def show(group: str | None, config_dir: str | None) -> None:
    """Print all groups, or one.

    Raises:
        UserError: if there is no such group.
    """
    listing = list_options(config_dir)
    if group is not None and group not in listing:
        raise UserError(f"{group}: no such group{did_you_mean(group, listing)}; there are {', '.join(listing)}")
    for name in [group] if group is not None else listing:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for option, comment in listing[name].items():
            table.add_row(f"  {name}={option}", comment)
        console = Console(highlight=False)
        console.print(f"[bold]{name}[/bold]")
        console.print(table)
        console.print()
