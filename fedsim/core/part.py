"""The interface of every part of a round, with defaults that do nothing, and the few methods of each kind of part.

A part is a frozen dataclass of settings, chosen by a config group. `bind` returns the part that runs (which may be the
same object). Its methods are called in this order:

    check, check_clients, bind, check_bound           before the run, by `fedsim.federation.prepare`
    start                                             once, for the part's drawer in the state
    open; pass_on (stages); close; measure; examine   every round, by `fedsim.federation.round`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fedsim.client_store import ClientStore
from fedsim.clients.report import Memory, Report
from fedsim.clients.step import Step
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core.bound import Bound as Bound
from fedsim.core.cohort import Cohort, Traffic, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.results import Evaluation, Metrics, merge
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.core.stopping import Stop
from fedsim.data.population import Population
from fedsim.metrics import Column
from fedsim.models.blocks import Blocks
from fedsim.parallel.division import Division, divide
from fedsim.parallel.processes import ALONE, World

if TYPE_CHECKING:
    from torch import Tensor


class Part:
    """One part of a round. Inherit from one of the kinds below; methods that are not overridden do nothing."""

    group: ClassVar[str] = ""
    """The config group, and the name of the part's drawer."""
    facts: ClassVar[Facts] = frozenset()
    """What other parts must know about this one. A part that declares none gets the most cautious set of its kind."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """The columns that it adds to ``metrics.csv``, in order."""
    gradients: ClassVar[int] = 0
    """Gradients that a client computes per sample and pass, in addition to those of plain local training."""
    held_rows: ClassVar[int] = 0
    """Rows that a client holds while it trains, in addition to those of plain local training."""

    def conditional_facts(self) -> Mapping[Fact, str]:
        """Facts that follow from settings, each with the setting as the user would type it."""
        return {}

    def check(self, setting: Setting) -> None:
        """Raise `UserError` for values that conflict with the setting. Nothing is known about the data yet."""

    def check_clients(self, setting: Setting) -> None:
        """Raise `UserError` for values that conflict with the clients; every field of the setting is known."""

    def bind(self, bound: Bound) -> Any:
        """Return the part that runs, which is of the same kind.

        Raises:
            UserError: if the data do not allow it.
        """
        return self

    def check_bound(self, federation: Federation, state: State) -> None:
        """Raise `UserError` for conflicts that only show once all parts are bound; `state` is blank."""

    def start(self, row: Tensor) -> Drawer:
        """Return what the part keeps from round to round, as it is before round 1, for a model ``[P]``."""
        return {}

    def open(self, round: Round) -> None:
        """Prepare for a round, before any client trains."""

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Return the updates, changed or not, as one stage on their way to the server."""
        return updates

    def close(self, round: Round) -> None:
        """Update what the part keeps, after the server step."""

    def measure(self, round: Round) -> Metrics:
        """Return the values of the part's columns for a round, including round 0, in which no client trains."""
        return {}

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the part's share of the evaluation of a state."""
        return Evaluation()

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Return the traffic of a round with this part's bytes added, or changed as this part requires.

        Args:
            traffic: as computed by the parts before this one.
            clients: ``[k]`` int64, the clients that are informed.
            state: the state before the round.
            round_number: 1, 2, ...
        """
        return traffic

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Whether a resumed run can continue from the saved `drawer`; `fresh` is what `start` returns."""
        return {name: (kept.shape, kept.dtype) for name, kept in drawer.items()} == {
            name: (kept.shape, kept.dtype) for name, kept in fresh.items()
        }

    def fingerprint(self) -> list[Tensor]:
        """Return what the part has read or drawn; a resumed run must find the same."""
        return []

    def introduce(self) -> list[str]:
        """Return lines to print at the start of a run."""
        return []

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Return what ``--dry-run`` shows, text by label, for the state before round 1 and the cohort of round 1."""
        return {}

    def summary(self, state: State) -> dict[str, Any]:
        """Return entries for ``summary.json``."""
        return {}


class Correction(Part):
    """What a federated algorithm adds to the clients' gradients. Only `correct` must be implemented."""

    group: ClassVar[str] = "correction"
    facts: ClassVar[Facts] = frozenset({Fact.BENDS, Fact.REMEMBERS})
    gradients: ClassVar[int] = 1

    @property
    def pull(self) -> float:
        """Strength of a pull towards the anchor: the factor on the distance (with the fact `PULLS`)."""
        return 0.0

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Change the minibatch gradients ``[A, P]`` of the clients that take a local step, in place."""
        raise NotImplementedError

    def recall(self, clients: Tensor, round: Round) -> Memory | None:
        """Return what `correct` needs to know about clients ``[c]``, or None."""
        return None

    def keep(self, memory: Memory | None, rows: Tensor, report: Report, clients: Tensor, round: Round) -> None:
        """Store what clients ``[c]`` remember from their training, which produced the deltas `rows` ``[c, n]``."""

    def settle(self, delta: Tensor, round: Round) -> Tensor:
        """Return the delta ``[P]`` that the server optimizer gets, given the combined delta ``[P]``."""
        return delta


class Privacy(Part):
    """How clients' deltas are hidden."""

    group: ClassVar[str] = "privacy"
    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES})

    def rule(self, combine: Any, round: Round) -> Any:
        """Return the combine rule of a round: the aggregator's or a replacement; None if nothing is combined."""
        return combine if len(round.cohort.clients) > 0 else None


class Attack(Part):
    """What malicious clients do."""

    group: ClassVar[str] = "attack"
    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.COLLUDES, Fact.FORGES})

    def workers(self, task: LocalTask, trainer: Trainer, round_number: int) -> tuple[LocalTask, Trainer]:
        """Return the task that clients train in a round, and the engine bound to it."""
        return task, trainer

    def attackers(self, clients: Tensor) -> Tensor:
        """Which of `clients` ``[c]`` are malicious, ``[c]`` bool."""
        return torch.ones(len(clients), dtype=torch.bool)

    def blame(self, round_number: int) -> str:
        """Return words about the attack for the message of a run that diverges in a round."""
        return ""


class Link(Part):
    """How models and updates travel between clients and server."""

    group: ClassVar[str] = "link"
    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.LOSSY_UP, Fact.LOSSY_DOWN, Fact.FEEDS_BACK})

    def broadcast(self, state: State, round_number: int) -> None:
        """Send the global model to the clients, before a round."""

    def received(self, state: State) -> Tensor:
        """Return the global model ``[P]`` as clients receive it."""
        return state.row


class System(Part):
    """The devices of the clients, and how long the server waits for them."""

    group: ClassVar[str] = "system"
    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES})

    def cohort_sizes(self, smallest: int, largest: int) -> tuple[int, int]:
        """The smallest and largest number of clients combined, where the sampler draws `smallest` to `largest`."""
        return smallest, largest

    def eligible(self, num_clients: int) -> int:
        """How many of the population's clients can ever be asked."""
        return num_clients

    def cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Return who is asked in a round, and which of them arrive; changes no state."""
        raise NotImplementedError


class Schedule(Part):
    """Whether the server waits for a cohort, and from which model its clients start."""

    group: ClassVar[str] = "schedule"
    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.READS_REPORT})

    def cohort_sizes(self, smallest: int, largest: int) -> tuple[int, int]:
        """The smallest and largest number of clients combined, where `smallest` to `largest` of a cohort arrive."""
        return smallest, largest

    def next_cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Return who takes part in a round; changes no state."""
        return federation.system.cohort(federation, state, round_number)

    def anchors(self, part: Cohort, round: Round) -> Tensor:
        """Return the models ``[c, P]`` that clients start from, or ``[P]`` if all start from the same one."""
        return round.federation.local_models(round.state, part.clients)

    def as_given(self, part: Cohort, round: Round) -> list[tuple[Tensor, Round]]:
        """Positions in `part`, each with the round as those clients know it; empty if it is this one for all."""
        return []

    def dated(self, report: Report, part: Cohort, round: Round) -> Report:
        """Return the report, with the staleness of the models that the clients started from filled in."""
        return report


class Audit(Part):
    """What a curious server finds out from what it sees anyway; an audit never changes the run."""

    group: ClassVar[str] = "audit"
    facts: ClassVar[Facts] = frozenset({Fact.READS_UPDATES, Fact.JUDGES_MODEL})


class Personalization(Part):
    """How clients get personal models."""

    group: ClassVar[str] = "personalize"
    facts: ClassVar[Facts] = frozenset({Fact.PERSONAL, Fact.SECOND_MODEL})

    def train(self, anchors: Tensor, clients: Tensor, round: Round) -> None:
        """Train the personal models of clients ``[c]``, who got `anchors` ``[P]`` or ``[c, P]`` from the server."""


class Server(Part):
    """The server's step."""

    group: ClassVar[str] = "server"

    def step(self, delta: Tensor, round: Round) -> None:
        """Move the global model by the combined delta ``[P]``."""


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Everything that stays the same during a run: the clients, the parts, and the order of the parts.

    Attributes:
        bound: what the parts were bound to.
        trainer: the engine, bound to the clients' task.
        columns: the columns of ``metrics.csv``, in order.
        needs: columns of the report that the combine rule asks for.
        evaluates_round: whether a round ends with an evaluation.
        stop: when to end early.
        parts: all parts, in the order in which they are called.
        stages: the parts that updates pass through, in that order.
        world: the processes that share the work.
    """

    bound: Bound
    trainer: Trainer
    columns: tuple[Column, ...]
    needs: tuple[str, ...]
    evaluates_round: Callable[[int], bool]
    stop: Stop
    correction: Correction
    privacy: Privacy
    attack: Attack
    link: Link
    system: System
    schedule: Schedule
    personal: Personalization
    server: Server
    parts: tuple[Part, ...]
    stages: tuple[Part, ...]
    world: World = ALONE

    @property
    def population(self) -> Population:
        """All clients and their samples."""
        return self.bound.population

    @property
    def task(self) -> LocalTask:
        """What stays the same in every client's local training."""
        return self.bound.task

    @property
    def blocks(self) -> Blocks:
        """Which parameters are aggregated."""
        return self.bound.blocks

    @property
    def chunk_size(self) -> int:
        """How many clients are trained at a time."""
        return self.bound.chunk_size

    def is_over(self, state: State) -> bool:
        """Whether the run has no rounds left, or has stopped early."""
        return state.round >= self.bound.rounds or bool(state.progress.reason)

    def evaluates(self, round_number: int) -> bool:
        """Whether a round ends with an evaluation."""
        return self.evaluates_round(round_number)

    def examine(self, state: State) -> Evaluation:
        """Evaluate a state: the evaluations of all parts, merged."""
        return merge(part.examine(self, state) for part in self.parts)

    def local_models(self, state: State, clients: Tensor) -> Tensor:
        """The global model as clients receive it, ``[P]``, or ``[c, P]`` with their private parameters filled in."""
        return self.blocks.models(state.store, clients, self.link.received(state))

    def traffic(self, state: State, clients: Tensor, round_number: int) -> Traffic:
        """The bytes of a round that informs `clients` ``[k]``, as the parts count them."""
        traffic = Traffic(torch.zeros(len(clients), dtype=torch.int64))
        for part in self.parts:
            traffic = part.add_bytes(traffic, clients, state, round_number)
        return traffic

    def begin(self, state: State, round_number: int, cohort: Cohort) -> Round:
        """Set up the round of a cohort, whose clients are divided among the processes."""
        task, trainer = self.attack.workers(self.task, self.trainer, round_number)
        division = divide(self.world, self.task.samples(cohort.clients, cohort.steps))
        own, sent = cohort.cut(division), self.link.received(state)
        return Round(self, round_number, state, cohort, own, division, task, trainer, sent)


@dataclass(frozen=True)
class Round:
    """The data of one round.

    Attributes:
        federation: the federation that plays the round.
        number: 1, 2, ...
        state: the run's state; its `State.round` is the previous round until the server has stepped.
        cohort: who takes part.
        own: the part of the cohort that this process works on.
        division: how the cohort is divided among processes.
        task: what the clients train.
        trainer: the engine, bound to that task.
        sent: ``[P]``, the global model as the clients receive it.
        reports: the reports of the clients that this process has trained so far, one per chunk.
        notes: values that a part leaves for later in the same round, under names such as ``<part>.<name>``.
        given: the round for which its clients got their model, if that is an earlier one.
    """

    federation: Federation
    number: int
    state: State
    cohort: Cohort
    own: Cohort
    division: Division
    task: LocalTask
    trainer: Trainer
    sent: Tensor
    reports: list[Report] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    given: int | None = None

    @property
    def store(self) -> ClientStore:
        """The rows that are kept per client."""
        return self.state.store

    def drawer(self, part: Part) -> Drawer:
        """What a part keeps from round to round."""
        return self.state.drawers.setdefault(part.group, {})
