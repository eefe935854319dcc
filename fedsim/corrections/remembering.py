"""What corrections with a memory have in common: a row per client, and their mean over the population at the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsim.clients.report import Memory, Report
from fedsim.core.cohort import BLOCK, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction, Round
from fedsim.core.state import Drawer

OWN, MEAN = "correction.own", "mean"
"""The block of the client store with the clients' rows, and the server's row in the drawer."""


@dataclass(frozen=True)
class Remembering(Correction):
    """Every client keeps one row of the aggregated parameters, zero before it first takes part.

    The server keeps the mean of these rows over the whole population (clients that never took part count as zeros). It
    follows from the deltas that arrive, unless clients tell the server in rows of their own (the fact `TELLS`).

    `correct` finds them in ``step.memory``: ``own["own"]`` ``[A, P]`` and ``shared["mean"]`` ``[P]``, which are zero
    for private parameters.
    """

    facts: ClassVar[Facts] = frozenset({Fact.REMEMBERS, Fact.BENDS})
    held_rows: ClassVar[int] = 3

    def remember(self, own: Tensor, mean: Tensor, rows: Tensor, steps: Tensor, lr: float) -> Tensor:
        """Return what clients keep after local training.

        Args:
            own: ``[c, n]``, what they kept before.
            mean: ``[n]``, the server's.
            rows: ``[c, n]``, their deltas.
            steps: ``[c]`` int64, the local steps that they took.
            lr: the local learning rate of the round.
        """
        raise NotImplementedError

    def adjust(self, delta: Tensor, mean: Tensor) -> Tensor:
        """Return what the server optimizer gets, for the combined delta and the new mean, both ``[P]``."""
        return delta

    def start(self, row: Tensor) -> Drawer:
        """Zeros ``[P]``."""
        return {MEAN: torch.zeros_like(row)}

    def recall(self, clients: Tensor, round: Round) -> Memory:
        """What the clients kept, and the server's mean."""
        blocks, mean = round.federation.blocks, round.drawer(self)[MEAN]
        own = round.store.read(OWN, clients, mean.new_zeros(len(clients), blocks.size))
        return Memory({"own": blocks.scatter(own)}, {MEAN: mean})

    def keep(self, memory: Memory | None, rows: Tensor, report: Report, clients: Tensor, round: Round) -> None:
        """Store what the clients now remember."""
        assert memory is not None
        round.store.write(OWN, clients, self._next(memory, rows, report, round))

    def _next(self, memory: Memory, rows: Tensor, report: Report, round: Round) -> Tensor:
        cut = round.federation.blocks.cut
        lr = round.federation.task.lr(round.number)
        return self.remember(cut(memory.own["own"]), cut(memory.shared[MEAN]), rows, report.local_steps, lr)

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Add up by how much memories change, as far as the server can know, in float64."""
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
        """Move the mean by the changes over the number of all clients, and adjust the delta."""
        drawer, federation = round.drawer(self), round.federation
        change = federation.blocks.scatter(round.share.add_up(round.notes["correction.change"]))
        mean = (drawer[MEAN] + change / federation.population.num_clients).to(delta.dtype)
        drawer[MEAN] = mean
        return self.adjust(delta, mean)
