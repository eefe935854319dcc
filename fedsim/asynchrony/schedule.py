"""Schedules: whether the server waits for a cohort, or steps whenever enough updates have come in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fedsim.aggregation.mean import Mean
from fedsim.aggregation.norm_clipped_mean import NormClippedMean
from fedsim.aggregation.weighted import Weighted
from fedsim.asynchrony.staleness import POLYNOMIAL, Staleness
from fedsim.audits.audit import UpdateAudit
from fedsim.baselines.baseline import NoBaseline
from fedsim.devices.system import Timed
from fedsim.errors import UserError, check_above, check_at_least, check_between
from fedsim.privacy.privacy import CentralPrivacy
from fedsim.privacy.secure import SecureAggregation
from fedsim.samplers.sampler import Availability, PowerOfChoice, RoundRobin, Sized
from fedsim.server.optimizers import SGD

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment

MOST_DROPOUT = 0.99
"""With more, the server would wait for its buffer (almost) for ever."""


@dataclass(frozen=True)
class Synchronous:
    """Every round has a cohort of its own, all of which start from the newest model."""

    columns: ClassVar[tuple[str, ...]] = ()

    def check(self, experiment: Experiment) -> None:
        """Goes with everything."""

    def check_population(self, experiment: Experiment, num_clients: int) -> None:
        """With any number of clients."""


@dataclass(frozen=True, kw_only=True)
class Asynchronous:
    """What asynchronous schedules have in common.

    As many clients as the sampler's cohort has are at work at any time, each from the model that was the newest when
    it was asked. When one arrives or vanishes, another is asked. After so many arrivals the server makes the next
    version of the model, which is what ``round`` counts then.

    Attributes:
        staleness: how much an update counts less the more versions were made while it was.
    """

    staleness: Staleness = POLYNOMIAL

    columns: ClassVar[tuple[str, ...]] = ("staleness", "staleness_max")
    name: ClassVar[str]
    """In the config."""

    def buffer(self, concurrency: int) -> int:
        """K, arrivals that make a version, where so many clients are at work at once."""
        raise NotImplementedError

    def apply(self, deltas: Tensor, staleness: Tensor, behind: Callable[[], Tensor]) -> Tensor:
        """What the server takes for the deltas ``[C, P]`` that have arrived.

        Args:
            deltas: local models minus what they started from.
            staleness: ``[C]`` int64.
            behind: gives what they started from minus the newest model, ``[C, P]`` or zeros ``[P]``.
        """
        raise NotImplementedError

    def check_population(self, experiment: Experiment, num_clients: int) -> None:
        """A client is in the buffer once, so that there must be enough of them."""
        size = self.buffer(experiment.sampler.limits(num_clients)[1])
        if size > num_clients:
            raise UserError(f"schedule.buffer_size={size}: there are only {num_clients} clients")

    def check(self, experiment: Experiment) -> None:
        """Raise `UserError` for settings that need rounds."""
        e, name, system = experiment, f"schedule={self.name}", experiment.system
        if not isinstance(e.baseline, NoBaseline):
            baseline = type(e.baseline).__name__.lower()
            raise UserError(f"{name}: baseline={baseline} is no federation; take schedule=synchronous or baseline=none")
        if not isinstance(system, Timed):
            raise UserError(
                f"{name}: needs a virtual clock that says who arrives when; take system=devices or system=profiles"
            )
        rounds = {
            "deadline": (system.deadline is not None, "null"),
            "over_selection": (system.over_selection > 1, "1"),
            "min_clients": (system.min_clients > 1, "1"),
        }
        for key, (on, off) in rounds.items():
            if on:
                value = getattr(system, key)
                raise UserError(
                    f"{name}: system.{key}={value:g} is about a round that ends before all have arrived, and here "
                    f"nobody waits for a round; take system.{key}={off}"
                )
        if system.dropout > MOST_DROPOUT:
            raise UserError(
                f"{name}: with system.dropout={system.dropout:g} hardly anybody ever fills the buffer; at most "
                f"{MOST_DROPOUT:g}"
            )
        self._check_sampler(e, name)
        if e.aggregator.correction.remembers:
            raise UserError(
                f"{name}: aggregator/correction={type(e.aggregator.correction).__name__.lower()} keeps memories of all "
                "clients that belong to one model, and here clients start from different ones; take "
                "aggregator/correction=none or prox"
            )
        if e.aggregator.blocks is not None:
            raise UserError(
                f"{name}: aggregator.blocks={e.aggregator.blocks} has clients put private blocks into the newest "
                "model, and here they start from older ones; take aggregator.blocks=null"
            )
        if isinstance(e.privacy, CentralPrivacy):
            raise UserError(
                f"{name}: the accountant of privacy=central_dp counts rounds that each draw a cohort from all clients, "
                "and here who arrives depends on how long the others take; take privacy=local_dp or none"
            )
        if isinstance(e.privacy, SecureAggregation):
            raise UserError(
                f"{name}: privacy=secure_aggregation has a cohort agree on masks before it trains, and here nobody "
                "knows who will be in a buffer together; take privacy=local_dp or none"
            )
        if isinstance(e.audit, UpdateAudit):
            raise UserError(
                f"{name}: audit={type(e.audit).__name__.lower()} takes clients to have started from the newest model; "
                "take audit=membership or none"
            )
        if not e.link.lossless_down:
            raise UserError(
                f"{name}: link/down keeps one copy of the model for all clients, and here they have different "
                "versions; take link/down=none"
            )

    def _check_sampler(self, e: Experiment, name: str) -> None:
        if isinstance(e.sampler, Sized) and not isinstance(e.sampler, PowerOfChoice | RoundRobin | Availability):
            return
        why = {
            PowerOfChoice: "asks clients for losses before a round begins",
            RoundRobin: "has clients take turns by rounds",
            Availability: "has clients go on and off by rounds (system.availability has them do so by chance)",
        }
        reason = why.get(type(e.sampler), "does not say how many clients are at work at once")
        raise UserError(
            f"{name}: sampler={type(e.sampler).__name__.lower()} {reason}; take sampler=uniform or sampler=weighted"
        )


@dataclass(frozen=True, kw_only=True)
class FedBuff(Asynchronous):
    """FedBuff (Nguyen 2022, Algorithm 1): the server steps after K arrivals.

    ``row + lr * 1/K * sum(s(tau_k) * delta_k)`` with the combine rule ``mean``, which is the paper's, and the server
    optimizer ``sgd``; each ``delta_k`` is counted from what the client started from. Other rules see the K rows
    ``s(tau_k) * delta_k`` in the place of a cohort's.

    Attributes:
        buffer_size: K; None is half of the clients that are at work at once.
    """

    buffer_size: int | None = None

    name: ClassVar[str] = "fedbuff"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "buffer_size")

    def buffer(self, concurrency: int) -> int:
        """K."""
        return max(1, concurrency // 2) if self.buffer_size is None else self.buffer_size

    def apply(self, deltas: Tensor, staleness: Tensor, behind: Callable[[], Tensor]) -> Tensor:
        """Scale."""
        return deltas * self.staleness.weights(staleness).to(deltas)[:, None]


@dataclass(frozen=True, kw_only=True)
class FedAsync(Asynchronous):
    """FedAsync (Xie 2019, Algorithm 1): every arrival is mixed into the model at once.

    ``(1 - alpha_t) * row + alpha_t * local`` with ``alpha_t = alpha * s(tau)``. The paper's pull of local training to
    the model that was sent is ``aggregator/correction=prox``, and alpha falls over time with a schedule of the server
    optimizer ``sgd``.

    Attributes:
        alpha: weight of a client's model that is not stale.
    """

    alpha: float = 0.6

    name: ClassVar[str] = "fedasync"

    def __post_init__(self) -> None:
        check_above(self, 0, "alpha")
        check_between(self, 0, 1, "alpha")

    def buffer(self, concurrency: int) -> int:
        """One."""
        return 1

    def apply(self, deltas: Tensor, staleness: Tensor, behind: Callable[[], Tensor]) -> Tensor:
        """``alpha_t * (local - row)``."""
        weights = self.alpha * self.staleness.weights(staleness).to(deltas)
        return weights[:, None] * (behind() + deltas)

    def check(self, experiment: Experiment) -> None:
        """One model is mixed into another: there is nothing else to combine, and alpha is the step."""
        super().check(experiment)
        combine, optimizer = experiment.aggregator.combine, experiment.aggregator.server_optimizer
        plain = isinstance(combine, Weighted) and combine == Weighted()
        if not (plain or isinstance(combine, Mean | NormClippedMean)):
            raise UserError(
                f"schedule=fedasync: takes one update at a time, so that aggregator/combine="
                f"{type(combine).__name__.lower()} has nothing to combine; take aggregator/combine=mean, or "
                "schedule=fedbuff"
            )
        if not isinstance(optimizer, SGD):
            raise UserError(
                f"schedule=fedasync: mixes models, and aggregator/server_optimizer={type(optimizer).__name__.lower()} "
                "adds deltas by a rule of its own; take aggregator/server_optimizer=sgd, or schedule=fedbuff"
            )
        if optimizer.lr != 1:
            raise UserError(
                f"aggregator.server_optimizer.lr={optimizer.lr:g}: the step of schedule=fedasync is schedule.alpha; "
                "take aggregator.server_optimizer.lr=1"
            )


Schedule = Synchronous | Asynchronous
