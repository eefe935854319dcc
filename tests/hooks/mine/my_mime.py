"""Mime (Karimireddy 2021, "Breaking the centralized barrier for cross-device federated learning", Algorithm 1).

The server keeps a momentum ``m``, which clients use and do not change. With the full gradients of the cohort at the
server's model x, ``c = mean(grad f_i(x))``, a local step follows ``(1 - beta) * (g(y) - g(x) + c) + beta * m``;
afterwards ``m`` becomes ``(1 - beta) * c + beta * m``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedsim.clients.report import Memory
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction
from fedsim.errors import check_between


@dataclass(frozen=True, kw_only=True)
class MyMime(Correction):
    beta: float = 0.9

    facts: ClassVar[Facts] = frozenset({Fact.REMEMBERS, Fact.BENDS})
    gradients: ClassVar[int] = 2

    def __post_init__(self):
        check_between(self, 0, 1, "beta", open_high=True)

    def start(self, row):
        return {"momentum": torch.zeros_like(row)}

    def open(self, round):
        total = torch.zeros_like(round.state.row, dtype=torch.float64)
        for part in round.own.chunks(round.federation.chunk_size):
            anchors = round.federation.schedule.anchors(part, round)
            total += round.trainer.full_gradients(anchors, part.clients).double().sum(0)
        mean = round.division.add_up(total) / max(1, len(round.cohort.clients))
        round.notes["correction.gradient"] = mean.to(round.state.row.dtype)

    def recall(self, clients, round):
        shared = {"gradient": round.notes["correction.gradient"], "momentum": round.drawer(self)["momentum"]}
        return Memory({}, shared)

    def correct(self, gradient, step):
        shared = step.memory.shared
        gradient.sub_(step.at(step.anchors)).add_(shared["gradient"])
        gradient.mul_(1 - self.beta).add_(shared["momentum"], alpha=self.beta)

    def settle(self, delta, round):
        drawer, gradient = round.drawer(self), round.notes["correction.gradient"]
        drawer["momentum"] = (1 - self.beta) * gradient + self.beta * drawer["momentum"]
        return delta

    def add_bytes(self, traffic, clients, state, round_number):
        row = state.row.nbytes  # c and m down, a full gradient up
        return traffic._replace(down=traffic.down + 2 * row, after=traffic.after + row)
