"""Malicious clients train on wrong labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from fedsim.attacks.attack import DataAttackers, owned_by
from fedsim.data.dataset import IGNORE, Task
from fedsim.data.population import Population, Samples
from fedsim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LabelFlip(DataAttackers):
    """Every label y of K becomes ``K - 1 - y`` (Tolpegin 2020; this map as in Fang 2020, section 5.1).

    It changes training and validation labels of the malicious clients, per sequence or per step, but no test labels.
    """

    def poison(self, population: Population, malicious: Tensor, seed: int) -> Population:
        """Return the population with the labels of malicious clients flipped."""
        if population.task is Task.REGRESSION:
            raise UserError("attack=label_flip: a regression has no labels; take another attack")

        def flip(samples: Samples) -> Samples:
            targets = samples.targets.clone()
            own = owned_by(samples, malicious).to(targets.device)
            labels = targets[own]
            targets[own] = torch.where(labels == IGNORE, IGNORE, population.num_outputs - 1 - labels)
            return replace(samples, targets=targets)

        validation = None if population.local_validation is None else flip(population.local_validation)
        return replace(population, train=flip(population.train), local_validation=validation)
