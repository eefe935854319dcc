"""What audits have in common: they look at what a curious server sees anyway, and do not change the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.task import LocalTask
from fedsim.core.cohort import Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Audit, Round
from fedsim.core.results import Metrics
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_at_least

if TYPE_CHECKING:
    from torch import Tensor

SEEN = "audit.seen"
"""Name of the round's note that holds the rows the server looks at."""


@dataclass(frozen=True)
class NoAudit(Audit):
    """No audit."""

    facts: ClassVar[Facts] = frozenset()


@dataclass(frozen=True, kw_only=True)
class UpdateAudit(Audit, ABC):
    """Looks at some clients' updates in one round, as they arrive at the server.

    Attributes:
        round: the round in which the server looks. If it has no clients, the cells stay empty.
        clients: how many clients' updates it looks at, the first of the round's cohort; the columns are means over
            them.
    """

    round: int = 1
    clients: int = 1

    facts: ClassVar[Facts] = frozenset({Fact.READS_UPDATES})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "round", "clients")

    def check(self, setting: Setting) -> None:
        """Refuse a round after the last."""
        if self.round > setting.rounds:
            raise UserError(f"audit.round={self.round}: is after the last of rounds={setting.rounds}")

    @abstractmethod
    def inspect(
        self, task: LocalTask, sent: Tensor, clients: Tensor, updates: Tensor, round_number: int
    ) -> dict[str, float]:
        """Return the values of the columns; those left out become empty cells.

        Args:
            task: what the clients train on, the ground truth for judging a guess.
            sent: ``[P]``, the model that they started from.
            clients: ``[c]`` int64 client numbers.
            updates: ``[c, P]``, their deltas as they arrived.
            round_number: 1, 2, ...
        """

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Keep a copy of the first clients' rows, in the audited round."""
        if round.number != self.round:
            yield from updates
            return
        kept: list[Tensor] = round.notes.setdefault(SEEN, [])
        wanted = round.division.first(self.clients)
        for update in updates:
            if wanted > 0:
                kept.append(update.rows[:wanted].clone())
                wanted -= len(kept[-1])
            yield update

    def measure(self, round: Round) -> Metrics:
        """Return the columns for the rows that were kept, in the audited round."""
        if round.number != self.round or len(round.cohort.clients) == 0:
            return {}
        seen = round.federation.blocks.scatter(round.division.whole_first(round.notes[SEEN]))
        clients = round.cohort.clients[: len(seen)]
        return {**self.inspect(round.task, round.sent, clients, seen, round.number)}
