"""Send every value in a few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim import seeding
from fedsim.errors import check_at_least, check_between, check_one_of
from fedsim.links.link import positions
from fedsim.links.packing import floats, pack, packed_size, unpack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Stochastic quantisation (QSGD, Alistarh 2017, section 3.1), with codes of fixed width.

    A value x in a bucket with norm v becomes ``sign(x) * v * l / s`` with ``s = 2 ** (bits - 1) - 1`` levels, where l
    is ``s * |x| / v`` rounded up or down at random so that it is unbiased. The paper's Elias codes are not used.

    With error feedback, what arrives is divided by ``1 + omega``, where omega bounds the relative variance, because
    feedback needs a contractive encoding (Beznosikov 2020, "On biased compression", section 2).

    Bytes: the norms of the buckets, in the dtype of the row; then sign and level of each value, packed.

    Attributes:
        bits: bits per value, its sign included.
        bucket: how many values share a norm; the last bucket of a row may have fewer.
        norm: ``l2``, as in the analysis, or ``max``, as in the paper's experiments (section 5), with less noise.
        error_feedback: whether the error of earlier messages is added to the next one.
    """

    bits: int = 8
    bucket: int = 512
    norm: str = "max"
    error_feedback: bool = False

    def __post_init__(self) -> None:
        check_between(self, 2, 16, "bits")
        check_at_least(self, 1, "bucket")
        check_one_of(self, "norm", ("l2", "max"))

    @property
    def levels(self) -> int:
        """``s``, the number of levels above zero."""
        return int(2 ** (self.bits - 1)) - 1

    def omega(self, count: int) -> float:
        """Bound on ``E|Q(x) - x|^2 / |x|^2`` for rows of `count` values.

        For ``l2`` it is Lemma 3.1 of the paper, ``min(b / s^2, sqrt(b) / s)`` with b values in a bucket.

        For ``max``, in steps of ``v / s`` the values are ``u_i = s |x_i| / v``, the largest of which is s and has no
        variance; the others have ``r (1 - r)``, r being the part of u_i after the point. That is at most 1/4, and the
        whole at most ``b / 4`` over ``|u|^2 >= s^2``. It is also at most u_i, and the whole at most
        ``sqrt(b) w / (s^2 + w^2) <= sqrt(b) / (2 s)``, where w is the length of the others' u.
        """
        width, s = min(self.bucket, count), self.levels
        if self.norm == "max":
            return float(min(width / (4 * s**2), width**0.5 / (2 * s)))
        return float(min(width / s**2, width**0.5 / s))

    def _quantized(self, rows: Tensor, clients: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """The norms ``[C, B]``, as they are sent, and the signed levels ``[C, n]`` int64."""
        count = rows.shape[1]
        width = min(self.bucket, count)
        buckets = torch.nn.functional.pad(rows.double(), (0, -count % width)).view(len(rows), -1, width)
        norms = buckets.abs().amax(2) if self.norm == "max" else buckets.norm(dim=2)
        norms = norms.to(rows.dtype)
        share = (buckets.abs() / norms.double()[..., None]).nan_to_num(nan=0.0)  # a bucket of zeros
        u = seeding.uniforms(key, clients.to(rows.device)[:, None], positions(rows))
        levels = (share.view(len(rows), -1)[:, :count] * self.levels + u).floor().clamp(max=self.levels).long()
        if self.error_feedback:
            norms = (norms.double() / (1 + self.omega(count))).to(rows.dtype)
        return norms, torch.where(rows < 0, -levels, levels)

    def _values(self, norms: Tensor, levels: Tensor) -> Tensor:
        """Values ``[C, n]`` from norms ``[C, B]`` and signed levels ``[C, n]``."""
        count = levels.shape[1]
        each = norms.double().repeat_interleave(min(self.bucket, count), 1)[:, :count]
        return (each * levels / self.levels).to(norms.dtype)

    def decoded(self, rows: Tensor, clients: Tensor, key: int) -> Tensor:
        """Return the rows ``[C, n]``, rounded to levels."""
        return self._values(*self._quantized(rows, clients, key))

    def _buckets(self, count: int) -> int:
        return -(-count // min(self.bucket, count))

    def size(self, count: int, itemsize: int) -> int:
        """Bytes of the norms and of the packed codes."""
        return self._buckets(count) * itemsize + packed_size(count, self.bits)

    def encode(self, row: Tensor, client: int, key: int) -> bytes:
        """Return the norms, then the codes: the sign in the highest bit, the level below it."""
        norms, levels = self._quantized(row[None], torch.tensor([client]), key)
        codes = levels[0].abs() + (levels[0] < 0).long() * 2 ** (self.bits - 1)
        return norms[0].cpu().numpy().tobytes() + pack(codes, self.bits)

    def decode(self, data: bytes, like: Tensor) -> Tensor:
        """Return the row ``[n]`` that `encode` made the bytes of, as it arrives."""
        head = self._buckets(len(like)) * like.element_size()
        codes = unpack(data[head:], len(like), self.bits)
        negative, levels = codes > self.levels, codes & self.levels
        return self._values(floats(data[:head], like.dtype)[None], torch.where(negative, -levels, levels)[None])[0]
