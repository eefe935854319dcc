"""What corrections with a memory have in common: a row per client, and the mean of these rows at the server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.clients.report import Memory, Report
from fedsim.core.cohort import BLOCK, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction, Round
from fedsim.core.state import Drawer

if TYPE_CHECKING:
    from torch import Tensor

OWN, MEAN = "correction.own", "mean"
"""The block of the client store that holds the clients' rows, and the drawer entry of the server's row."""


@dataclass(frozen=True)
class Remembering(Correction, ABC):
    """Every client keeps one row of the aggregated parameters, zero before it first takes part.

    The server keeps the mean of these rows over the whole population (clients that never took part count as zeros). It
    works out their changes from the deltas that arrive, unless clients send it rows about them (the fact `TELLS`).

    `correct` finds both in ``step.memory``: ``own["own"]`` ``[A, P]`` and ``shared["mean"]`` ``[P]``, which are zero
    for private parameters.
    """

    facts: ClassVar[Facts] = frozenset({Fact.REMEMBERS, Fact.BENDS})
    held_rows: ClassVar[int] = 3

    @abstractmethod
    def remember(self, own: Tensor, mean: Tensor, rows: Tensor, steps: Tensor, lr: float) -> Tensor:
        """Return the rows ``[c, n]`` that clients keep after local training.

        Args:
            own: ``[c, n]``, the rows that they kept before.
            mean: ``[n]``, the server's mean of all clients' rows.
            rows: ``[c, n]``, their deltas.
            steps: ``[c]`` int64, the local steps that they took.
            lr: the local learning rate of the round.
        """

    def adjust(self, delta: Tensor, mean: Tensor) -> Tensor:
        """Return the delta for the server optimizer, given the combined delta and the new mean, all of them ``[P]``."""
        return delta

    def start(self, row: Tensor) -> Drawer:
        """Return a mean ``[P]`` of zeros."""
        return {MEAN: torch.zeros_like(row)}

    def recall(self, clients: Tensor, round: Round) -> Memory:
        """Return the rows that the clients kept, and the server's mean."""
        blocks, mean = round.federation.blocks, round.drawer(self)[MEAN]
        own = round.store.read(OWN, clients, mean.new_zeros(len(clients), blocks.size))
        return Memory({"own": blocks.scatter(own)}, {MEAN: mean})

    def keep(self, memory: Memory | None, rows: Tensor, report: Report, clients: Tensor, round: Round) -> None:
        """Store the rows that the clients keep after this round."""
        assert memory is not None
        round.store.write(OWN, clients, self._next(memory, rows, report, round))

    def _next(self, memory: Memory, rows: Tensor, report: Report, round: Round) -> Tensor:
        cut = round.federation.blocks.cut
        lr = round.federation.task.lr(round.number)
        return self.remember(cut(memory.own["own"]), cut(memory.shared[MEAN]), rows, report.local_steps, lr)

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Sum the changes of the clients' rows in float64, as the server works them out from the updates."""
        cut = round.federation.blocks.cut
        change = round.notes["correction.change"] = cut(torch.zeros_like(round.state.row, dtype=torch.float64))
        for update in updates:
            assert update.memory is not None
            old = cut(update.memory.own["own"])
            new = self._next(update.memory, update.rows, update.report, round)
            for after, before in zip(new.split(BLOCK), old.split(BLOCK), strict=True):
                change += (after.double() - before.double()).sum(0)
            yield update

    def settle(self, delta: Tensor, round: Round) -> Tensor:
        """Move the mean by the summed changes over the number of all clients, then return the adjusted delta."""
        drawer, federation = round.drawer(self), round.federation
        change = federation.blocks.scatter(round.division.add_up(round.notes["correction.change"]))
        mean = (drawer[MEAN] + change / federation.population.num_clients).to(delta.dtype)
        drawer[MEAN] = mean
        return self.adjust(delta, mean)
