"""What colluding attackers compute from the honest deltas, one block of parameters at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_NUMBERS = 2**21


def mean_and_std(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[n]`` float64 of each column of rows ``[b, n]`` (dividing by b)."""
    blocks = [block.double() for block in rows.split(max(1, BLOCK_NUMBERS // len(rows)), dim=1)]
    means = torch.cat([block.mean(0) for block in blocks])
    return means, torch.cat([block.std(0, correction=0) for block in blocks])
