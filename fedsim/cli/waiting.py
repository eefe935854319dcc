"""A sign of life for the seconds in which torch is imported and settings are composed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def waiting(overrides: Sequence[str] = ()) -> Iterator[None]:
    """Show on a terminal that the command is starting; the line is gone when the block ends.

    It goes to the error stream, so that no pipe gets it; ``console=none`` and a terminal that cannot move its cursor
    show nothing.
    """
    if "console=none" in overrides or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        yield
        return
    with console.status("starting: torch, the settings and the data"):
        yield
