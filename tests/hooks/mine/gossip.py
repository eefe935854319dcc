"""Gossip on a ring (D-PSGD, Lian 2017, Algorithm 1): no server; ``rows = W (rows + deltas)`` with thirds for W.

The cohort stands in a ring, by client number. The global model of the records is the mean of all rows, which a doubly
stochastic W leaves as it is, so that `aggregator=mean` only watches.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Schedule
from fedsim.evaluation.evaluate import evaluate_own
from fedsim.metrics import COLUMNS, Column

KEPT = "schedule.rows"


@dataclass(frozen=True)
class Gossip(Schedule):
    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS})
    columns: ClassVar[tuple[Column, ...]] = tuple(
        COLUMNS[f"personal_{name}"] for name in ("loss", "accuracy", "accuracy_p10", "accuracy_std")
    )

    def rows(self, state, clients):
        return state.store.read(KEPT, clients, state.row.expand(len(clients), -1))

    def anchors(self, part, round):
        return self.rows(round.state, part.clients)

    def pass_on(self, updates, round):
        with round.division.together():
            held = list(updates)
        local = [self.rows(round.state, update.clients) + update.rows for update in held]
        rows = round.division.whole({"rows": torch.cat(local)} if held else {})["rows"]
        mixed = round.division.of((rows.roll(1, 0) + rows + rows.roll(-1, 0)) / 3)
        first = 0
        for update in held:
            own = mixed[first : first + len(update.rows)]
            first += len(own)
            round.store.write(KEPT, update.clients, own)
            yield update._replace(rows=own - round.state.row)

    def examine(self, federation, state):
        def models(clients):
            return self.rows(state, clients)

        size, world = federation.chunk_size, federation.world
        return evaluate_own(federation.trainer, models, federation.population, size, "personal", world)

    def add_bytes(self, traffic, clients, state, round_number):
        return traffic._replace(down=2 * traffic.down, row=2 * traffic.row)  # two neighbours
