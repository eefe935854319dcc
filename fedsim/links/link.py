"""The link between clients and server: an encoding for each direction, with or without error feedback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch

from fedsim import seeding
from fedsim.client_store import ClientStore
from fedsim.core.cohort import BLOCK, Traffic, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.part import Bound, Link, Round
from fedsim.core.state import Drawer, State
from fedsim.models.blocks import Blocks

if TYPE_CHECKING:
    from torch import Tensor

SEEN, ERROR = "link.seen", "link.error"
"""Blocks of the client store: the last round in which a client got the model, and its accumulated encoding error."""
COPY, BEFORE = "copy", "before"
"""Entries of the drawer: the model that all clients hold, and the server's own model when it sent that one."""


@runtime_checkable
class Compressor(Protocol):
    """An encoding of rows ``[n]``. Both ends know n, the dtype and the settings."""

    @property
    def error_feedback(self) -> bool:
        """Whether the sender adds the error of earlier messages to the next one."""
        ...

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return what arrives when `clients` ``[C]`` send rows ``[C, n]``: ``decode(encode(row))`` of each, at once.

        Args:
            rows: the rows to send.
            clients: client numbers, which select the random streams to draw from.
            key: key of the round's random stream.
        """
        ...

    def size(self, count: int, itemsize: int) -> int:
        """Bytes of an encoded row of `count` values of `itemsize` bytes each."""
        ...

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Return the encoded row ``[n]`` of a client."""
        ...

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Return the row that was encoded, with the length and dtype of `like` ``[n]``."""
        ...


@dataclass(frozen=True)
class NoCompression:
    """Rows are sent as they are."""

    error_feedback: ClassVar[bool] = False

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return the rows unchanged."""
        return rows

    def size(self, count: int, itemsize: int) -> int:
        """Bytes of the values alone: both ends know the layout, so no header is needed."""
        return count * itemsize

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Return the values in the machine's byte order."""
        return row.cpu().numpy().tobytes()

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Return the values that `encode` was given."""
        return torch.frombuffer(bytearray(data), dtype=like.dtype)


@dataclass(frozen=True, kw_only=True)
class TwoWayLink(Link):
    """How models and deltas are encoded on their way between clients and server.

    Each direction has its own encoding, because the two are different problems: upstream every client encodes its own
    delta, downstream the server encodes one message for all clients.

    Downstream, the server sends the changes of the model. When a client is first asked, it gets a whole copy; later it
    gets the messages that it missed, or the copy if that is shorter (``bytes_down`` counts this). So all clients hold
    the same copy, from which they train: the sum of `down.decoded` of the model's changes.

    Control variates (SCAFFOLD) travel uncompressed, and private blocks not at all.

    Attributes:
        up: encoding of the clients' deltas.
        down: encoding of the changes of the global model.
    """

    up: Compressor = field(default_factory=NoCompression)
    down: Compressor = field(default_factory=NoCompression)

    facts: ClassVar[Facts] = frozenset()

    def conditional_facts(self) -> Mapping[Fact, str]:
        """Facts about which direction is lossy, and whether clients keep the error for later."""
        own: dict[Fact, str] = {}
        if not isinstance(self.up, NoCompression):
            own |= dict.fromkeys((Fact.LOSSY_UP, Fact.EXCHANGES), f"link/up={option_name(self.up)}")
        if not isinstance(self.down, NoCompression):
            own |= dict.fromkeys((Fact.LOSSY_DOWN, Fact.EXCHANGES), f"link/down={option_name(self.down)}")
        if self.up.error_feedback:
            own[Fact.FEEDS_BACK] = "link.up.error_feedback=true"
        return own

    def bind(self, bound: Bound) -> LinkInRun:
        """Return the link for the aggregated parameters of a model."""
        lossy = Fact.LOSSY_DOWN in self.conditional_facts()
        return LinkInRun(self.up, self.down, lossy, bound.blocks, bound.seed, bound.itemsize)


@dataclass(frozen=True)
class LinkInRun(Link):
    """A link, bound to the parameters that are sent.

    Attributes:
        up: encoding of the clients' deltas.
        down: encoding of the changes of the global model.
        lossy_down: whether clients hold a copy of the model instead of the model itself.
        blocks: which parameters are sent.
        seed: the run's seed.
        itemsize: bytes per parameter.
    """

    up: Compressor
    down: Compressor
    lossy_down: bool
    blocks: Blocks
    seed: int
    itemsize: int

    def start(self, row: Tensor) -> Drawer:
        """Return the first copy, which is the model itself: clients have nothing before, and get it whole."""
        if not self.lossy_down:
            return {}
        return {COPY: row.clone()} | ({} if self.down.error_feedback else {BEFORE: row.clone()})

    def broadcast(self, state: State, round_number: int) -> None:
        """Encode the change of the global model, and apply the decoded change to the copy of all clients.

        With error feedback the server encodes the difference between the model and the copy, which includes all errors
        so far.
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
        """Return the copy that clients hold, or the model itself without one."""
        return state.drawers[self.group][COPY] if self.lossy_down else state.row

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Replace the clients' rows by what arrives of them."""
        if isinstance(self.up, NoCompression):
            return updates
        key = seeding.stream_key(self.seed, "link.up", round.number)
        return (
            update._replace(rows=transmit(self.up, update.rows, update.clients, key, round.store)) for update in updates
        )

    def close(self, round: Round) -> None:
        """Record which clients now hold the copy of this round."""
        informed = round.cohort.informed
        if self.lossy_down and len(informed) > 0:
            now = round.state.row.new_full((len(informed), 1), round.number, dtype=torch.float64)
            round.store.write(SEEN, informed, now)

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Add an encoded row up and, down, the model or the messages that a client missed, if these are shorter."""
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

    With error feedback (Seide 2014; Karimireddy 2019, Algorithm 1, with the local delta as the step) a client adds the
    error of its earlier deltas to its row, and keeps the new error.
    """
    if compressor.error_feedback:
        rows = rows + store.read(ERROR, clients, torch.zeros_like(rows))
    blocks = zip(rows.split(BLOCK), clients.split(BLOCK), strict=True)
    arrived = torch.cat([compressor.decoded(block, part, key) for block, part in blocks])
    if compressor.error_feedback:
        store.write(ERROR, clients, rows - arrived)
    return arrived


def positions(rows: Tensor) -> Tensor:
    """``[n]`` int64, the positions 0, 1, ... in rows ``[C, n]``."""
    return torch.arange(rows.shape[1], device=rows.device)
