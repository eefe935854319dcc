"""FedRep and FedBABU: which block of the model trains when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.clients.step import Step
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction
from fedsim.core.setting import Setting
from fedsim.corrections.plain_steps import check_plain_steps
from fedsim.errors import UserError, check_above, check_between

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FedRep(Correction):
    """FedRep (Collins 2021, Algorithm 1): first the private head, with the representation at rest, then that alone.

    A client with K local steps takes the first ``round(private_share * K)`` of them in its private blocks and the
    others in the shared ones, so that its head fits the representation that it was sent before that learns from the
    head. The paper writes a number of steps for the head and one for the representation; its experiments have ten
    epochs and one.

    Attributes:
        private_share: share of a client's local steps that train its private blocks.
    """

    private_share: float = 0.5

    option: ClassVar[str] = "fedrep"
    facts: ClassVar[Facts] = frozenset({Fact.BENDS})

    def __post_init__(self) -> None:
        check_above(self, 0, "private_share")
        check_between(self, 0, 1, "private_share", open_high=True)

    def check(self, setting: Setting) -> None:
        """Refuse runs without private blocks, and optimizers that move what has no gradient."""
        _check_private(setting, "fedrep")
        check_plain_steps(setting, "fedrep", "which leave a block at rest where it is", clips=True)

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Take the gradient off the blocks that are at rest in this step."""
        private = _where_private(step, gradient)
        first = step.number < (self.private_share * step.total.double()).round()
        resting = private != first.to(gradient.device)[:, None]  # shared ones first, private ones then
        gradient.masked_fill_(resting, 0.0)


@dataclass(frozen=True)
class FedBABU(Correction):
    """FedBABU (Oh 2022, Algorithm 1): the head stays as it was drawn, the same for all, until the federation is over.

    Clients train and send the shared blocks alone; private blocks never change. A client's model is made by
    fine-tuning at each evaluation (``personalize=finetune``, or ``finetune_head`` for the head alone).
    """

    option: ClassVar[str] = "fedbabu"
    facts: ClassVar[Facts] = frozenset({Fact.BENDS})

    def check(self, setting: Setting) -> None:
        """Refuse runs without private blocks, and weight decay, which moves what has no gradient."""
        _check_private(setting, "fedbabu")
        decay = getattr(setting.client.optimizer, "weight_decay", 0)
        if decay:
            raise UserError(
                f"client.optimizer.weight_decay={decay}: shrinks the head, which aggregator/correction=fedbabu leaves "
                "as it was drawn; set client.optimizer.weight_decay=0"
            )

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Take the gradient off the private blocks."""
        gradient.masked_fill_(_where_private(step, gradient), 0.0)


def _check_private(setting: Setting, option: str) -> None:
    if Fact.PRIVATE_BLOCKS not in setting.facts:
        raise UserError(
            f"aggregator/correction={option}: trains the blocks that stay with each client and those that are "
            "aggregated at different times, and here all are aggregated; set aggregator.blocks=[-head]"
        )


def _where_private(step: Step, like: Tensor) -> Tensor:
    """``[P]`` bool, the parameters that stay with each client."""
    private = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
    if step.blocks.private is not None:
        private[step.blocks.private] = True
    return private
