"""Schedules: whether the server waits for a cohort, or steps whenever enough updates have arrived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

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

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Synchronous(Schedule):
    """Every round has its own cohort, whose clients all start from the newest model."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Asynchronous(Schedule, ABC):
    """What asynchronous schedules have in common.

    As many clients as the sampler's cohort has are at work at any time, each training from the model that was the
    newest when it was asked. When one arrives or vanishes, another is asked. Whenever its buffer is full of arrivals,
    the server makes the next version of the model; ``round`` then counts versions.

    Attributes:
        staleness: the weight of an update, by the number of versions made while its client trained.
    """

    staleness: Staleness = POLYNOMIAL

    facts: ClassVar[Facts] = frozenset({Fact.ASYNCHRONOUS})
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["staleness"], COLUMNS["staleness_max"])

    @abstractmethod
    def buffer(self, concurrency: int) -> int:
        """Return K, how many arrivals make a version, where `concurrency` clients are at work at once."""

    @abstractmethod
    def apply(self, deltas: Tensor, staleness: Tensor, behind: Callable[[], Tensor]) -> Tensor:
        """Return the rows ``[c, P]`` that the server uses for the deltas ``[c, P]`` that have arrived.

        Args:
            deltas: local models minus the models that they started from.
            staleness: ``[c]`` int64, versions made while the clients trained.
            behind: returns the models that they started from minus the newest one, ``[c, P]`` or zeros ``[P]``.
        """

    def cohort_sizes(self, smallest: int, largest: int) -> tuple[int, int]:
        """Return the buffer size twice: every version has exactly as many updates."""
        return self.buffer(largest), self.buffer(largest)

    def check_clients(self, setting: Setting) -> None:
        """Refuse a buffer larger than the number of clients, since a client is in the buffer at most once."""
        size = self.buffer(setting.sampled[1])
        if size > setting.num_clients:
            raise UserError(f"schedule.buffer_size={size}: there are only {setting.num_clients} clients")

    def next_cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Return the clients that fill the buffer next."""
        return fill_buffer(self.buffer, federation, state, round_number)

    def anchors(self, part: Cohort, round: Round) -> Tensor:
        """Return the models that the clients were given."""
        assert part.versions is not None
        return given_rows(round.state, part.versions)

    def as_given(self, part: Cohort, round: Round) -> list[tuple[Tensor, Round]]:
        """One round per version that the clients were given, if rounds differ in their learning rate.

        A client works with the learning rate of the version that it was given: how many versions are made meanwhile it
        cannot know.
        """
        if round.task.config.lr_decay == 1:
            return []
        assert part.versions is not None
        return [
            ((part.versions == version).nonzero()[:, 0], _earlier(round, version + 1))
            for version in part.versions.unique().tolist()
        ]

    def dated(self, report: Report, part: Cohort, round: Round) -> Report:
        """Return the report with the number of versions made while each client trained."""
        assert part.versions is not None
        return replace(report, staleness=round.state.round - part.versions)

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Weigh the updates by their staleness."""
        versions, first = round.own.versions, 0
        assert versions is not None
        for update in updates:
            given = versions[first : first + len(update.rows)]
            first += len(update.rows)
            behind = partial(_behind, round.state, given)
            yield update._replace(rows=self.apply(update.rows, round.state.round - given, behind))

    def close(self, round: Round) -> None:
        """Keep the clients still at work, and the models that they were given."""
        assert round.cohort.waiting is not None
        round.state.drawers[self.group] = dict(round.cohort.waiting)

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Show how many clients are at work at once, and how many arrivals make a version."""
        sampler = federation.bound.sampler
        concurrency = sampler.limits(federation.system.eligible(federation.population.num_clients))[1]
        size, name = self.buffer(concurrency), option_name(self)
        return {"schedule": f"{name}: {concurrency} clients at work at once, a version per {size} arrival(s)"}

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Accept any drawer, since its entries differ with the clients at work and the models that they have."""
        return True

    def measure(self, round: Round) -> Metrics:
        """Return the mean and largest staleness of the updates; nothing if there are none."""
        versions = round.cohort.versions
        if versions is None or len(versions) == 0:
            return {}
        staleness = round.number - 1 - versions
        return {"staleness": float(staleness.double().mean()), "staleness_max": int(staleness.max())}


def _earlier(round: Round, number: int) -> Round:
    task, trainer = replace(round.task, given=number), round.trainer.given(number)
    return replace(round, task=task, trainer=trainer, given=number)


def _behind(state: State, versions: Tensor) -> Tensor:
    """The models of `versions` ``[c]`` minus the newest one: ``[c, P]``, or zeros ``[P]`` if all are the newest."""
    return given_rows(state, versions) - state.row


@dataclass(frozen=True, kw_only=True)
class FedBuff(Asynchronous):
    """FedBuff (Nguyen 2022, Algorithm 1): the server steps after K arrivals.

    ``row + lr * 1/K * sum(s(tau_k) * delta_k)`` with the combine rule ``mean``, which is the paper's, and the server
    optimizer ``sgd``; each ``delta_k`` is relative to the model that the client started from. Other rules get the K
    rows ``s(tau_k) * delta_k`` as if they were a cohort's deltas.

    Attributes:
        buffer_size: K; None is half the number of clients at work at once.
    """

    option: ClassVar[str] = "fedbuff"

    buffer_size: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 1, "buffer_size")

    def buffer(self, concurrency: int) -> int:
        """Return K: `buffer_size`, or half of `concurrency`."""
        return max(1, concurrency // 2) if self.buffer_size is None else self.buffer_size

    def apply(self, deltas: Tensor, staleness: Tensor, behind: Callable[[], Tensor]) -> Tensor:
        """Return ``s(tau_k) * delta_k``."""
        return deltas * self.staleness.weights(staleness).to(deltas)[:, None]


@dataclass(frozen=True, kw_only=True)
class FedAsync(Asynchronous):
    """FedAsync (Xie 2019, Algorithm 1): every arrival is mixed into the model at once.

    ``(1 - alpha_t) * row + alpha_t * local`` with ``alpha_t = alpha * s(tau)``. The paper's proximal term is
    ``aggregator/correction=prox``; for an alpha that decreases over time, give the server optimizer ``sgd`` a schedule.

    Attributes:
        alpha: weight of a local model without staleness.
    """

    option: ClassVar[str] = "fedasync"

    alpha: float = 0.6

    facts: ClassVar[Facts] = frozenset({Fact.ASYNCHRONOUS, Fact.ONE_AT_A_TIME})

    def __post_init__(self) -> None:
        check_above(self, 0, "alpha")
        check_between(self, 0, 1, "alpha")

    def buffer(self, concurrency: int) -> int:
        """Return 1: every arrival makes a version."""
        return 1

    def apply(self, deltas: Tensor, staleness: Tensor, behind: Callable[[], Tensor]) -> Tensor:
        """Return ``alpha_t * (local - row)``."""
        weights = self.alpha * self.staleness.weights(staleness).to(deltas)
        return weights[:, None] * (behind() + deltas)
