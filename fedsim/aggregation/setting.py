"""What a combine rule may ask of a run, and is asked about it, before the run starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fedsim.clients.settings import ClientConfig
from fedsim.corrections.correction import Correction


@dataclass(frozen=True)
class Setting:
    """What surrounds a rule.

    Attributes:
        smallest: clients of the smallest cohort that is not empty.
        largest: clients of the largest cohort.
        client: how clients train.
        correction: what is added to their gradients.
    """

    smallest: int
    largest: int
    client: ClientConfig
    correction: Correction


@runtime_checkable
class Particular(Protocol):
    """A rule that does not go with every run. Rules without this method go with all."""

    def check(self, setting: Setting) -> None:
        """Raise `UserError`, naming the key, if the rule cannot work or has an option without effect."""
        ...
