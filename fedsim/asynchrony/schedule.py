"""Schedules: whether the server waits for a cohort, or steps whenever enough updates have come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from fedsim.asynchrony.queue import fill_buffer, given_rows
from fedsim.asynchrony.staleness import POLYNOMIAL, Staleness
from fedsim.clients.report import Report
from fedsim.core.cohort import Cohort, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.part import Federation, Round, Schedule
from fedsim.core.results import Metrics
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.errors import UserError, check_above, check_at_least, check_between
from fedsim.metrics import COLUMNS, Column


@dataclass(frozen=True)
class Synchronous(Schedule):
    """Every round has a cohort of its own, all of which start from the newest model."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Asynchronous(Schedule):
    """What asynchronous schedules have in common.

    As many clients as the sampler's cohort has are at work at any time, each from the model that was the newest when
    it was asked. When one arrives or vanishes, another is asked. After so many arrivals the server makes the next
    version of the model, which is what ``round`` counts then.

    Attributes:
        staleness: how much an update counts less the more versions were made while it was.
    """

    staleness: Staleness = POLYNOMIAL

    facts: ClassVar[Facts] = frozenset({Fact.ASYNCHRONOUS})
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["staleness"], COLUMNS["staleness_max"])

    def buffer(self, concurrency: int) -> int:
        """K, arrivals that make a version, where so many clients are at work at once."""
        raise NotImplementedError

    def apply(self, deltas: Tensor, staleness: Tensor, behind: Callable[[], Tensor]) -> Tensor:
        """What the server takes for the deltas ``[c, P]`` that have arrived.

        Args:
            deltas: local models minus what they started from.
            staleness: ``[c]`` int64.
            behind: gives what they started from minus the newest model, ``[c, P]`` or zeros ``[P]``.
        """
        raise NotImplementedError

    def cohort_sizes(self, smallest: int, largest: int) -> tuple[int, int]:
        """The buffer, whoever is at work."""
        return self.buffer(largest), self.buffer(largest)

    def check_clients(self, setting: Setting) -> None:
        """A client is in the buffer once, so that there must be enough of them."""
        size = self.buffer(setting.sampled[1])
        if size > setting.num_clients:
            raise UserError(f"schedule.buffer_size={size}: there are only {setting.num_clients} clients")

    def next_cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Who fills the buffer next."""
        return fill_buffer(self.buffer, federation, state, round_number)

    def anchors(self, part: Cohort, round: Round) -> Tensor:
        """The versions of the model that clients were given."""
        assert part.versions is not None
        return given_rows(round.state, part.versions)

    def dated(self, report: Report, part: Cohort, round: Round) -> Report:
        """With the versions that were made in the meantime."""
        assert part.versions is not None
        return replace(report, staleness=round.state.round - part.versions)

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Updates as the server takes them: stale ones count less."""
        versions, first = round.own.versions, 0
        assert versions is not None
        for update in updates:
            given = versions[first : first + len(update.rows)]
            first += len(update.rows)
            behind = partial(_behind, round.state, given)
            yield update._replace(rows=self.apply(update.rows, round.state.round - given, behind))

    def close(self, round: Round) -> None:
        """Keep who is still at work, and the models that they were given."""
        assert round.cohort.waiting is not None
        round.state.drawers[self.group] = dict(round.cohort.waiting)

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """How many clients are at work, and how many arrivals make a version."""
        sampler = federation.bound.sampler
        concurrency = sampler.limits(federation.system.eligible(federation.population.num_clients))[1]
        size, name = self.buffer(concurrency), option_name(self)
        return {"schedule": f"{name}: {concurrency} clients at work at once, a version per {size} arrival(s)"}

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Who is at work, and with which models, is different after every round."""
        return True

    def measure(self, round: Round) -> Metrics:
        """How stale the updates were; nothing where there are none."""
        versions = round.cohort.versions
        if versions is None or len(versions) == 0:
            return {}
        staleness = round.number - 1 - versions
        return {"staleness": float(staleness.double().mean()), "staleness_max": int(staleness.max())}


def _behind(state: State, versions: Tensor) -> Tensor:
    """How far the models of certain versions ``[c]`` are from the newest: ``[c, P]``, or ``[P]`` of zeros."""
    return given_rows(state, versions) - state.row


@dataclass(frozen=True, kw_only=True)
class FedBuff(Asynchronous):
    """FedBuff (Nguyen 2022, Algorithm 1): the server steps after K arrivals.

    ``row + lr * 1/K * sum(s(tau_k) * delta_k)`` with the combine rule ``mean``, which is the paper's, and the server
    optimizer ``sgd``; each ``delta_k`` is counted from what the client started from. Other rules see the K rows
    ``s(tau_k) * delta_k`` in the place of a cohort's.

    Attributes:
        buffer_size: K; None is half of the clients that are at work at once.
    """

    option: ClassVar[str] = "fedbuff"

    buffer_size: int | None = None

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

    option: ClassVar[str] = "fedasync"

    alpha: float = 0.6

    facts: ClassVar[Facts] = frozenset({Fact.ASYNCHRONOUS, Fact.ONE_AT_A_TIME})

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
