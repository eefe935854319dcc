"""The state of a run: what changes from round to round and is therefore saved in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from fedsim.client_store import ClientStore
from fedsim.core.stopping import Progress

if TYPE_CHECKING:
    from torch import Tensor

Drawer: TypeAlias = "dict[str, Tensor]"
"""What one part keeps between rounds, by name."""


@dataclass
class State:
    """Everything that changes from round to round; a checkpoint saves all of it.

    Attributes:
        row: the global model ``[P]``.
        store: rows kept per client, in blocks with names such as ``<part>.<name>``.
        progress: best value so far and early stopping.
        round: the number of rounds completed.
        drawers: what each part keeps, by its group (`fedsim.core.part.Part.group`).
    """

    row: Tensor
    store: ClientStore
    progress: Progress
    round: int = 0
    drawers: dict[str, Drawer] = field(default_factory=dict)
