"""What parts are bound to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Fact
from fedsim.data.population import Population
from fedsim.models.blocks import Blocks


@dataclass(frozen=True)
class Bound:
    """What a part may hold on to when it is bound.

    Attributes:
        seed: of the run.
        rounds: R.
        population: all clients.
        task: what they train.
        blocks: which parameters are aggregated.
        make_trainer: binds the engine to a task.
        chunk_size: clients trained at a time.
        sampler: who takes part.
        combine: the aggregator's rule.
        gradients: that a client computes of each sample and pass, over all parts.
        dtype: of rows.
        facts: of all parts, each with the setting that makes it so.
    """

    seed: int
    rounds: int
    population: Population
    task: LocalTask
    blocks: Blocks
    make_trainer: Callable[[LocalTask], Trainer]
    chunk_size: int
    sampler: Any
    combine: Any
    gradients: int
    dtype: torch.dtype
    facts: Mapping[Fact, str]

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize
