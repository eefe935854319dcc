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
from fedsim.core.state import State
from fedsim.privacy.budget import Budget, make_budget
from fedsim.privacy.guarantee import guarantee
from fedsim.privacy.participations import count, participations
from fedsim.privacy.privacy import Accounted, Clipped
from fedsim.samplers.sampler import REPLACE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LocalDP(Clipped):
    """The Gaussian mechanism on each client: ``delta * min(1, S / |delta|) + N(0, (z S)^2)``.

    Whatever its data, a client's message hardly changes: any two clients are neighbours, with deltas at most 2S apart.
    The accounting takes no credit for the sampling of clients. ``epsilon`` is that of the client that took part in the
    most rounds; `target_epsilon` is for a client that takes part in all of them. Nothing but the noisy delta may leave
    a client, so rules, corrections and samplers that ask for more are refused.
    """

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.NOISE_ON_CLIENTS, Fact.ACCOUNTED})

    def bind(self, bound: Bound) -> LocalDPInRun:
        """Work out the noise, without credit for the sampling of clients."""
        about = guarantee(bound, None, REPLACE, self.delta, self.noise_stream, fixed=True)
        budget = make_budget(self.noise_multiplier, self.target_epsilon, self.delta, bound.rounds, None, about.before)
        return LocalDPInRun(budget, about, bound.seed, self)

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
        """Privatise the clients' rows."""
        key = seeding.stream_key(self.seed, "local noise", round.number, *self.settings.stream)
        for update in updates:
            rows = self.settings.privatise(update.rows, update.clients, key, self.budget)
            yield update._replace(rows=rows)

    def close(self, round: Round) -> None:
        """Also count the clients that were cut off: what they have sent spends privacy, whether it is used or not."""
        super().close(round)
        if round.cohort.late is not None:
            count(round.cohort.late, round.state)

    def spent(self, state: State) -> int:
        """Return the largest number of participations of any client."""
        return int(participations(state).max())
