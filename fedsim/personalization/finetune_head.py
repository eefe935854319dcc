"""Fine-tuning of some blocks of the model, the others at rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.step import Step
from fedsim.clients.task import LocalTask
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Correction
from fedsim.core.setting import Setting
from fedsim.errors import FieldError, UserError, did_you_mean
from fedsim.personalization.finetune import FineTune
from fedsim.personalization.personalization import OwnModelsInRun

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Resting(Correction):
    """No gradient for any block but some.

    Attributes:
        blocks: the blocks that train.
    """

    blocks: tuple[str, ...]

    facts: ClassVar[Facts] = frozenset({Fact.BENDS})

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Take the gradient off the other blocks."""
        for name, place in step.layout.slices.items():
            if name.split(".")[0] not in self.blocks:
                gradient[:, place] = 0.0


@dataclass(frozen=True, kw_only=True)
class FineTuneHead(FineTune):
    """Every client fine-tunes the head alone before it is evaluated (FedRep's newcomers, Collins 2021, section 3).

    As `FineTune`, but with the rest of the model as the federation left it.

    Attributes:
        steps: local steps, with the optimizer and batch size of local training.
        blocks: the parameter blocks that are fine-tuned.
    """

    blocks: list[str] = field(default_factory=lambda: ["head"])

    option: ClassVar[str] = "finetune_head"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks:
            raise FieldError("blocks", self.blocks, "must name at least one block; personalize=none has none")

    def check(self, setting: Setting) -> None:
        """Refuse weight decay, which moves what has no gradient."""
        decay = getattr(setting.client.optimizer, "weight_decay", 0)
        if decay:
            raise UserError(
                f"client.optimizer.weight_decay={decay}: moves all parameters, and personalize=finetune_head leaves "
                "all but some where they are; set client.optimizer.weight_decay=0 or take personalize=finetune"
            )

    def bind(self, bound: Bound) -> OwnModelsInRun:
        """Bind the engine, after a look whether the model has these blocks."""
        known = bound.task.arch.layout.blocks
        for name in self.blocks:
            if name not in known:
                raise UserError(
                    f"personalize.blocks={self.blocks}: this model has {', '.join(known)}, not {name!r}"
                    + did_you_mean(name, known)
                )
        return super().bind(bound)

    def task(self, task: LocalTask) -> LocalTask:
        """Return a task of `steps` local steps of the blocks; the batches are those of ``personalize=finetune``."""
        return replace(super().task(task), correction=Resting(tuple(self.blocks)))
