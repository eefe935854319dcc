"""What every federated result is read against: the same model on pooled data, and each client on its own.

A baseline changes an experiment: whatever it replaces is written here, and the rest (model, data, local training)
stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.mean import Mean
from fedsim.corrections.correction import NoCorrection
from fedsim.data.dataset import Assignment, Dataset
from fedsim.samplers.sampler import Uniform
from fedsim.server.optimizers import SGD

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment, Partition


@runtime_checkable
class Baseline(Protocol):
    """A change of an experiment."""

    def apply(self, experiment: Experiment) -> Experiment:
        """Return the experiment that is run in its place."""
        ...


@dataclass(frozen=True)
class NoBaseline:
    """The federated run itself."""

    def apply(self, experiment: Experiment) -> Experiment:
        """Change nothing."""
        return experiment


@dataclass(frozen=True)
class Centralised:
    """The same model trained on all samples together, by the clients' optimizer, which goes on from round to round.

    In place of `partition` (whose clients are pooled), `sampler` and `aggregator`: one client with all training and
    test samples, whose delta is taken as it is.
    """

    def apply(self, experiment: Experiment) -> Experiment:
        """Pool the clients."""
        return replace(
            experiment,
            partition=Pooled(experiment.partition),
            sampler=Uniform(),
            aggregator=plain_aggregator(None),
            client=replace(experiment.client, keep_optimizer_state=True),
        )


@dataclass(frozen=True)
class Local:
    """Every client trains alone in every round, and nothing is aggregated; test columns pool the clients' own models.

    In place of `sampler` and `aggregator`; the clients' optimizers go on from round to round.
    """

    def apply(self, experiment: Experiment) -> Experiment:
        """Aggregate no block."""
        return replace(
            experiment,
            sampler=Uniform(),
            aggregator=plain_aggregator([]),
            client=replace(experiment.client, keep_optimizer_state=True),
        )


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
