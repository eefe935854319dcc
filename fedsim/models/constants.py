"""Numbers of a model that are the same at every step, made once per device."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return the values ``[n]`` in the type and on the device of another tensor; nobody may write into them.

    A tensor that is made anew at every step waits for its way to a GPU, and cannot be part of a recorded graph.
    """
    return _made(values, like.dtype, like.device)


@lru_cache(maxsize=8)
def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
