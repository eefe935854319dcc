"""Send the values at random positions of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.errors import check_above, check_between
from fedsim.links.link import positions
from fedsim.links.packing import floats
from fedsim.links.topk import kept

if TYPE_CHECKING:
    from torch import Tensor

SEED_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class RandK:
    """k values at random positions; all others arrive as zero (Konecny 2016, "random mask"; Stich 2018).

    What arrives is multiplied by ``n / k``, so that its mean is the row. Not so with error feedback, where the rest
    arrives later and scaling up would make the error grow.

    Bytes: the seed from which both ends draw the positions (8 bytes), then the values.

    Attributes:
        fraction: ``k / n``.
        error_feedback: whether the error of earlier messages is added to the next one.
    """

    option: ClassVar[str] = "randk"

    fraction: float = 0.05
    error_feedback: bool = False

    def __post_init__(self) -> None:
        check_above(self, 0, "fraction")
        check_between(self, 0, 1, "fraction", open_high=True)

    def _places(self, bits: Tensor) -> Tensor:
        """Positions ``[C, k]`` of the smallest of random bits ``[C, n]``."""
        return bits.argsort(dim=1, stable=True)[:, : kept(self.fraction, bits.shape[1])]

    def _factor(self, count: int) -> float:
        return 1.0 if self.error_feedback else count / kept(self.fraction, count)

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return the rows ``[C, n]`` with all but k random positions set to zero."""
        clients = clients.to(rows.device)
        places = self._places(seeding.random_bits(key, clients[:, None], positions(rows)))
        values = rows.gather(1, places) * self._factor(rows.shape[1])
        return torch.zeros_like(rows).scatter_(1, places, values)

    def size(self, count: int, itemsize: int) -> int:
        """Bytes of the seed and of the values."""
        return SEED_BYTES + kept(self.fraction, count) * itemsize

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Return the seed and the values; the seed is the round's stream at the client's number."""
        seed = int(seeding.random_bits(key, torch.tensor(client)))
        places = self._places(seeding.random_bits(seed, positions(row[None]))[None])[0]
        return seed.to_bytes(SEED_BYTES, "little", signed=True) + row[places].cpu().numpy().tobytes()

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Return the row ``[n]`` that `encode` made the bytes of, as it arrives."""
        seed = int.from_bytes(data[:SEED_BYTES], "little", signed=True)
        places = self._places(seeding.random_bits(seed, positions(like[None]))[None])[0]
        row = torch.zeros_like(like)
        row[places] = floats(data[SEED_BYTES:], like.dtype) * self._factor(len(like))
        return row
