"""Counts the bytes that clients and server send each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fedsim.core.part import Part, Round
from fedsim.core.results import Metrics
from fedsim.core.state import Drawer, State
from fedsim.metrics import COLUMNS, Column

if TYPE_CHECKING:
    from torch import Tensor

DOWN, UP = "down", "up"
"""Entries of the drawer: bytes sent so far."""


@dataclass(frozen=True)
class Books(Part):
    """Adds up the bytes sent so far, as the other parts count them."""

    group: ClassVar[str] = "traffic"
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["bytes_down"], COLUMNS["bytes_up"])

    def start(self, row: Tensor) -> Drawer:
        """Return both totals at zero."""
        return {DOWN: torch.zeros((), dtype=torch.int64), UP: torch.zeros((), dtype=torch.int64)}

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Accept totals that can still be added to."""
        return super().accepts(drawer, fresh) and all(0 <= int(total) < 2**62 for total in drawer.values())

    def close(self, round: Round) -> None:
        """Add a round: all informed clients have received a model, and those that arrived have sent their rows."""
        cohort, drawer = round.cohort, round.drawer(self)
        traffic = round.federation.traffic(round.state, cohort.informed, round.number)
        senders = len(cohort.clients)
        up = senders * traffic.up + (len(cohort.informed) - senders) * traffic.before
        drawer[UP] = drawer[UP] + up + cohort.late_bytes + traffic.relayed_up
        drawer[DOWN] = drawer[DOWN] + traffic.down.sum() + traffic.relayed_down

    def measure(self, round: Round) -> Metrics:
        """Return the totals after the round."""
        return self._totals(round.state)

    def summary(self, state: State) -> dict[str, Any]:
        """Return the totals of the run so far."""
        return {**self._totals(state)}

    def _totals(self, state: State) -> Metrics:
        drawer = state.drawers[self.group]
        return {"bytes_down": int(drawer[DOWN]), "bytes_up": int(drawer[UP])}
