"""Local differential privacy: every client clips and adds noise before anything leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.core.cohort import BLOCK, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Round
from fedsim.privacy.budget import Budget, make_budget
from fedsim.privacy.privacy import Accounted, Clipped

PARTICIPATIONS = "privacy.rounds"
"""The block of the client store that counts in how many rounds each client has sent something."""


@dataclass(frozen=True, kw_only=True)
class LocalDP(Clipped):
    """The Gaussian mechanism on each client: ``delta * min(1, S / |delta|) + N(0, (z S)^2)``.

    Whatever its data, a client's message hardly changes: neighbours are any two clients, whose deltas are at most 2S
    apart. The sampling of clients is not counted in its favour. ``epsilon`` is that of the client that took part in
    most rounds; `target_epsilon` is met by one that takes part in all of them. Nothing but the noisy delta may leave a
    client, so that rules, corrections and samplers which ask for more are refused.
    """

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.NOISE_ON_CLIENTS})

    def bind(self, bound: Bound) -> LocalDPInRun:
        """Find the noise, without the help of sampling."""
        budget = make_budget(self.noise_multiplier, self.target_epsilon, self.delta, bound.rounds, None)
        return LocalDPInRun(budget, bound.seed, self)

    def privatise(self, deltas: Tensor, clients: Tensor, key: int, budget: Budget) -> Tensor:
        """Clip and add noise, drawn by client and place.

        Args:
            deltas: ``[c, n]``.
            clients: ``[c]`` int64 client numbers.
            key: of the round's random stream.
            budget: says how much noise.
        """
        place = torch.arange(deltas.shape[1], device=deltas.device)
        sent = []
        for block, part in zip(deltas.split(BLOCK), clients.to(deltas.device).split(BLOCK), strict=True):
            rows = block.double()
            clipped = rows * (self.clip_norm / rows.norm(dim=1, keepdim=True).clamp(min=self.clip_norm))
            noise = seeding.normals(key, part[:, None], place)
            sent.append((clipped + budget.noise_multiplier * self.clip_norm * noise).to(deltas.dtype))
        return torch.cat(sent)


@dataclass(frozen=True)
class LocalDPInRun(Accounted):
    """Local differential privacy with its noise."""

    settings: LocalDP

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Privatise what clients send, and count that they sent it."""
        key = seeding.stream_key(self.seed, "local noise", round.number)
        for update in updates:
            rows = self.settings.privatise(update.rows, update.clients, key, self.budget)
            _count(round, update.clients)
            yield update._replace(rows=rows)

    def close(self, round: Round) -> None:
        """Count the clients that were cut off too: what they have sent spends privacy, used or not."""
        if round.cohort.late is not None:
            _count(round, round.cohort.late)

    def spent(self, round: Round) -> int:
        """The most participations of any client."""
        everybody = torch.arange(round.store.num_clients)
        return int(round.store.read(PARTICIPATIONS, everybody, _none(round, everybody)).max())


def _none(round: Round, clients: Tensor) -> Tensor:
    return round.state.row.new_zeros((len(clients), 1), dtype=torch.float64)


def _count(round: Round, clients: Tensor) -> None:
    """Clients ``[c]`` spend privacy once more."""
    before = round.store.read(PARTICIPATIONS, clients, _none(round, clients))
    round.store.write(PARTICIPATIONS, clients, before + 1)
