"""What a part is checked against before a run starts: the other settings and, once known, the clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsim.clients.settings import ClientConfig
from fedsim.core.facts import Fact
from fedsim.data.population import Population


@dataclass(frozen=True)
class Setting:
    """What a part may know about the rest of the experiment when it checks itself.

    Attributes:
        rounds: R, the round limit.
        seed: the run's seed.
        client: how clients train.
        blocks: the parameter blocks that are aggregated, or None for all.
        facts: the facts of all parts, each with the setting that causes it.
        smallest: size of the smallest non-empty cohort; 0 until the population is known.
        largest: size of the largest cohort; 0 until the population is known.
        sampled: sizes of the smallest and the largest cohort as the sampler draws them.
        num_clients: N, or how many of the clients can be asked; 0 until the population is known.
        population: all clients and their samples, or None until they are known.
        dropout: the model's dropout rate between its layers.
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
