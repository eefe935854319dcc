"""What an audit is: it looks at what a curious server sees anyway, and changes nothing of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fedsim.baselines.baseline import NoBaseline
from fedsim.clients.report import Report
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.corrections.correction import NoCorrection, Prox
from fedsim.data.population import Population
from fedsim.devices.system import Timed
from fedsim.errors import UserError, check_at_least
from fedsim.parallel.share import Share

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment


@runtime_checkable
class Audit(Protocol):
    """An audit; what it looks at, `ModelAudit` and `UpdateAudit` say."""

    columns: ClassVar[tuple[str, ...]]
    """What it adds to ``metrics.csv``."""

    def check(self, experiment: Experiment, population: Population) -> None:
        """Raise `UserError` where there is nothing to look at."""
        ...


@runtime_checkable
class ModelAudit(Protocol):
    """Looks at the global model whenever that is evaluated."""

    def examine(self, trainer: Trainer, row: Tensor, population: Population) -> dict[str, float]:
        """The columns, for the global model ``[P]``; what is not there is an empty cell."""
        ...


@runtime_checkable
class UpdateAudit(Protocol):
    """Looks at some clients' updates in one round, as they arrive at the server."""

    round: int
    clients: int

    def inspect(self, task: LocalTask, sent: Tensor, clients: Tensor, updates: Tensor, number: int) -> dict[str, float]:
        """The columns; what is not there is an empty cell.

        Args:
            task: what the clients train on: the truth that a guess is judged by.
            sent: ``[P]``, the model that they started from.
            clients: ``[c]`` client numbers.
            updates: ``[c, P]``, what arrived of their deltas.
            number: of the round.
        """
        ...


@dataclass(frozen=True)
class NoAudit:
    """Nobody looks."""

    columns: ClassVar[tuple[str, ...]] = ()

    def check(self, experiment: Experiment, population: Population) -> None:
        """Goes with everything."""


@dataclass(frozen=True, kw_only=True)
class OfUpdates:
    """What audits of updates have in common.

    Attributes:
        round: in which the server looks. A round without clients leaves the cells empty.
        clients: whose updates it looks at, the first of the round's cohort; the columns are means over them.
    """

    round: int = 1
    clients: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "round", "clients")

    def _check_updates(self, name: str, e: Experiment) -> None:
        """Single updates must reach a server, and come from training on the client's samples alone."""
        if not isinstance(e.baseline, NoBaseline):
            raise UserError(f"{name}: a baseline has no server that sees updates; take baseline=none")
        if getattr(e.privacy, "hides_rows", False):
            raise UserError(
                f"{name}: under secure aggregation the server sees a sum and no client's update, which is what there "
                "would be to look at; audit=membership looks at the model"
            )
        if isinstance(e.system, Timed) and e.system.late == "partial":
            raise UserError(f"{name}: takes clients to have done all their local steps; take system.late=drop")
        if self.round > e.rounds:
            raise UserError(f"audit.round={self.round}: is after the last of rounds={e.rounds}")
        correction = e.aggregator.correction
        if not isinstance(correction, NoCorrection | Prox):
            raise UserError(
                f"{name}: aggregator/correction={type(correction).__name__.lower()} mixes more into an update than the "
                "client's samples; take aggregator/correction=none or prox"
            )


def overheard(
    audit: Audit, arrived: Iterator[tuple[Tensor, Report]], number: int, share: Share, kept: list[Tensor]
) -> Iterator[tuple[Tensor, Report]]:
    """Pass on what arrives of a share, and keep ``[c, P]`` of the clients whose updates the audit looks at."""
    if not isinstance(audit, UpdateAudit) or number != audit.round:
        return arrived

    def listening() -> Iterator[tuple[Tensor, Report]]:
        wanted = share.first(audit.clients)
        for deltas, report in arrived:
            if wanted > 0:
                kept.append(deltas[:wanted].clone())
                wanted -= len(kept[-1])
            yield deltas, report

    return listening()
