"""Send one bit of every number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.links.packing import floats, pack, packed_size, unpack


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The signs and the mean magnitude, ``|x|_1 / n * sign(x)`` (Karimireddy 2019, "scaled sign"); zero counts as +.

    Bytes: the magnitude, in the numbers' type; then the signs, packed.

    Attributes:
        error_feedback: whether what was lost is added to what is sent next; without it, signs of the paper's
            counterexamples never converge.
    """

    error_feedback: bool = True

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Numbers of one magnitude in each row."""
        scale = rows.double().abs().mean(1, keepdim=True).to(rows.dtype)
        return torch.where(rows < 0, -scale, scale)

    def size(self, count: int, itemsize: int) -> int:
        """A magnitude and a bit each."""
        return itemsize + packed_size(count, 1)

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Magnitude, then signs."""
        scale = row.double()[None].abs().mean(1).to(row.dtype)
        return scale.cpu().numpy().tobytes() + pack((row < 0).long(), 1)

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Undo `encode`."""
        scale = floats(data[: like.element_size()], like.dtype)
        return torch.where(unpack(data[like.element_size() :], len(like), 1) > 0, -scale, scale)
