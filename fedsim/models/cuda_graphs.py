"""A local step's loss and gradient as one CUDA graph: recorded once per shape, replayed at every step after.

A recurrent net launches some ten small kernels per time step and layer, each of which runs for less time than its
launch takes. A replayed graph has one launch for all of them. A graph works on the memory that it was recorded with,
so batches and rows are copied into fixed tensors first, and the results out of them.

Shapes are rounded up, so that few graphs serve all the widths that a round comes with: a federation of unequal clients
has another number of active clients, another longest sequence and another widest batch at nearly every step.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch

from fedsim.data.batches import Batch
from fedsim.data.dataset import IGNORE
from fedsim.models import stacked
from fedsim.models.recurrent import Architecture

if TYPE_CHECKING:
    from torch import Tensor
    from torch.cuda import CUDAGraph


class _Recorded(NamedTuple):
    """A graph, the tensors it reads (`rows` and `batch`) and those it writes (`gradient` and `loss`)."""

    graph: CUDAGraph
    rows: Tensor
    batch: Batch
    gradient: Tensor
    loss: Tensor


class Graphs:
    """`stacked.loss_and_gradient` of rows on a CUDA device, without dropout, whose masks differ at every step.

    The graphs share the memory of their intermediate results, because only one of them runs at a time.

    Args:
        arch: the model.
        kernels: `torch_kernels`.
    """

    def __init__(self, arch: Architecture, kernels: ModuleType) -> None:
        self._arch, self._kernels = arch, kernels
        self._recorded: dict[tuple[int, int, int], _Recorded] = {}

    def loss_and_gradient(self, rows: Tensor, batch: Batch, gradient: Tensor) -> Tensor:
        """Replay the graph of this shape, after recording it if it is a new one.

        Args:
            rows: ``[C, P]``.
            batch: one minibatch per client.
            gradient: ``[C, P]``, overwritten with the gradient of each client's mean loss.

        Returns:
            ``[C]`` loss, as `stacked.loss_and_gradient`.
        """
        clients, width, steps = batch.inputs.shape[:3]
        shape = rounded_up(clients), rounded_up(width), rounded_up(steps)
        if shape not in self._recorded:
            self._recorded[shape] = self._record(shape, rows, batch)
        own = self._recorded[shape]
        own.rows[:clients].copy_(rows)
        _fill(own.batch, batch)
        own.graph.replay()
        gradient.copy_(own.gradient[:clients])
        return own.loss[:clients].clone()

    def _record(self, shape: tuple[int, int, int], rows: Tensor, batch: Batch) -> _Recorded:
        clients, width, steps = shape
        fixed = rows.new_zeros((clients, rows.shape[1]))
        gradient = torch.zeros_like(fixed)
        room = Batch(
            inputs=batch.inputs.new_zeros((clients, width, steps, *batch.inputs.shape[3:])),
            lengths=batch.lengths.new_zeros((clients, width)),
            targets=batch.targets.new_zeros((clients, width, *self._target_shape(batch, steps))),
            real=torch.zeros((clients, width), dtype=torch.bool, device=rows.device),
        )
        fixed[: len(rows)].copy_(rows)
        _fill(room, batch)
        views, slopes = self._arch.layout.views(fixed), self._arch.layout.views(gradient)

        def step() -> Tensor:
            return stacked.loss_and_gradient(self._arch, views, room, self._kernels, None, slopes)

        first = next(iter(self._recorded.values()), None)
        graph, loss = record(step, rows.device, None if first is None else first.graph)
        return _Recorded(graph, fixed, room, gradient, loss)

    def _target_shape(self, batch: Batch, steps: int) -> tuple[int, ...]:
        """The shape of a sample's target: ``()``, ``(K,)``, or ``(steps,)`` for one at every step."""
        return (steps,) if _every_step(batch) else tuple(batch.targets.shape[2:])


def record(step: Callable[[], Tensor], device: torch.device, sharing: CUDAGraph | None) -> tuple[CUDAGraph, Tensor]:
    """Record what `step` launches; return the graph and the tensor in which every replay leaves the result.

    Args:
        step: what to record. It runs once before, because libraries choose algorithms and take memory at a first call.
        device: where it runs.
        sharing: a graph whose memory of intermediate results is used too, or None.
    """
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=None if sharing is None else sharing.pool()):
        result = step()
    return graph, result


def rounded_up(count: int) -> int:
    """`count`, or the next number above it of which there are eight between one power of two and the next.

    At most an eighth of the work is for nothing, and a thousand widths need forty-odd graphs.
    """
    unit = max(1, 1 << max(0, count.bit_length() - 4))
    return -(-count // unit) * unit


def _every_step(batch: Batch) -> bool:
    return batch.targets.dim() == 3 and not batch.targets.is_floating_point()


def _fill(room: Batch, batch: Batch) -> None:
    """Copy a batch into the larger one of a graph; what is left over has no real sample and no target."""
    clients, width, steps = batch.inputs.shape[:3]
    assert room.real is not None
    whole = room.inputs.shape[:3] == batch.inputs.shape[:3]
    if not whole:
        room.inputs.zero_()  # not what an earlier batch left: it may not be finite
        room.lengths.zero_()
        room.real.zero_()
        room.targets.fill_(IGNORE if _every_step(batch) else 0)
    room.inputs[:clients, :width, :steps].copy_(batch.inputs)
    room.lengths[:clients, :width].copy_(batch.lengths)
    if _every_step(batch):
        room.targets[:clients, :width, :steps].copy_(batch.targets)
    else:
        room.targets[:clients, :width].copy_(batch.targets)
    if batch.real is None:
        room.real[:clients, :width].fill_(True)
    else:
        room.real[:clients, :width].copy_(batch.real)
