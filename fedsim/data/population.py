"""All clients' samples in contiguous tensors.

A data source makes a `Dataset`, a partition says who holds which sample, and `build_population` puts the samples of
each client next to each other: client n owns ``offsets[n]:offsets[n + 1]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim import seeding
from fedsim.data.dataset import Assignment, Dataset, Forecast, Pooled, Score, Split, Task, WordTokens
from fedsim.data.fitted import NOTHING, Fitted
from fedsim.errors import UserError
from fedsim.spreadsheets import is_formula

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Samples ordered by client.

    Attributes:
        inputs: ``[S, T, D]`` float or ``[S, T]`` tokens, int64 unless the split is compact; with `starts`, the rows
            ``[R, D]`` of the windows.
        lengths: ``[S]`` int64, always on the CPU: batch shapes are decided there without waiting for a device.
        targets: as in `Split`.
        offsets: ``[N + 1]`` int64 on the CPU; client n owns samples ``offsets[n]:offsets[n + 1]``.
        sources: ``[S]`` int64 on the CPU, the data's own client that each sample is of, where that decides how it was
            scaled or is judged; else None.
        starts: ``[S]`` int64 on the device of the inputs, the first row of each window of T rows; None where samples
            do not share rows.
    """

    inputs: Tensor
    lengths: Tensor
    targets: Tensor
    offsets: Tensor
    sources: Tensor | None = None
    starts: Tensor | None = None

    @property
    def steps(self) -> int:
        """T, steps of a sample with its padding."""
        return self.inputs.shape[1] if self.starts is None else int(self.lengths.max() if len(self) else 1)

    def take(self, samples: Tensor) -> Tensor:
        """Return the inputs ``[n, T, D]`` or ``[n, T]`` of some samples ``[n]`` int64, on the device of the inputs."""
        if self.starts is None:
            taken = self.inputs.index_select(0, samples)
            return taken if taken.is_floating_point() else taken.long()
        rows, width = self.inputs, self.inputs.shape[1]
        # The numbers of a window lie next to each other: as one row of T * D, it is copied at once.
        windows = rows.reshape(-1).unfold(0, self.steps * width, width)
        return windows.index_select(0, self.starts.index_select(0, samples)).view(len(samples), -1, width)

    def take_targets(self, samples: Tensor) -> Tensor:
        """Return the targets of some samples ``[n]``, labels as int64."""
        taken = self.targets.index_select(0, samples)
        return taken if taken.is_floating_point() else taken.long()

    def part(self, first: int, last: int) -> Samples:
        """Return the samples from `first` to before `last`, as those of one client."""
        return Samples(
            self.inputs if self.starts is not None else self.inputs[first:last],
            self.lengths[first:last],
            self.targets[first:last],
            torch.tensor([0, last - first]),
            starts=None if self.starts is None else self.starts[first:last],
        )

    @property
    def sizes(self) -> Tensor:
        """``[N]`` int64, the number of samples of each client."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Population:
    """All clients of a federation with their samples.

    `validation` holds the training samples that are held back to judge the global model
    (``eval.validation_fraction``), and `local_validation` those that each client keeps for judging its own local model
    (``client.validation_fraction``); None if there are none. `unseen` are the clients that never train
    (``eval.unseen_clients``), and `sampled_from` is the number of clients of whom some are evaluated
    (``eval.clients``), or None. `fitted`, `forecast`, `score`, `words` and `facts` are those of the
    `Dataset`, `pooled` its `Dataset.from_all_clients`, and `notes` those of the partition, too; `source_names` are its
    own clients, to which `Samples.sources` point, and `groups` ``[N]`` the true groups of these clients, or None.
    """

    task: Task
    train: Samples
    test: Samples
    validation: Samples | None
    num_outputs: int
    input_size: int
    vocabulary_size: int | None
    client_names: Sequence[str]
    source_names: Sequence[str] = ()
    groups: NDArray[np.int64] | None = None
    fitted: Fitted = NOTHING
    forecast: Forecast | None = None
    score: Score | None = None
    words: WordTokens | None = None
    notes: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    pooled: tuple[Pooled, ...] = ()
    local_validation: Samples | None = None
    unseen: Population | None = None
    sampled_from: int | None = None

    @property
    def num_clients(self) -> int:
        """N, the number of clients."""
        return len(self.client_names)


def _gather_clients(
    split: Split, members: Sequence[NDArray[np.int64]], dtype: torch.dtype, sources: bool = False
) -> Samples:
    """Bring a split's samples into client order: a copy, unless they are in that order already."""
    order = np.concatenate(members) if members else np.zeros(0, np.int64)
    sizes = np.array([len(m) for m in members], np.int64)
    in_order = np.array_equal(order, np.arange(len(split)))

    def take(array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array if in_order else array[order]))
        if tensor.is_floating_point():
            return tensor.to(dtype)
        return tensor if split.compact else tensor.to(torch.int64)

    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    found = None if not sources or split.clients is None else take(split.clients)
    if split.starts is None:
        return Samples(take(split.inputs), take(split.lengths), take(split.targets), offsets, found)
    rows = torch.from_numpy(np.ascontiguousarray(split.inputs)).to(dtype)
    return Samples(rows, take(split.lengths), take(split.targets), offsets, found, take(split.starts))


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
    """Raise `UserError` if a client has no training samples, an unseen one included."""
    if assignment.unseen is not None:
        refuse_empty(assignment.unseen)
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
    train, local = list(assignment.train), None
    if validation_fraction > 0:
        train, held_out = _split_validation(train, assignment.client_names, validation_fraction, seed)
        local = _gather_clients(dataset.train, held_out, dtype)
    seen, sources = _population(dataset, replace(assignment, train=train), dtype), _by_source(dataset)
    validation = unseen = None
    if assignment.validation is not None:
        validation = _gather_clients(dataset.train, assignment.validation, dtype, sources=sources)
    if assignment.unseen is not None:
        unseen = _population(dataset, assignment.unseen, dtype)
    return replace(seen, validation=validation, local_validation=local, unseen=unseen)


def _population(dataset: Dataset, assignment: Assignment, dtype: torch.dtype) -> Population:
    """The clients of an assignment with their training and test samples."""
    tokens = dataset.vocabulary_size is not None
    return Population(
        task=dataset.task,
        train=_gather_clients(dataset.train, assignment.train, dtype),
        test=_gather_clients(dataset.test, assignment.test, dtype, sources=_by_source(dataset)),
        validation=None,
        num_outputs=dataset.num_outputs,
        input_size=0 if tokens else dataset.train.features,
        vocabulary_size=dataset.vocabulary_size,
        client_names=assignment.client_names,
        source_names=dataset.client_names or (),
        groups=dataset.groups_of(assignment.train),
        fitted=dataset.fitted,
        forecast=dataset.forecast,
        score=dataset.score,
        words=dataset.words,
        notes=(*dataset.notes, *assignment.notes, *_formulas(assignment.client_names)),
        facts=dataset.facts,
        pooled=dataset.from_all_clients,
        sampled_from=assignment.sampled_from,
    )


def _formulas(names: Sequence[str]) -> list[str]:
    """A note if a spreadsheet would take names of clients for formulas, and compute or fetch what they say."""
    found = [name for name in names if is_formula(name)]
    if not found:
        return []
    return [
        f"{len(found):,} of {len(names):,} names of clients look like formulas to a spreadsheet, such as {found[0]!r}: "
        "import clients.csv as text"
    ]


def _by_source(dataset: Dataset) -> bool:
    """Whether the errors of a sample depend on which of the data's own clients it is of."""
    forecast = dataset.forecast
    several = forecast is not None and forecast.naive_errors is not None and len(forecast.naive_errors) > 1
    return bool(dataset.fitted.clients) or several


def to_device(population: Population, device: torch.device) -> Population:
    """Move the samples (not lengths and offsets, which stay on the CPU) to a device."""

    def move(samples: Samples) -> Samples:
        starts = None if samples.starts is None else samples.starts.to(device)
        return replace(samples, inputs=samples.inputs.to(device), targets=samples.targets.to(device), starts=starts)

    return replace(
        population,
        train=move(population.train),
        test=move(population.test),
        validation=None if population.validation is None else move(population.validation),
        local_validation=None if population.local_validation is None else move(population.local_validation),
        unseen=None if population.unseen is None else to_device(population.unseen, device),
    )
