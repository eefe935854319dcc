"""FedRep (Collins 2021, Algorithm 1): first the private head, with the representation at rest, then that alone."""

from dataclasses import dataclass
from typing import ClassVar

from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction
from fedsim.errors import UserError, check_at_least


@dataclass(frozen=True, kw_only=True)
class MyFedRep(Correction):
    head_steps: int = 1

    option: ClassVar[str] = "my_fedrep"
    facts: ClassVar[Facts] = frozenset({Fact.BENDS})

    def __post_init__(self):
        check_at_least(self, 1, "head_steps")

    def check(self, setting):
        if Fact.PRIVATE_BLOCKS not in setting.facts:
            raise UserError("aggregator/correction=my_fedrep: needs a private head; set aggregator.blocks=[recurrent]")

    def correct(self, gradient, step):
        resting = step.blocks.shared if step.number < self.head_steps else step.blocks.private
        gradient[:, resting] = 0
