"""APFL (Deng 2020, Algorithm 1, with a fixed weight): a model of the client's own, mixed with the global one.

Client i uses ``v = a * own + (1 - a) * w`` and trains its own part by ``own <- own - lr * a * grad f_i(v)``.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction
from fedsim.errors import check_between
from fedsim.personalization.personalization import OwnModels

KEPT = "personalize.own"


@dataclass(frozen=True, kw_only=True)
class Mixed(Correction):
    weight: float

    def correct(self, gradient, step):
        mixture = self.weight * step.rows + (1 - self.weight) * step.anchors
        gradient.copy_(self.weight * step.at(mixture))


@dataclass(frozen=True, kw_only=True)
class MyAPFL(OwnModels):
    weight: float = 0.5

    facts: ClassVar[Facts] = frozenset({Fact.PERSONAL, Fact.SECOND_MODEL})
    gradients: ClassVar[int] = 2

    def __post_init__(self):
        check_between(self, 0, 1, "weight")

    def task(self, task):
        config = replace(task.config, keep_optimizer_state=False)
        return replace(task, config=config, correction=Mixed(weight=self.weight), stream="my_apfl")

    def train_own(self, trainer, anchors, clients, round_number, store):
        start = store.read(KEPT, clients, anchors.expand(len(clients), -1))
        deltas, _ = trainer.train(anchors, clients, round_number, store, start=start)
        store.write(KEPT, clients, start + deltas)

    def rows(self, trainer, anchors, clients, round_number, store):
        return self.weight * store.read(KEPT, clients, anchors) + (1 - self.weight) * anchors
