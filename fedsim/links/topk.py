"""Send only the largest values of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.errors import check_above, check_between
from fedsim.links.packing import floats, pack, packed_size, unpack

if TYPE_CHECKING:
    from torch import Tensor


def kept(fraction: float, count: int) -> int:
    """How many of `count` values are sent, at least one."""
    return max(1, round(fraction * count))


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k values of largest magnitude; all others arrive as zero (Aji 2017; Stich 2018, Definition 2.1).

    Bytes: the positions in ascending order, packed with as many bits each as the largest needs; then the values.

    Attributes:
        fraction: ``k / n``.
        error_feedback: whether the error of earlier messages is added to the next one; without it, small values may
            never arrive.
    """

    option: ClassVar[str] = "topk"

    fraction: float = 0.05
    error_feedback: bool = True

    def __post_init__(self) -> None:
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction", open_high=True)

    def _places(self, rows: Tensor) -> Tensor:
        """Positions ``[C, k]`` of the values to send; ties go to the first."""
        order = rows.abs().argsort(dim=1, descending=True, stable=True)
        return order[:, : kept(self.fraction, rows.shape[1])]

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return the rows ``[C, n]`` with all but the k largest values set to zero."""
        places = self._places(rows)
        return torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places))

    def size(self, count: int, itemsize: int) -> int:
        """Bytes of the packed positions and of the values."""
        k = kept(self.fraction, count)
        return packed_size(k, (count - 1).bit_length()) + k * itemsize

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Return the packed positions, then the values."""
        places = self._places(row[None])[0].sort().values
        return pack(places, (len(row) - 1).bit_length()) + row[places].cpu().numpy().tobytes()

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Return the row ``[n]`` that `encode` made the bytes of, as it arrives."""
        k, bits = kept(self.fraction, len(like)), (len(like) - 1).bit_length()
        head = packed_size(k, bits)
        row = torch.zeros_like(like)
        row[unpack(data[:head], k, bits)] = floats(data[head:], like.dtype)
        return row
