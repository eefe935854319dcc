"""The server rejects updates that are not finite, before any rule sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.core.cohort import Update
from fedsim.core.part import Part, Round
from fedsim.core.results import Metrics
from fedsim.errors import Diverged
from fedsim.metrics import COLUMNS, Column

if TYPE_CHECKING:
    from torch import Tensor

REJECTED = "server.rejected"
"""Name of the round's note that counts the rows that this process has rejected."""


@dataclass(frozen=True)
class Screening(Part):
    """Rejects the rows of malicious clients that are not finite; the column ``rejected`` counts them.

    Every server can do this, and without it a single infinite value would end the run under most rules (0 times
    infinity is not a number). A rejected row counts for nothing: it is left out of the rule, its client remembers its
    own round and the server does not, and a round of which nothing is left changes nothing.

    This part is there if malicious clients choose what they send (the fact ``FORGES``) and the server sees rows, and
    wherever an epsilon is stated (``ACCOUNTED``): there no client may end the run, an honest one included.

    Attributes:
        everybody: whether the rows of honest clients are rejected, too, instead of ending the run.
    """

    everybody: bool = False

    group: ClassVar[str] = "screening"
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["rejected"],)

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Say in the reports which rows are finite, and set the others to zero.

        Raises:
            Diverged: if the row of an honest client is not finite, unless those are rejected, too.
        """
        for update in updates:
            rows, finite = count_as_zero(update.rows, round)
            broken = update.clients[~finite]
            honest = broken[~round.federation.attack.attackers(broken)]
            if len(honest) and not self.everybody:
                name = round.federation.population.client_names[int(honest[0])]
                raise Diverged(f"round {round.number}: the update of client {name!r} is not finite when it arrives")
            yield update._replace(rows=rows, report=replace(update.report, finite=finite))

    def measure(self, round: Round) -> Metrics:
        """Return how many rows of the round were rejected."""
        return {"rejected": round.division.add_up(int(round.notes.get(REJECTED, 0)))}


def count_as_zero(rows: Tensor, round: Round) -> tuple[Tensor, Tensor]:
    """Return rows ``[c, n]``, zero where a row was not finite, and which were, ``[c]`` bool; count the others."""
    finite = finite_rows(rows)
    if not bool(finite.all()):
        rows = rows.masked_fill(~finite.to(rows.device)[:, None], 0.0)
        round.notes[REJECTED] = round.notes.get(REJECTED, 0) + int((~finite).sum())
    return rows, finite


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows of ``[c, n]`` are finite, ``[c]`` bool on the CPU."""
    if math.isfinite(float(rows.sum())):  # much cheaper than a look at every number
        return torch.ones(len(rows), dtype=torch.bool)
    return torch.isfinite(rows).all(1).cpu()
