"""What clients tell the server beside their deltas, and what is remembered of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Report:
    """What clients tell the server beside their deltas: one entry per client of the cohort, in cohort order.

    Attributes:
        num_samples: ``[C]`` int64 training samples.
        local_steps: ``[C]`` int64 optimizer steps taken.
        train_loss: ``[C]`` float64, sample-weighted mean of the minibatch losses.
        validation_loss: ``[C]`` float64 loss of the local model on the client's own validation split, or None.
        validation_accuracy: ``[C]`` float64, or None (also for regression).
        start_loss: ``[C]`` float64 mean loss on the client's training samples of what it starts from, or None.
        lr: ``[C]`` float64 local learning rate of the round, or None.
        coefficient_norm: ``[C]`` float64, see `fedsim.clients.measures.coefficient_norms`, or None.
        staleness: ``[C]`` int64, versions that were made while the client was at work; None under a schedule of rounds.

    The three before the last are there only if the combine rule asks for them (its ``needs``).
    """

    num_samples: Tensor
    local_steps: Tensor
    train_loss: Tensor
    validation_loss: Tensor | None = None
    validation_accuracy: Tensor | None = None
    start_loss: Tensor | None = None
    lr: Tensor | None = None
    coefficient_norm: Tensor | None = None
    staleness: Tensor | None = None


class Memory(NamedTuple):
    """What is remembered for a correction.

    Attributes:
        own: ``[A, P]``, each client's row.
        mean: ``[P]``, the server's: the mean of all clients' rows, of those that never took part (zeros) too.
    """

    own: Tensor
    mean: Tensor
