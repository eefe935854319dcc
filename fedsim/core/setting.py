"""What surrounds a part before a run starts, as far as it may be asked about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsim.clients.settings import ClientConfig
from fedsim.core.facts import Fact
from fedsim.data.population import Population


@dataclass(frozen=True)
class Setting:
    """The surroundings of a part.

    Attributes:
        rounds: R.
        seed: of the run.
        client: how clients train.
        blocks: the parameter blocks that are aggregated, or None for all.
        facts: of all parts, each with the setting that makes it so.
        smallest: clients of the smallest cohort that is not empty; 0 until the population is known.
        largest: clients of the largest cohort; 0 until the population is known.
        sampled: clients of the smallest and of the largest cohort as the sampler draws them.
        num_clients: N, or as many of them as can be asked; 0 until the population is known.
        population: all clients and their samples, or None until it is known.
        dropout: of the model, between its layers.
    """

    rounds: int
    seed: int
    client: ClientConfig
    blocks: list[str] | None = None
    facts: Mapping[Fact, str] = field(default_factory=dict)
    smallest: int = 0
    largest: int = 0
    sampled: tuple[int, int] = (0, 0)
    num_clients: int = 0
    population: Population | None = None
    dropout: float = 0.0
