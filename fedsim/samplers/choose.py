"""Choosing a cohort, with losses for the samplers that ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.clients.measures import training_loss
from fedsim.core.part import Federation
from fedsim.core.state import State
from fedsim.parallel.division import divide

if TYPE_CHECKING:
    from torch import Tensor


def choose_cohort(federation: Federation, state: State, round_number: int) -> tuple[Tensor, Tensor]:
    """Return the clients ``[C]`` of a round, and all clients ``[k]`` that are sent a model, candidates included."""
    task, trainer = federation.attack.workers(federation.task, federation.trainer, round_number)
    sizes, size = federation.population.train.sizes, federation.chunk_size
    asked: list[Tensor] = []

    def losses(clients: Tensor) -> Tensor:
        asked.append(clients)
        division = divide(federation.world, sizes[clients])
        own = division.of(clients)
        parts = own.split(size) if len(own) > 0 else ()
        found = [training_loss(task, trainer, federation.local_models(state, part), part) for part in parts]
        return division.whole({"loss": torch.cat(found)} if found else {})["loss"]

    cohort = federation.bound.sampler.cohort(sizes, round_number, federation.bound.seed, losses)
    return cohort, torch.cat([cohort, *asked]).unique()
