"""The way between clients and server: an encoding for each direction, with or without error feedback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.client_store import ClientStore
from fedsim.core.cohort import BLOCK, Traffic, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.part import Bound, Link, Round
from fedsim.core.state import Drawer, State
from fedsim.models.blocks import Blocks

SEEN, ERROR = "link.seen", "link.error"
"""Blocks of the client store: the last round in which a client was sent the model, and what it has lost so far."""
COPY, BEFORE = "copy", "before"
"""Entries of the drawer: the model that all clients hold, and the server's model when it sent that."""


@runtime_checkable
class Compressor(Protocol):
    """An encoding of rows of n numbers. Both ends know n, the type of the numbers and the settings."""

    @property
    def error_feedback(self) -> bool:
        """Whether the sender adds what was lost before to what it sends next."""
        ...

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """What arrives of rows ``[C, n]`` of `clients` ``[C]``: ``decode(encode(row))`` of each, all at once.

        Args:
            rows: numbers to send.
            clients: whose random streams to draw from.
            key: of the round's stream.
        """
        ...

    def size(self, count: int, itemsize: int) -> int:
        """Bytes of an encoded row of `count` numbers of `itemsize` bytes each."""
        ...

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """The bytes that stand for a row ``[n]``."""
        ...

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """The row that bytes stand for, of the length and type of `like` ``[n]``."""
        ...


@dataclass(frozen=True)
class NoCompression:
    """The numbers as they are."""

    error_feedback: ClassVar[bool] = False

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Everything arrives."""
        return rows

    def size(self, count: int, itemsize: int) -> int:
        """No header: both ends know the layout."""
        return count * itemsize

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """The numbers in the machine's own order of bytes."""
        return row.cpu().numpy().tobytes()

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """The same numbers."""
        return torch.frombuffer(bytearray(data), dtype=like.dtype)


@dataclass(frozen=True, kw_only=True)
class TwoWayLink(Link):
    """The way between clients and server.

    Each direction has an encoding of its own, because the two are different problems: upstream every client encodes
    its own delta, downstream the server encodes once for all.

    Downstream, the server sends by how much the model changed. In the first round in which a client is asked it gets
    the copy whole; later it gets the messages that it missed, or the copy if that is shorter (``bytes_down`` counts
    this). So all clients hold the same copy, from which they train: `down.decoded` of the model's changes, added up.

    Control variates (SCAFFOLD) travel uncompressed, and private blocks not at all.

    Attributes:
        up: of the clients' deltas.
        down: of the changes of the global model.
    """

    up: Compressor = field(default_factory=NoCompression)
    down: Compressor = field(default_factory=NoCompression)

    facts: ClassVar[Facts] = frozenset()

    def conditional_facts(self) -> Mapping[Fact, str]:
        """Which direction loses something, and whether clients keep what was lost."""
        own: dict[Fact, str] = {}
        if not isinstance(self.up, NoCompression):
            own |= dict.fromkeys((Fact.LOSSY_UP, Fact.EXCHANGES), f"link/up={option_name(self.up)}")
        if not isinstance(self.down, NoCompression):
            own |= dict.fromkeys((Fact.LOSSY_DOWN, Fact.EXCHANGES), f"link/down={option_name(self.down)}")
        if self.up.error_feedback:
            own[Fact.FEEDS_BACK] = "link.up.error_feedback=true"
        return own

    def bind(self, bound: Bound) -> LinkInRun:
        """Know what is sent."""
        lossy = Fact.LOSSY_DOWN in self.conditional_facts()
        return LinkInRun(self.up, self.down, lossy, bound.blocks, bound.seed, bound.itemsize)


@dataclass(frozen=True)
class LinkInRun(Link):
    """A link for rows of a known kind.

    Attributes:
        up: encoding of the clients' deltas.
        down: encoding of the changes of the global model.
        lossy_down: whether clients hold a copy of the model instead of the model itself.
        blocks: which parameters are sent.
        seed: of the run.
        itemsize: bytes of a number.
    """

    up: Compressor
    down: Compressor
    lossy_down: bool
    blocks: Blocks
    seed: int
    itemsize: int

    def start(self, row: Tensor) -> Drawer:
        """The first copy is the model itself: clients know nothing before, and get it whole."""
        if not self.lossy_down:
            return {}
        return {COPY: row.clone()} | ({} if self.down.error_feedback else {BEFORE: row.clone()})

    def broadcast(self, state: State, round_number: int) -> None:
        """Encode by how much the global model changed; the copy of all clients follows.

        With error feedback the server encodes by how much the model differs from the copy, which has in it all that
        was lost.
        """
        if not self.lossy_down:
            return
        drawer = state.drawers[self.group]
        copy = drawer[COPY].clone()
        change = self.blocks.cut(state.row - (copy if self.down.error_feedback else drawer[BEFORE]))
        no_client, key = torch.zeros(1, dtype=torch.int64), seeding.stream_key(self.seed, "link.down", round_number)
        drawer[COPY] = copy + self.blocks.scatter(self.down.decoded(change[None], no_client, key)[0])
        if not self.down.error_feedback:
            drawer[BEFORE] = state.row.clone()

    def received(self, state: State) -> Tensor:
        """The copy, where there is one."""
        return state.drawers[self.group][COPY] if self.lossy_down else state.row

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """What arrives of what clients send."""
        if isinstance(self.up, NoCompression):
            return updates
        key = seeding.stream_key(self.seed, "link.up", round.number)
        return (
            update._replace(rows=transmit(self.up, update.rows, update.clients, key, round.store)) for update in updates
        )

    def close(self, round: Round) -> None:
        """Note who holds the copy of this round."""
        informed = round.cohort.informed
        if self.lossy_down and len(informed) > 0:
            now = round.state.row.new_full((len(informed), 1), round.number, dtype=torch.float64)
            round.store.write(SEEN, informed, now)

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """A row up; down the model, or the messages that a client has missed if they are shorter."""
        whole = self.blocks.size * self.itemsize
        down = torch.full((len(clients),), whole, dtype=torch.int64)
        if self.lossy_down and len(clients) > 0:
            never = state.row.new_zeros((len(clients), 1), dtype=torch.float64)
            seen = state.store.read(SEEN, clients, never)[:, 0].cpu()
            messages = (round_number - seen) * self.down.size(self.blocks.size, self.itemsize)
            down -= ((whole - messages).clamp(min=0) * (seen > 0)).long()
        row = self.up.size(self.blocks.size, self.itemsize)
        return traffic._replace(down=traffic.down + down, row=traffic.row + row)


def transmit(compressor: Compressor, rows: Tensor, clients: Tensor, key: int, store: ClientStore) -> Tensor:
    """Send rows ``[C, n]`` of `clients` ``[C]`` to the server; returns what arrives.

    With error feedback (Seide 2014; Karimireddy 2019, Algorithm 1, with the local delta in the place of the step) a
    client adds what was lost of its earlier deltas, and keeps what is lost now.
    """
    if compressor.error_feedback:
        rows = rows + store.read(ERROR, clients, torch.zeros_like(rows))
    blocks = zip(rows.split(BLOCK), clients.split(BLOCK), strict=True)
    arrived = torch.cat([compressor.decoded(block, part, key) for block, part in blocks])
    if compressor.error_feedback:
        store.write(ERROR, clients, rows - arrived)
    return arrived


def positions(rows: Tensor) -> Tensor:
    """``[n]`` int64, the positions in rows ``[C, n]``."""
    return torch.arange(rows.shape[1], device=rows.device)
