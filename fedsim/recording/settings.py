"""Settings of the recording parts."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.errors import check_at_least, check_one_of


@dataclass(frozen=True)
class Checkpoint:
    """When the whole state of a run is saved.

    Attributes:
        every: rounds between checkpoints; the last round always has one, and so has the best (which is held in memory
            until the next checkpoint). None: no checkpoints at all.
    """

    every: int | None = 10

    def __post_init__(self) -> None:
        check_at_least(self, 1, "every")


@dataclass(frozen=True)
class Console:
    """What a run shows.

    Attributes:
        mode: ``rich`` (a live table), ``plain`` (a line per round), ``none``, or ``auto``: rich on a terminal.
    """

    mode: str = "auto"

    def __post_init__(self) -> None:
        check_one_of(self, "mode", ("auto", "rich", "plain", "none"))
