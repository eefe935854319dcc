"""Edge aggregation (HierFAVG, Liu 2020, Algorithm 1): clients meet at edge servers, and these in the cloud.

The cloud averages every k rounds. Client n belongs to edge ``n mod E``. Between two meetings the global model is the
mean that the cloud would have.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Schedule
from fedsim.errors import check_at_least


@dataclass(frozen=True, kw_only=True)
class Edges(Schedule):
    edges: int = 2
    every: int = 2

    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.READS_REPORT})

    def __post_init__(self):
        check_at_least(self, 1, "edges", "every")

    def start(self, row):
        return {"rows": row.repeat(self.edges, 1)}

    def open(self, round):
        rows = torch.zeros_like(round.drawer(self)["rows"], dtype=torch.float64)
        round.notes["schedule.sums"] = rows, torch.zeros(self.edges, dtype=torch.float64)

    def anchors(self, part, round):
        return round.drawer(self)["rows"][part.clients % self.edges]

    def pass_on(self, updates, round):
        sums, weights = round.notes["schedule.sums"]
        rows = round.drawer(self)["rows"]
        for update in updates:
            edge, samples = update.clients % self.edges, update.report.num_samples.double()
            sums.index_add_(0, edge, samples[:, None] * update.rows.double())
            weights.index_add_(0, edge, samples)
            yield update._replace(rows=update.rows + (rows[edge] - round.state.row))

    def close(self, round):
        sums, weights = round.division.add_up(round.notes["schedule.sums"])
        rows = round.drawer(self)["rows"]
        met = rows + (sums / weights.clamp(min=1)[:, None]).to(rows.dtype)
        together = round.state.row.repeat(self.edges, 1)
        round.drawer(self)["rows"] = together if round.number % self.every == 0 else met

    def add_bytes(self, traffic, clients, state, round_number):
        relayed = self.edges * state.row.nbytes if round_number % self.every == 0 else 0
        return traffic._replace(relayed_down=relayed, relayed_up=relayed)
