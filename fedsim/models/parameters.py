"""One flat row of P numbers per model: which numbers belong to which named parameter.

A model is a vector ``[P]``, a cohort is a matrix ``[C, P]``. Names are those of the plain ``torch.nn`` module of the
same shape (``recurrent.weight_ih_l0``); the part before the first dot is the parameter's block (embedding,
recurrent, pooling, projection, head).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ParameterLayout:
    """Names and shapes of a model's parameters, in their order in a row."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, parameters: Sequence[tuple[str, tuple[int, ...]]]) -> ParameterLayout:
        """Build a layout from ``(name, shape)`` pairs."""
        return cls(tuple(name for name, _ in parameters), tuple(shape for _, shape in parameters))

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each parameter is in a row."""
        slices, offset = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            slices[name] = slice(offset, offset + math.prod(shape))
            offset += math.prod(shape)
        return slices

    @cached_property
    def num_parameters(self) -> int:
        """P, the length of a row."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The block names in order of first appearance."""
        return tuple(dict.fromkeys(name.split(".")[0] for name in self.names))

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return each parameter as a view of `rows`.

        Args:
            rows: ``[C, P]``, or one row ``[P]``.

        Returns:
            ``{name: [C, *shape]}`` (``[*shape]`` for one row), sharing memory with `rows`.
        """
        lead = rows.shape[:-1]
        return {
            name: rows[..., self.slices[name]].view(*lead, *shape)
            for name, shape in zip(self.names, self.shapes, strict=True)
        }

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the row ``[P]`` that holds the named parameters (a ``state_dict``)."""
        missing, extra = set(self.names) - set(parameters), set(parameters) - set(self.names)
        if missing or extra:
            raise ValueError(f"parameters do not fit the layout: missing {sorted(missing)}, unknown {sorted(extra)}")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if tuple(parameters[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(parameters[name].shape)}, expected {shape}")
        return torch.cat([parameters[name].reshape(-1) for name in self.names])
