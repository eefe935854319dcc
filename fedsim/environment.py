"""What torchrun says in the environment, read without importing torch."""

from __future__ import annotations

import os

from fedsim.errors import UserError, print_error


def rank_and_size() -> tuple[int, int]:
    """The number of this process, and how many there are; 0 and 1 without torchrun.

    Raises:
        UserError: if the environment says something else than numbers.
    """
    return (number("RANK", 0), number("WORLD_SIZE", 1)) if "RANK" in os.environ else (0, 1)


def number(name: str, default: int) -> int:
    """A variable of the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name}={text}: torchrun sets this variable of the environment to a whole number")
    return int(text)


def refuse_torchrun(what: str, reason: str) -> None:
    """Raise `UserError` if there are several processes."""
    if rank_and_size()[1] > 1:
        raise UserError(f"{what}: {reason}")


def print_once(text: str) -> None:
    """Print an error, in one process for all that find it."""
    if os.environ.get("RANK", "0") == "0":
        print_error(text)
