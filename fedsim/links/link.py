"""What a link is: an encoding for each direction, applied to rows, with or without error feedback."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim.aggregation.rules import BLOCK
from fedsim.client_store import ClientStore


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
class Link:
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

    @property
    def lossless_up(self) -> bool:
        """Whether deltas arrive as they were sent."""
        return isinstance(self.up, NoCompression)

    @property
    def lossless_down(self) -> bool:
        """Whether clients get the global model itself."""
        return isinstance(self.down, NoCompression)


def transmit(compressor: Compressor, rows: Tensor, clients: Tensor, key: int, store: ClientStore) -> Tensor:
    """Send rows ``[C, n]`` of `clients` ``[C]`` to the server; returns what arrives.

    With error feedback (Seide 2014; Karimireddy 2019, Algorithm 1, with the local delta in the place of the step) a
    client adds what was lost of its earlier deltas, and keeps what is lost now.
    """
    if compressor.error_feedback:
        rows = rows + store.read("link.error", clients, torch.zeros_like(rows))
    blocks = zip(rows.split(BLOCK), clients.split(BLOCK), strict=True)
    arrived = torch.cat([compressor.decoded(block, part, key) for block, part in blocks])
    if compressor.error_feedback:
        store.write("link.error", clients, rows - arrived)
    return arrived


def positions(rows: Tensor) -> Tensor:
    """``[n]`` int64, the positions in rows ``[C, n]``."""
    return torch.arange(rows.shape[1], device=rows.device)
