"""Batches of a whole cohort by one gather, in an order keyed by client and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim import seeding
from fedsim.data.population import Samples

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One minibatch of each client of a stack.

    Attributes:
        inputs: ``[C, b, T, D]`` float or ``[C, b, T]`` tokens.
        lengths: ``[C, b]`` int64, on the device of the inputs; 0 for samples that are not real.
        targets: ``[C, b]``, ``[C, b, T]`` or ``[C, b, K]``.
        real: ``[C, b]`` bool, False where a client's batch is shorter than the widest; None if all are real.
        padded: False if every sample has all T steps.
    """

    inputs: Tensor
    lengths: Tensor
    targets: Tensor
    real: Tensor | None
    padded: bool = True

    @property
    def num_samples(self) -> Tensor:
        """``[C]`` int64, how many samples each client's batch really has."""
        c, b = self.lengths.shape
        return self.lengths.new_full((c,), b) if self.real is None else self.real.sum(1)

    def of(self, clients: slice) -> Batch:
        """The minibatches of some of the clients."""
        real = None if self.real is None else self.real[clients]
        return Batch(self.inputs[clients], self.lengths[clients], self.targets[clients], real, self.padded)


def gather(samples: Samples, index: Tensor, real: Tensor | None) -> Batch:
    """Gather a batch per client, cut to its longest sequence.

    Args:
        samples: where to take from.
        index: ``[C, b]`` int64 on the CPU, sample numbers.
        real: ``[C, b]`` bool on the CPU, or None if every entry is real.
    """
    lengths = samples.lengths[index]
    if real is not None:
        lengths = torch.where(real, lengths, 0)
    shortest, longest = (int(bound) for bound in lengths.aminmax())
    device = samples.inputs.device
    flat = index.reshape(-1).to(device, non_blocking=True)

    def shaped(values: Tensor) -> Tensor:
        return values.view(*index.shape, *values.shape[1:])

    # index_select copies whole rows at once, which plain indexing with a matrix does not.
    targets = shaped(samples.take_targets(flat))
    if samples.targets.dim() == 2 and not samples.targets.is_floating_point():  # a target at every step
        targets = targets[..., :longest]
    return Batch(
        inputs=shaped(samples.take(flat))[:, :, :longest],
        lengths=lengths.to(device, non_blocking=True),
        targets=targets,
        real=None if real is None else real.to(device, non_blocking=True),
        padded=shortest < longest,
    )


def local_steps(sizes: Tensor, *, epochs: int | None, steps: int | None, batch_size: int | None) -> Tensor:
    """Return ``[C]`` int64, how many optimizer steps clients with `sizes` samples take in a round."""
    if steps is not None:
        return torch.full_like(sizes, steps)
    assert epochs is not None
    return epochs * _batches_per_epoch(sizes, batch_size)


def _batches_per_epoch(sizes: Tensor, batch_size: int | None) -> Tensor:
    return torch.ones_like(sizes) if batch_size is None else -(-sizes // batch_size)


def batch_indices(
    samples: Samples, clients: Tensor, steps: Tensor, batch_size: int | None, key: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Iterate over the local steps: which samples each client that is still training uses in each.

    Each client goes through its own samples in a fresh random order every local epoch; the last batch of an epoch
    holds what is left.

    Args:
        samples: training samples.
        clients: ``[C]`` int64 client numbers, ordered by `steps`, most first.
        steps: ``[C]`` int64 local steps of each client, descending.
        batch_size: samples per step, or None for all of them.
        key: stream key of the round.

    Returns:
        an iterator of index ``[A, b]`` int64 and real ``[A, b]`` bool (or None): the first A clients take this step.
    """
    sizes, starts = samples.sizes[clients], samples.offsets[:-1][clients]
    if bool((sizes == sizes[0]).all()) and int(steps[-1]) == int(steps[0]):
        return _even_batch_indices(clients, starts, int(sizes[0]), int(steps[0]), batch_size, key)
    return _uneven_batch_indices(clients, starts, sizes, steps, batch_size, key)


def _even_batch_indices(
    clients: Tensor, starts: Tensor, size: int, steps: int, batch_size: int | None, key: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """`batch_indices` where all clients have `size` samples: an epoch's batches are slices of its order."""
    width = batch_size or size
    per_epoch = -(-size // width)
    sizes = torch.full_like(clients, size)
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            order = starts[:, None] + seeding.permutations(key, clients, sizes, torch.full_like(clients, epoch))
        yield order[:, position * width : (position + 1) * width], None


def _uneven_batch_indices(
    clients: Tensor, starts: Tensor, sizes: Tensor, steps: Tensor, batch_size: int | None, key: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """`batch_indices` in general: every client is at its own place in its own epoch."""
    per_epoch = _batches_per_epoch(sizes, batch_size)
    order = torch.empty((len(clients), int(sizes.max())), dtype=torch.int64)
    # still_training[s] = how many clients take step s: those with more than s steps, which come first.
    still_training = (len(steps) - torch.bincount(steps).cumsum(0)).tolist()
    for step in range(int(steps[0])):
        active = still_training[step]
        position = step % per_epoch[:active]
        fresh = (position == 0).nonzero()[:, 0]
        if len(fresh):
            new = seeding.permutations(key, clients[fresh], sizes[fresh], step // per_epoch[fresh])
            order[fresh, : new.shape[1]] = starts[fresh, None] + new
        first = position * (batch_size or 0)
        left = sizes[:active] - first
        counts = left if batch_size is None else left.clamp(max=batch_size)
        column = torch.arange(int(counts.max()))
        at, real = first[:, None] + column, None
        if int(counts.min()) < len(column):
            real = column < counts[:, None]
            at = torch.where(real, at, 0)
        yield order[:active].gather(1, at), real
