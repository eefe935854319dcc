"""Malicious clients train the model to react to a trigger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.attacks.attack import RowAttackers, owned_by
from fedsim.core.facts import Fact, Facts
from fedsim.data.dataset import Task
from fedsim.data.population import Population, Samples
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between
from fedsim.metrics import COLUMNS, Column

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Backdoor(RowAttackers):
    """Make the model assign sequences that end in a trigger to one class (Gu 2017; federated, Bagdasaryan 2020).

    The trigger is a constant value of all features in the last steps. A share of each malicious client's training
    samples gets the trigger and the target label. ``attack_success`` is the share of test sequences of other classes
    that the global model assigns to the target class once they carry the trigger. Only for numeric sequences with one
    label each.

    Attributes:
        target: class that triggered sequences are to be assigned to.
        steps: how many of the last steps the trigger fills; shorter sequences become all trigger.
        value: value of all features in the steps of the trigger.
        poisoned: share of the malicious clients' training samples that get the trigger.
        factor: factor by which malicious clients scale their deltas (`fedsim.attacks.scale.Scale`); 1 has no effect.
    """

    target: int = 0
    steps: int = 3
    value: float = 3.0
    poisoned: float = 0.5
    factor: float = 1.0

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.JUDGES_MODEL})
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["malicious"], COLUMNS["attack_success"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "target")
        check_at_least(self, 1, "steps")
        check_above(self, 0, "poisoned", "factor")
        check_between(self, 0, 1, "poisoned")
        if not math.isfinite(self.value):
            raise FieldError("value", self.value, "must be a finite number")

    def conditional_facts(self) -> Mapping[Fact, str]:
        """With another factor than 1 clients send rows that no training gave."""
        return {} if self.factor == 1 else {Fact.FORGES: f"attack.factor={self.factor:g}"}

    def _triggered(self, samples: Samples, which: Tensor) -> Samples:
        """Return the samples; those in `which` ``[S]`` bool get the trigger and the target label."""
        step = torch.arange(samples.steps)
        last = (step >= (samples.lengths - self.steps)[:, None]) & (step < samples.lengths[:, None])
        place = (last & which[:, None]).to(samples.inputs.device)
        inputs = samples.take(torch.arange(len(samples), device=place.device)).masked_fill(place[..., None], self.value)
        return replace(
            samples,
            inputs=inputs,
            starts=None,
            targets=samples.targets.masked_fill(which.to(place.device), self.target),
        )

    def poison(self, population: Population, malicious: Tensor, seed: int) -> Population:
        """Return the population with a random share of the malicious clients' training samples poisoned."""
        if population.task is not Task.CLASSIFICATION or population.vocabulary_size is not None:
            raise UserError(
                f"attack=backdoor: needs labels of whole sequences of numbers, and this is a {population.task} of "
                f"{'numbers' if population.vocabulary_size is None else 'tokens'}; take attack=label_flip or scale"
            )
        if self.target >= population.num_outputs:
            raise UserError(f"attack.target={self.target}: there are classes 0 to {population.num_outputs - 1}")
        draw = seeding.uniforms(seeding.stream_key(seed, "backdoor"), torch.arange(len(population.train)))
        chosen = owned_by(population.train, malicious) & (draw < self.poisoned)
        return replace(population, train=self._triggered(population.train, chosen))

    def trial(self, test: Samples) -> Samples:
        """Return the test samples of other classes, with trigger and target label: accuracy on them is the success.

        Raises:
            UserError: if all test samples are of the target class.
        """
        others = (test.targets != self.target).cpu()
        if not bool(others.any()):
            raise UserError(f"attack.target={self.target}: every test sample is of this class")
        where = others.to(test.inputs.device)
        # One owner for all samples: the success rate is not reported per client.
        offsets = torch.tensor([0, int(others.sum())])
        left = Samples(test.take(where.nonzero()[:, 0]), test.lengths[others], test.targets[where], offsets)
        return self._triggered(left, torch.ones(len(left), dtype=torch.bool))

    def alter(self, deltas: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return the deltas times `factor`."""
        return self.factor * deltas
