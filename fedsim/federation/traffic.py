"""The books of what clients and server send each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.core.part import Part, Round
from fedsim.core.results import Metrics
from fedsim.core.state import Drawer, State
from fedsim.metrics import COLUMNS, Column

DOWN, UP = "down", "up"
"""Entries of the drawer: bytes so far."""


@dataclass(frozen=True)
class Books(Part):
    """Bytes sent so far, as the other parts have them."""

    group: ClassVar[str] = "traffic"
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["bytes_down"], COLUMNS["bytes_up"])

    def start(self, row: Tensor) -> Drawer:
        """Nothing is sent yet."""
        return {DOWN: torch.zeros((), dtype=torch.int64), UP: torch.zeros((), dtype=torch.int64)}

    def close(self, round: Round) -> None:
        """Enter a round: all who were informed have received and begun, and those who arrived have sent their rows."""
        cohort, drawer = round.cohort, round.drawer(self)
        traffic = round.federation.traffic(round.state, cohort.informed, round.number)
        senders = len(cohort.clients)
        up = senders * traffic.up + (len(cohort.informed) - senders) * traffic.before
        drawer[UP] = drawer[UP] + up + cohort.late_bytes + traffic.relayed_up
        drawer[DOWN] = drawer[DOWN] + traffic.down.sum() + traffic.relayed_down

    def measure(self, round: Round) -> Metrics:
        """The totals."""
        return self._totals(round.state)

    def summary(self, state: State) -> dict[str, Any]:
        """The totals."""
        return {**self._totals(state)}

    def _totals(self, state: State) -> Metrics:
        drawer = state.drawers[self.group]
        return {"bytes_down": int(drawer[DOWN]), "bytes_up": int(drawer[UP])}
