"""The environment variables that torchrun sets, read without importing torch."""

from __future__ import annotations

import os

from fedsim.errors import UserError, print_error


def rank_and_size() -> tuple[int, int]:
    """The rank of this process and the number of processes; 0 and 1 without torchrun.

    Raises:
        UserError: if a variable is not a whole number, or the rank is out of range.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    rank, size = whole_number("RANK", 0), whole_number("WORLD_SIZE", 1)
    if size > 1 and rank >= size:
        raise UserError(f"RANK={rank}: must be from 0 to {size - 1}, because WORLD_SIZE={size}")
    return (rank, size) if size > 1 else (0, 1)  # other programs set these variables too


def whole_number(name: str, default: int) -> int:
    """The value of an environment variable that holds a whole number."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name}={text}: this environment variable must be a whole number, as set by torchrun")
    return int(text)


def refuse_torchrun(what: str, reason: str) -> None:
    """Raise `UserError` if there are several processes."""
    if rank_and_size()[1] > 1:
        raise UserError(f"{what}: {reason}")


def print_once(text: str, word: str = "error") -> None:
    """Print an error that all processes find, in rank 0 only; a process that cannot read its rank prints it too."""
    try:
        rank, _ = rank_and_size()
    except UserError:
        rank = 0
    if rank == 0:
        print_error(text, word)
