"""Send one bit per value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim.links.packing import floats, pack, packed_size, unpack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The signs and the mean magnitude, ``|x|_1 / n * sign(x)`` (Karimireddy 2019, "scaled sign"); zero counts as +.

    Bytes: the magnitude, in the dtype of the row; then the signs, packed.

    Attributes:
        error_feedback: whether the error of earlier messages is added to the next one; without it, the paper's
            counterexamples never converge.
    """

    error_feedback: bool = True

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return rows ``[C, n]`` whose values all have the mean magnitude of their row."""
        scale = rows.double().abs().mean(1, keepdim=True).to(rows.dtype)
        return torch.where(rows < 0, -scale, scale)

    def size(self, count: int, itemsize: int) -> int:
        """Bytes of a magnitude and of one bit per value."""
        return itemsize + packed_size(count, 1)

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Return the magnitude, then the packed signs."""
        scale = row.double()[None].abs().mean(1).to(row.dtype)
        return scale.cpu().numpy().tobytes() + pack((row < 0).long(), 1)

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Return the row ``[n]`` that `encode` made the bytes of, as it arrives."""
        scale = floats(data[: like.element_size()], like.dtype)
        return torch.where(unpack(data[like.element_size() :], len(like), 1) > 0, -scale, scale)
