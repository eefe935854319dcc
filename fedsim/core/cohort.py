"""Who takes part in a round, what they send, and how many bytes that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from fedsim.clients.report import Memory, Report
from fedsim.parallel.share import Share

BLOCK = 64
"""Rows per float64 block: sums over clients run in float64 without a float64 copy of the whole cohort."""


class Cohort(NamedTuple):
    """Who takes part in a round.

    Attributes:
        clients: ``[C]`` int64, those who train and whose deltas are combined, ascending.
        steps: ``[C]`` int64, the local steps that each of them takes.
        informed: ``[k]`` int64, all to whom a model is sent.
        versions: ``[C]`` int64, the version of the model that each of `clients` starts from; None for the newest.
        dropped: how many were asked and are not combined.
        seconds: of the round, virtual.
        late: ``[l]`` int64, clients that are cut off while they send; None for none.
        late_bytes: what these have sent by then.
        waiting: who is still at work afterwards, for the drawer of an asynchronous schedule; None under any other.
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

    def cut(self, share: Share) -> Cohort:
        """The same with `clients`, and what belongs to each of them, cut to one process's share."""
        versions = None if self.versions is None else share.of(self.versions)
        return self._replace(clients=share.of(self.clients), steps=share.of(self.steps), versions=versions)

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
    """What a chunk of clients sends.

    Attributes:
        clients: ``[c]`` int64 client numbers.
        rows: ``[c, n]`` deltas of the parameters that are aggregated, as far as stages have changed them by now.
        report: what they say besides, ``[c]`` each.
        memory: what the correction remembered of them before they trained, or None.
    """

    clients: Tensor
    rows: Tensor
    report: Report
    memory: Memory | None


class Traffic(NamedTuple):
    """The bytes of one round.

    Attributes:
        down: ``[k]`` int64, what each of the informed clients receives.
        before: what each of them sends before its row.
        row: what a client sends for its row.
        after: what a client sends besides, if its row arrives.
        relayed_down: what servers send each other on the way down, in all.
        relayed_up: what servers send each other on the way up, in all.
    """

    down: Tensor
    before: int = 0
    row: int = 0
    after: int = 0
    relayed_down: int = 0
    relayed_up: int = 0

    @property
    def up(self) -> int:
        """What a client sends whose row arrives."""
        return self.before + self.row + self.after
