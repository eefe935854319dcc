"""Fine-tuning: a few local steps from the global model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedsim.client_store import ClientStore
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Fact, Facts
from fedsim.corrections.none import NoCorrection
from fedsim.errors import check_at_least
from fedsim.personalization.personalization import OwnModels

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FineTune(OwnModels):
    """Every client takes a few local steps from the global model before it is evaluated (Wang 2019, section 3).

    Nothing is kept: training continues from the global model, and fine-tuning always starts with a fresh optimizer.

    Attributes:
        steps: local steps, with the optimizer and batch size of local training.
    """

    steps: int = 5

    option: ClassVar[str] = "finetune"
    facts: ClassVar[Facts] = frozenset({Fact.PERSONAL})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps")

    def task(self, task: LocalTask) -> LocalTask:
        """Return a task of `steps` plain local steps, whose batch order has its own random stream."""
        config = replace(task.config, epochs=None, steps=self.steps, keep_optimizer_state=False)
        return replace(task, config=config, correction=NoCorrection(), stream="finetune")

    def rows(self, trainer: Trainer, anchors: Tensor, clients: Tensor, round_number: int, store: ClientStore) -> Tensor:
        """Return the fine-tuned models; in round 0 they get the batches of round 1."""
        deltas, _ = trainer.train(anchors, clients, max(round_number, 1), ClientStore(store.num_clients))
        return anchors + deltas
