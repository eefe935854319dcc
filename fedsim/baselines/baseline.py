"""What every federated result is read against: the same model on pooled data, and each client on its own.

A baseline changes an experiment: what it replaces is written here, and the rest (model, data, local training) stays as
it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.mean import Mean
from fedsim.clients.settings import ClientConfig
from fedsim.core.facts import Fact, Facts
from fedsim.corrections.none import NoCorrection
from fedsim.data.dataset import Assignment, Dataset
from fedsim.partition.partition import Partition
from fedsim.samplers.uniform import Uniform
from fedsim.server.optimizers import SGD


@runtime_checkable
class Baseline(Protocol):
    """A change of an experiment."""

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Return the settings of an experiment that are replaced, by name, for its partition and client settings."""
        ...


@dataclass(frozen=True)
class NoBaseline:
    """The federated run itself."""

    facts: ClassVar[Facts] = frozenset()

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Centralised:
    """The same model trained on all samples together, by the clients' optimizer, which goes on from round to round.

    In place of `partition` (whose clients are pooled), `sampler` and `aggregator`: one client with all training and
    test samples, whose delta is taken as it is.
    """

    facts: ClassVar[Facts] = frozenset({Fact.NO_FEDERATION})

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Pool the clients."""
        return {
            "partition": Pooled(partition),
            "sampler": Uniform(),
            "aggregator": plain_aggregator(None),
            "client": replace(client, keep_optimizer_state=True),
        }


@dataclass(frozen=True)
class Local:
    """Every client trains alone in every round, and nothing is aggregated; test columns pool the clients' own models.

    In place of `sampler` and `aggregator`; the clients' optimizers go on from round to round.
    """

    facts: ClassVar[Facts] = frozenset({Fact.NO_FEDERATION, Fact.NO_COMMON_MODEL})

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Aggregate no block."""
        return {
            "sampler": Uniform(),
            "aggregator": plain_aggregator([]),
            "client": replace(client, keep_optimizer_state=True),
        }


def plain_aggregator(blocks: list[str] | None) -> Aggregator:
    """The mean of deltas, taken as it is, of these blocks or of all."""
    return Aggregator(combine=Mean(), server_optimizer=SGD(), correction=NoCorrection(), blocks=blocks)


@dataclass(frozen=True)
class Pooled:
    """A partition whose clients are made one."""

    partition: Partition

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return the inner partition's samples, all at one client; what it leaves out stays left out."""
        inner = self.partition.assign(dataset, num_clients, seed)
        members = inner.train, inner.test
        train, test = ([np.sort(np.concatenate(list(part)))] for part in members)
        if (observe := inner.observe) is None:
            return Assignment(train, test, ("everyone",))
        # Sensors stay those of the clients.
        return Assignment(train, test, ("everyone",), lambda split, _, number: observe(split, members[number], number))
