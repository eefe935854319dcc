"""``sampler=availability``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.core.facts import Fact, Facts
from fedsim.errors import check_above, check_between
from fedsim.samplers.sampler import Losses, Sized

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Availability(Sized):
    """Clients go online and offline, and a round draws from those that are online; there may be none.

    Each client is an independent Markov chain (as in Rodio 2023, "Federated learning under heterogeneous and correlated
    client availability") with one probability per round of going online, and another of going offline. Round 1 has the
    chain's stationary distribution, so that an expected share of ``turn_on / (turn_on + turn_off)`` is online in any
    round.

    Attributes:
        fraction: share of the online clients that is drawn, at least one client; exclusive with `cohort_size`.
        cohort_size: clients per round, or all that are online if they are fewer.
        turn_on: probability that an offline client is online in the next round.
        turn_off: probability that an online client is offline in the next round.
    """

    facts: ClassVar[Facts] = frozenset({Fact.GOES_BY_ROUNDS})

    fraction: float | None = 1.0
    turn_on: float = 0.1
    turn_off: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "turn_on", "turn_off")
        check_between(self, 0, 1, "turn_on", "turn_off")

    def limits(self, num_clients: int) -> tuple[int, int]:
        """Return 0, since all clients may be offline, and the largest cohort."""
        return 0, self.size(num_clients)

    def on(self, num_clients: int, round_number: int, seed: int) -> Tensor:
        """Return which clients are online in a round, ``[N]`` bool.

        One uniform number u per client and round decides: an offline client goes online if ``u < turn_on``, an online
        one stays online if ``u < 1 - turn_off``. Unless u lies between the two, the state does not depend on the one
        before. So we look back, round by round, for the last u that decides; for most clients this takes a few rounds.
        """
        low, high = sorted((self.turn_on, 1 - self.turn_off))
        swaps = self.turn_on > 1 - self.turn_off  # what a u between the two does: swap the state, or keep it
        on = torch.zeros(num_clients, dtype=torch.bool)
        turned = torch.zeros(num_clients, dtype=torch.bool)
        open_clients = torch.arange(num_clients)
        for earlier in range(round_number, 0, -1):
            u = seeding.uniforms(seeding.stream_key(seed, "availability", earlier), open_clients)
            if earlier == 1:
                low = high = self.turn_on / (self.turn_on + self.turn_off)
            decided = (u < low) | (u >= high)
            on[open_clients[decided]] = (u < low)[decided]
            open_clients = open_clients[~decided]
            turned[open_clients] ^= swaps
            if len(open_clients) == 0:
                break
        return on ^ turned

    def cohort(self, samples: Tensor, round_number: int, seed: int, losses: Losses) -> Tensor:
        """Return the clients ``[C]`` drawn from those that are online."""
        on = self.on(len(samples), round_number, seed).nonzero()[:, 0]
        size = min(self.size(len(on)), len(on))
        if size == len(on):
            return on
        rng = seeding.generator(seed, "cohort", round_number)
        return on[torch.from_numpy(rng.choice(len(on), size, replace=False)).sort().values]
