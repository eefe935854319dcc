"""Baselines to compare federated results with: the same model on pooled data, and each client alone.

A baseline replaces some settings of an experiment, listed here; all others (model, data, local training) stay as they
are.
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
    """The interface of a baseline: a change of an experiment."""

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Return the settings that replace those of an experiment, by name, given its partition and client settings."""
        ...


@dataclass(frozen=True)
class NoBaseline:
    """The federated run itself."""

    facts: ClassVar[Facts] = frozenset()

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Return no changes."""
        return {}


@dataclass(frozen=True)
class Centralised:
    """The same model trained on all samples together, by the clients' optimizer, whose state is kept between rounds.

    It replaces `partition` (whose clients are pooled), `sampler` and `aggregator`: a single client has all training and
    test samples, and the server adds its delta unchanged.
    """

    facts: ClassVar[Facts] = frozenset({Fact.NO_FEDERATION})

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Return settings that pool all clients into one."""
        return {
            "partition": Pooled(partition),
            "sampler": Uniform(),
            "aggregator": plain_aggregator(None),
            "client": client.keeping(),
        }


@dataclass(frozen=True)
class Local:
    """Every client trains alone in every round, and nothing is aggregated; test columns pool the clients' own models.

    `stop` goes by these columns, and ends all clients together, not each by its own.

    It replaces `sampler` and `aggregator`; the state of the clients' optimizers is kept between rounds.
    """

    facts: ClassVar[Facts] = frozenset({Fact.NO_FEDERATION, Fact.NO_COMMON_MODEL})

    def changes(self, partition: Partition, client: ClientConfig) -> Mapping[str, Any]:
        """Return settings that aggregate no block."""
        return {
            "sampler": Uniform(),
            "aggregator": plain_aggregator([]),
            "client": client.keeping(),
        }


def plain_aggregator(blocks: list[str] | None) -> Aggregator:
    """Return the plain mean with server SGD at lr 1, for the given blocks or, with None, for all."""
    return Aggregator(combine=Mean(), server_optimizer=SGD(), correction=NoCorrection(), blocks=blocks)


@dataclass(frozen=True)
class Pooled:
    """A partition whose clients are merged into one."""

    partition: Partition

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Give all samples of the inner partition to one client; samples that it leaves out stay left out."""
        inner = self.partition.assign(dataset, num_clients, seed)
        members = inner.train, inner.test
        train, test = ([np.sort(np.concatenate(list(part)))] for part in members)
        validation = None if inner.validation is None else [np.sort(np.concatenate(list(inner.validation)))]
        pooled = replace(
            inner, train=train, test=test, client_names=("everyone",), validation=validation, sampled_from=None
        )
        if (observe := inner.observe) is None:
            return pooled
        # Each sample still has the sensors of its original client.
        return replace(pooled, observe=lambda split, _, number: observe(split, members[number], number))
