"""What a correction notes about each client between two local steps of the same round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.clients.report import Memory
from fedsim.clients.step import Step

if TYPE_CHECKING:
    from torch import Tensor

_PLACE = "place"


def notebook(clients: Tensor, **notes: Tensor) -> Memory:
    """Return a memory whose tensors ``[c, ...]`` `correct` may change, for `clients` ``[c]``.

    An engine works on the clients in an order of its own, and copies what belongs to single clients into it. `notes`
    stay where they are, and `whose` says which of their rows belong to the clients of a step.
    """
    return Memory({_PLACE: torch.arange(len(clients))}, notes)


def whose(step: Step) -> Tensor:
    """``[A]`` int64, the rows of the notes that belong to the clients of a step."""
    assert step.memory is not None
    return step.memory.own[_PLACE]
