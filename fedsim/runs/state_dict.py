"""A plain ``state_dict`` in a safetensors file, for ``init_from``: a model that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from fedsim.errors import UserError
from fedsim.models.recurrent import Architecture

if TYPE_CHECKING:
    from torch import Tensor

_TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")


def is_state_dict(path: Path) -> bool:
    """Whether a file holds named parameters, and not the row of a run's checkpoint.

    Raises:
        UserError: for a file of ``torch.save``, which could run code and is never read.
    """
    try:
        if not path.is_file():
            return False
        with safe_open(path, framework="pt") as file:
            return "row" not in file.keys()  # noqa: SIM118  # not a mapping: it has no `in` of its own
    except (OSError, SafetensorError, ValueError):
        if path.suffix in _TORCH_FILES:
            raise UserError(
                f"{path}: is no safetensors file; files of torch.save can run code and are not read: write it with "
                "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
            ) from None
        return False  # reading it as a checkpoint says what is wrong


def read_state_dict(path: Path, arch: Architecture) -> Tensor:
    """Return the row ``[P]`` that the named parameters make.

    Args:
        path: a safetensors file with the names and shapes that ``fedsim export`` writes: ``embedding.weight``,
            ``recurrent.weight_ih_l0`` and so on as in ``torch.nn``, ``head.weight``, ``head.bias``.
        arch: the model that they must fit.

    Raises:
        UserError: if a name is missing, unknown, or of another shape, or a number is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        row = arch.layout.flatten(tensors)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from None
    if row.dtype not in (torch.float32, torch.float64):
        raise UserError(f"{path}: holds numbers of type {row.dtype}; must be float32 or float64")
    if not bool(torch.isfinite(row).all()):
        raise UserError(f"{path}: holds numbers that are not finite")
    return row
