"""All clients' samples in contiguous tensors, and batches of a whole cohort by one gather.

A data source makes a `Dataset`, a partition says who holds which sample, and `build_population` puts the samples of
each client next to each other: client n owns ``offsets[n]:offsets[n + 1]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim import seeding
from fedsim.errors import UserError

IGNORE = -100
"""Target of a padded or unknown position: counted neither in the loss nor in the accuracy."""


class Task(StrEnum):
    """What the model predicts, which decides its head, its loss and its metrics."""

    CLASSIFICATION = "classification"
    """One label per sequence, read from the last valid step. Cross-entropy."""
    SEQUENCE_LABELLING = "sequence_labelling"
    """A label (or the next token) at every step. Cross-entropy, mean over the valid steps."""
    REGRESSION = "regression"
    """One or many real numbers per sequence, read from the last valid step. Mean squared error."""


@dataclass(frozen=True)
class Split:
    """The training or the test samples of a data source, before they are given to clients.

    Attributes:
        inputs: ``[S, T, D]`` float features, or ``[S, T]`` integer tokens, padded at the end.
        lengths: ``[S]`` valid steps of each sequence, 1..T.
        targets: ``[S]`` integer labels, ``[S, T]`` integer labels with `IGNORE`, or ``[S, K]`` float.
        clients: ``[S]`` index into ``Dataset.client_names``, or None if the data have no clients of their own.
    """

    inputs: NDArray[np.generic]
    lengths: NDArray[np.int64]
    targets: NDArray[np.generic]
    clients: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Score:
    """A metric that some data are judged by, beside those of their task.

    Attributes:
        name: ends the name of its column, ``test_{name}``.
        of: gives each sample's score from its error, predicted minus true in the unit of ``Dataset.target_unit``,
            ``[S] -> [S]`` float64. The scores are added up. Only for regressions with one output.
    """

    name: str
    of: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Dataset:
    """What a data source returns from ``load(seed)``.

    Attributes:
        name: for messages and records.
        task: what is predicted.
        train: training samples.
        test: test samples.
        num_outputs: classes, vocabulary entries or regression outputs.
        vocabulary_size: number of tokens where the inputs are tokens, else None.
        client_names: names of the data's own clients, or None.
        why_not_natural: what to say when ``partition=natural`` is asked for and there are no such clients.
        target_unit: what a regression target of 1 stands for; root mean square and mean absolute errors, not losses,
            are told in these units.
        score: one more metric, or None.
        ordered: whether the samples (of each client, where there are clients) stand in the order of time.
    """

    name: str
    task: Task
    train: Split
    test: Split
    num_outputs: int
    vocabulary_size: int | None = None
    client_names: tuple[str, ...] | None = None
    why_not_natural: str = "these data have no clients of their own"
    target_unit: float = 1.0
    score: Score | None = None
    ordered: bool = False


@dataclass(frozen=True)
class Samples:
    """Samples ordered by client.

    Attributes:
        inputs: ``[S, T, D]`` float or ``[S, T]`` int64 tokens.
        lengths: ``[S]`` int64, always on the CPU: batch shapes are decided there without waiting for a device.
        targets: as in `Split`.
        offsets: ``[N + 1]`` int64 on the CPU; client n owns samples ``offsets[n]:offsets[n + 1]``.
    """

    inputs: Tensor
    lengths: Tensor
    targets: Tensor
    offsets: Tensor

    @property
    def sizes(self) -> Tensor:
        """``[N]`` int64, the number of samples of each client."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Population:
    """All clients of a federation with their samples.

    `validation` holds the part of each client's training samples that it keeps for judging its own local model, or
    None if ``client.validation_fraction`` is 0.
    """

    task: Task
    train: Samples
    test: Samples
    validation: Samples | None
    num_outputs: int
    input_size: int
    vocabulary_size: int | None
    client_names: tuple[str, ...]
    target_unit: float = 1.0
    score: Score | None = None

    @property
    def judge(self) -> Callable[[Tensor], Tensor] | None:
        """The data's own score of errors as the model makes them, or None."""
        if (score := self.score) is None:
            return None
        return lambda error: score.of(error * self.target_unit)

    @property
    def num_clients(self) -> int:
        """N, the number of clients."""
        return len(self.client_names)


@dataclass(frozen=True)
class Assignment:
    """Who holds which sample: for each client, indices into the data source's train and test split.

    A partition may also change what the clients see of their samples: ``observe(split, members, number)`` returns the
    split (number 0: train, 1: test) with other inputs, given the members of each client.
    """

    train: Sequence[NDArray[np.int64]]
    test: Sequence[NDArray[np.int64]]
    client_names: tuple[str, ...]
    observe: Callable[[Split, Sequence[NDArray[np.int64]], int], Split] | None = None


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


def _gather_clients(split: Split, members: Sequence[NDArray[np.int64]], dtype: torch.dtype) -> Samples:
    """Bring a split's samples into client order: a copy, unless they lie in that order already."""
    order = np.concatenate(members) if members else np.zeros(0, np.int64)
    sizes = np.array([len(m) for m in members], np.int64)
    in_order = np.array_equal(order, np.arange(len(split)))

    def take(array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array if in_order else array[order]))
        return tensor.to(dtype) if tensor.is_floating_point() else tensor.to(torch.int64)

    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    return Samples(take(split.inputs), take(split.lengths), take(split.targets), offsets)


def _split_validation(
    members: Sequence[NDArray[np.int64]], names: Sequence[str], fraction: float, seed: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Take each client's validation samples out of its training samples, at least one and never all."""
    train, validation = [], []
    for client, (name, own) in enumerate(zip(names, members, strict=True)):
        if len(own) < 2:
            raise UserError(
                f"client.validation_fraction={fraction}: client {name!r} has {len(own)} training sample(s), and a "
                "validation split needs at least 2; raise partition.min_samples or take fewer clients"
            )
        count = min(max(1, round(fraction * len(own))), len(own) - 1)
        order = seeding.generator(seed, "validation", client).permutation(len(own))
        validation.append(np.sort(own[order[:count]]))
        train.append(np.sort(own[order[count:]]))
    return train, validation


def refuse_empty(assignment: Assignment) -> None:
    """Raise `UserError` if a client has no training samples."""
    for name, own in zip(assignment.client_names, assignment.train, strict=True):
        if len(own) == 0:
            raise UserError(f"client {name!r} would have no training samples")


def observed(dataset: Dataset, assignment: Assignment) -> Dataset:
    """The data as the clients see them."""
    if assignment.observe is None:
        return dataset
    train = assignment.observe(dataset.train, assignment.train, 0)
    return replace(dataset, train=train, test=assignment.observe(dataset.test, assignment.test, 1))


def build_population(
    dataset: Dataset, assignment: Assignment, *, validation_fraction: float, seed: int, dtype: torch.dtype
) -> Population:
    """Put every client's samples next to each other.

    Raises:
        UserError: if a client has no training samples, or too few for its validation split.
    """
    refuse_empty(assignment)
    dataset = observed(dataset, assignment)
    train, validation = list(assignment.train), None
    if validation_fraction > 0:
        train, held_out = _split_validation(train, assignment.client_names, validation_fraction, seed)
        validation = _gather_clients(dataset.train, held_out, dtype)
    tokens = dataset.vocabulary_size is not None
    return Population(
        task=dataset.task,
        train=_gather_clients(dataset.train, train, dtype),
        test=_gather_clients(dataset.test, list(assignment.test), dtype),
        validation=validation,
        num_outputs=dataset.num_outputs,
        input_size=0 if tokens else dataset.train.inputs.shape[2],
        vocabulary_size=dataset.vocabulary_size,
        client_names=assignment.client_names,
        target_unit=dataset.target_unit,
        score=dataset.score,
    )


def to_device(population: Population, device: torch.device) -> Population:
    """Move the samples (not lengths and offsets, which stay on the CPU) to a device."""

    def move(samples: Samples) -> Samples:
        return replace(samples, inputs=samples.inputs.to(device), targets=samples.targets.to(device))

    validation = None if population.validation is None else move(population.validation)
    return replace(population, train=move(population.train), test=move(population.test), validation=validation)


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

    def take(values: Tensor) -> Tensor:
        # index_select copies whole rows at once, which plain indexing with a matrix does not.
        return values.index_select(0, flat).view(*index.shape, *values.shape[1:])

    targets = take(samples.targets)
    if samples.targets.dim() == 2 and not samples.targets.is_floating_point():  # a target at every step
        targets = targets[..., :longest]
    return Batch(
        inputs=take(samples.inputs)[:, :, :longest],
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
    """Iterate, step by step, over which samples the clients that still train look at.

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
    # still_training[s] = how many clients take step s: those with more than s steps, which lie in front.
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
