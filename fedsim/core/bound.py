"""The population, task and settings to which parts are bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Fact
from fedsim.core.origin import Origin
from fedsim.data.population import Population
from fedsim.models.blocks import Blocks

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Bound:
    """What a part gets, and may keep, when it is bound.

    Attributes:
        seed: the run's seed.
        rounds: R, the round limit.
        population: all clients and their samples.
        task: what the clients train.
        blocks: which parameters are aggregated.
        make_trainer: binds the engine to a task.
        chunk_size: how many clients are trained at a time.
        sampler: who takes part in a round.
        combine: the aggregator's combine rule.
        gradients: how many gradients a client computes per sample and pass, over all parts.
        dtype: floating-point type of rows.
        facts: the facts of all parts, each with the setting that causes it.
        origin: what is known of the model that the run starts from; None for an untrained one.
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
    origin: Origin | None = None

    @property
    def itemsize(self) -> int:
        """Bytes per parameter."""
        return self.dtype.itemsize
