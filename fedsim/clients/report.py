"""What clients report to the server along with their deltas, and what a correction recalls for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Report:
    """What clients report along with their deltas: one entry per client of the cohort, in cohort order.

    Attributes:
        num_samples: ``[C]`` int64 training samples.
        local_steps: ``[C]`` int64 optimizer steps taken.
        train_loss: ``[C]`` float64, sample-weighted mean of the minibatch losses.
        validation_loss: ``[C]`` float64 loss of the local model on the client's own validation split, or None.
        validation_accuracy: ``[C]`` float64, or None (also for regression).
        start_loss: ``[C]`` float64 mean loss, on the client's training samples, of the model it starts from, or None.
        lr: ``[C]`` float64 local learning rate of the round, or None.
        coefficient_norm: ``[C]`` float64, see `fedsim.clients.measures.coefficient_norms`, or None.
        num_tokens: ``[C]`` int64, the targets that count in a client's training samples, or None.
        staleness: ``[C]`` int64, versions of the model made while the client trained; None in synchronous runs.
        finite: ``[C]`` bool, whether the row that arrived is finite; others are rejected, and no combine rule sees
            them or their reports. None where no row can be otherwise.

    `start_loss`, `lr`, `coefficient_norm` and `num_tokens` are computed only if the combine rule asks for them
    (`fedsim.aggregation.rules.needs_of`).
    """

    num_samples: Tensor
    local_steps: Tensor
    train_loss: Tensor
    validation_loss: Tensor | None = None
    validation_accuracy: Tensor | None = None
    start_loss: Tensor | None = None
    lr: Tensor | None = None
    coefficient_norm: Tensor | None = None
    num_tokens: Tensor | None = None
    staleness: Tensor | None = None
    finite: Tensor | None = None


class Memory(NamedTuple):
    """What a correction recalls for clients while they train.

    Attributes:
        own: tensors ``[C, ...]`` with one row per client, by name.
        shared: tensors that are the same for all clients, by name.
    """

    own: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]

    def of(self, which: Tensor | slice) -> Memory:
        """The memory of some of the clients, in that order."""
        return Memory({name: rows[which] for name, rows in self.own.items()}, self.shared)
