"""What torchrun says in the environment, read without importing torch."""

from __future__ import annotations

import os

from fedsim.errors import UserError, print_error


def rank_and_size() -> tuple[int, int]:
    """The number of this process, and how many there are; 0 and 1 without torchrun.

    Raises:
        UserError: if the environment says something else than numbers, or a number that no process can have.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
    if size > 1 and rank >= size:
        raise UserError(f"RANK={rank}: torchrun numbers the WORLD_SIZE={size} processes from 0")
    return (rank, size) if size > 1 else (0, 1)  # other programs set such variables too


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
    """Print an error, in one process for all that find it; where it is not clear which this is, it prints."""
    try:
        rank, _ = rank_and_size()
    except UserError:
        rank = 0
    if rank == 0:
        print_error(text)
