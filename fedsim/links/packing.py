"""Whole numbers of a few bits each, packed into bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` whole numbers of `bits` bits take."""
    return -(-count * bits // 8)


def pack(values: Tensor, bits: int) -> bytes:
    """Pack int64 values ``[n]`` from 0 to ``2 ** bits - 1``, the lowest bit of each first."""
    digits = (values.cpu()[:, None] >> torch.arange(bits)) & 1
    return np.packbits(digits.numpy().astype(np.uint8).reshape(-1)).tobytes()


def unpack(data: bytes, count: int, bits: int) -> Tensor:
    """Undo `pack`: int64 values ``[count]``."""
    digits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    return (torch.from_numpy(digits).long() << torch.arange(bits)).sum(1)


def floats(data: bytes, dtype: torch.dtype) -> Tensor:
    """Numbers ``[n]`` from their bytes."""
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
