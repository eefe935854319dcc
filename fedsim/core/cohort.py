"""Who takes part in a round, what they send, and how many bytes that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from fedsim.clients.report import Memory, Report
from fedsim.parallel.division import Division

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 64
"""Rows per float64 block: sums over clients run in float64 without a float64 copy of the whole cohort."""


class Cohort(NamedTuple):
    """Who takes part in a round.

    Attributes:
        clients: ``[C]`` int64, those who train and whose deltas are combined, ascending.
        steps: ``[C]`` int64, the local steps that each of them takes.
        informed: ``[k]`` int64, all clients to which a model is sent.
        versions: ``[C]`` int64, the version of the model that each of `clients` starts from; None for the newest.
        dropped: how many clients are asked but not combined.
        seconds: virtual duration of the round.
        late: ``[l]`` int64, clients that are cut off while they send; None for none.
        late_bytes: bytes that the late clients have sent by then.
        waiting: the clients still at work afterwards, for the drawer of an asynchronous schedule; else None.
    """

    clients: Tensor
    steps: Tensor
    informed: Tensor
    versions: Tensor | None = None
    dropped: int = 0
    seconds: float = 0.0
    late: Tensor | None = None
    late_bytes: int = 0
    waiting: dict[str, Tensor] | None = None

    def cut(self, division: Division) -> Cohort:
        """The cohort with `clients`, `steps` and `versions` cut to one process's part."""
        versions = None if self.versions is None else division.of(self.versions)
        return self._replace(clients=division.of(self.clients), steps=division.of(self.steps), versions=versions)

    def chunks(self, size: int) -> Iterator[Cohort]:
        """Cut the clients into chunks of nearly equal size, at most `size` each."""
        count = math.ceil(len(self.clients) / size)
        if count == 0:
            return
        versions = (None,) * count if self.versions is None else self.versions.tensor_split(count)
        columns = self.clients.tensor_split(count), self.steps.tensor_split(count), versions
        for clients, steps, given in zip(*columns, strict=True):
            yield self._replace(clients=clients, steps=steps, versions=given)


class Update(NamedTuple):
    """What a chunk of clients sends to the server.

    Attributes:
        clients: ``[c]`` int64 client numbers.
        rows: ``[c, n]`` deltas of the aggregated parameters, with the changes of the stages passed so far.
        report: what clients report along with their deltas, ``[c]`` each.
        memory: what the correction had stored for these clients before they trained, or None.
    """

    clients: Tensor
    rows: Tensor
    report: Report
    memory: Memory | None


class Traffic(NamedTuple):
    """The bytes of one round.

    Attributes:
        down: ``[k]`` int64, bytes that each informed client receives.
        before: bytes that each informed client sends before its row.
        row: bytes of a client's row.
        after: further bytes that a client sends, only if its row arrives.
        relayed_down: total bytes that servers send each other on the way down.
        relayed_up: total bytes that servers send each other on the way up.
    """

    down: Tensor
    before: int = 0
    row: int = 0
    after: int = 0
    relayed_down: int = 0
    relayed_up: int = 0

    @property
    def up(self) -> int:
        """All bytes that a client sends if its row arrives."""
        return self.before + self.row + self.after
