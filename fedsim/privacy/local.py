"""Local differential privacy: every client clips its delta and adds noise before sending anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.core.cohort import BLOCK, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Round
from fedsim.privacy.budget import Budget, make_budget
from fedsim.privacy.privacy import Accounted, Clipped

if TYPE_CHECKING:
    from torch import Tensor

PARTICIPATIONS = "privacy.rounds"
"""The block of the client store that counts the rounds in which each client has sent something."""


@dataclass(frozen=True, kw_only=True)
class LocalDP(Clipped):
    """The Gaussian mechanism on each client: ``delta * min(1, S / |delta|) + N(0, (z S)^2)``.

    Whatever its data, a client's message hardly changes: any two clients are neighbours, with deltas at most 2S apart.
    The accounting takes no credit for the sampling of clients. ``epsilon`` is that of the client that took part in the
    most rounds; `target_epsilon` is for a client that takes part in all of them. Nothing but the noisy delta may leave
    a client, so rules, corrections and samplers that ask for more are refused.
    """

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.NOISE_ON_CLIENTS})

    def bind(self, bound: Bound) -> LocalDPInRun:
        """Work out the noise, without credit for the sampling of clients."""
        budget = make_budget(self.noise_multiplier, self.target_epsilon, self.delta, bound.rounds, None)
        return LocalDPInRun(budget, bound.seed, self)

    def privatise(self, deltas: Tensor, clients: Tensor, key: int, budget: Budget) -> Tensor:
        """Return the deltas ``[c, n]``, clipped and with noise keyed by round, client and parameter.

        Args:
            deltas: ``[c, n]``, the honest deltas.
            clients: ``[c]`` int64 client numbers.
            key: key of the round's random stream.
            budget: the privacy budget, with the noise multiplier.
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
    """Local differential privacy, bound to a run."""

    settings: LocalDP

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Privatise the clients' rows, and count the participation of each client."""
        key = seeding.stream_key(self.seed, "local noise", round.number)
        for update in updates:
            rows = self.settings.privatise(update.rows, update.clients, key, self.budget)
            _count(round, update.clients)
            yield update._replace(rows=rows)

    def close(self, round: Round) -> None:
        """Also count the clients that were cut off: what they have sent spends privacy, whether it is used or not."""
        if round.cohort.late is not None:
            _count(round, round.cohort.late)

    def spent(self, round: Round) -> int:
        """Return the largest number of participations of any client."""
        clients = torch.arange(round.store.num_clients)
        return int(round.store.read(PARTICIPATIONS, clients, _no_participations(round, clients)).max())


def _no_participations(round: Round, clients: Tensor) -> Tensor:
    return round.state.row.new_zeros((len(clients), 1), dtype=torch.float64)


def _count(round: Round, clients: Tensor) -> None:
    """Count one more participation of clients ``[c]``."""
    before = round.store.read(PARTICIPATIONS, clients, _no_participations(round, clients))
    round.store.write(PARTICIPATIONS, clients, before + 1)
