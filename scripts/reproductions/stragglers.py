"""Clients that have time for a part of their epochs, as in the experiments of FedProx: a system of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fedsim import seeding
from fedsim.core.cohort import Cohort
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Federation, System
from fedsim.core.setting import Setting
from fedsim.core.state import State
from fedsim.errors import UserError, check_between, check_one_of
from fedsim.samplers.choose import choose_cohort


@dataclass(frozen=True, kw_only=True)
class Stragglers(System):
    """Of the clients of each round a share straggles: it does 1 to E - 1 epochs, drawn anew (Li et al. 2020, 5.2).

    Who straggles, and for how long, depends on the seed and the round only, so that runs with the same seed have the
    same stragglers, as in the paper.

    Attributes:
        share: of the cohort, rounded to whole clients.
        late: ``drop`` leaves stragglers out (FedAvg), ``partial`` takes their partial work (FedProx).
    """

    share: float = 0.9
    late: str = "drop"

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES})

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        check_between(self, 0, 1, "share", open_high=True)
        check_one_of(self, "late", ("drop", "partial"))

    def conditional_facts(self) -> Mapping[Fact, str]:
        """That partial work is less than all local steps."""
        return {Fact.SHORTENS: "system.late=partial"} if self.late == "partial" else {}

    def check_clients(self, setting: Setting) -> None:
        """Refuse shares that leave no client, where stragglers are dropped."""
        if self.late == "drop" and setting.sampled[1] == round(setting.sampled[1] * self.share):
            raise UserError(f"system.share={self.share:g}: leaves none of {setting.sampled[1]} client(s)")

    def cohort_sizes(self, smallest: int, largest: int) -> tuple[int, int]:
        """Return the numbers without stragglers, where these are dropped."""
        if self.late == "partial":
            return smallest, largest
        return smallest - round(smallest * self.share), largest - round(largest * self.share)

    def cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Draw the stragglers of the sampler's cohort and leave them out or cut their steps."""
        clients, informed = choose_cohort(federation, state, round_number)
        steps = federation.task.steps(clients)
        rng = np.random.default_rng(abs(seeding.stream_key(federation.task.seed, "stragglers", round_number)))
        late = torch.zeros(len(clients), dtype=torch.bool)
        late[rng.permutation(len(clients))[: round(len(clients) * self.share)].tolist()] = True
        epochs = federation.task.config.epochs or 1
        done = torch.from_numpy(rng.integers(1, max(epochs, 2), len(clients)))
        if self.late == "drop":
            return Cohort(clients[~late], steps[~late], informed, dropped=int(late.sum()))
        return Cohort(clients, torch.where(late, steps // epochs * done, steps), informed)
