"""Send the largest numbers of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsim.errors import check_above, check_between
from fedsim.links.packing import floats, pack, packed_size, unpack


def kept(fraction: float, count: int) -> int:
    """How many of `count` numbers are sent, at least one."""
    return max(1, round(fraction * count))


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k numbers of largest magnitude, the others are taken as zero (Aji 2017; Stich 2018, Definition 2.1).

    Bytes: the positions in ascending order, each in as many bits as the largest needs, packed; then the numbers.

    Attributes:
        fraction: ``k / n``.
        error_feedback: whether what was lost is added to what is sent next; without it small entries never arrive.
    """

    option: ClassVar[str] = "topk"

    fraction: float = 0.05
    error_feedback: bool = True

    def __post_init__(self) -> None:
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction", open_high=True)

    def _places(self, rows: Tensor) -> Tensor:
        """``[C, k]``; of equal magnitudes the first."""
        order = rows.abs().argsort(dim=1, descending=True, stable=True)
        return order[:, : kept(self.fraction, rows.shape[1])]

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """The largest, and zeros."""
        places = self._places(rows)
        return torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places))

    def size(self, count: int, itemsize: int) -> int:
        """Positions and numbers."""
        k = kept(self.fraction, count)
        return packed_size(k, (count - 1).bit_length()) + k * itemsize

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Positions, then numbers."""
        places = self._places(row[None])[0].sort().values
        return pack(places, (len(row) - 1).bit_length()) + row[places].cpu().numpy().tobytes()

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Undo `encode`."""
        k, bits = kept(self.fraction, len(like)), (len(like) - 1).bit_length()
        head = packed_size(k, bits)
        row = torch.zeros_like(like)
        row[unpack(data[:head], k, bits)] = floats(data[head:], like.dtype)
        return row
