"""What a data source returns, and which client holds which of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedsim.data.fitted import NOTHING, Fitted

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

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
        inputs: ``[S, T, D]`` float features, or ``[S, T]`` integer tokens, padded at the end; with `starts`, the rows
            ``[R, D]`` of which each sample is a window.
        lengths: ``[S]`` valid steps of each sequence, 1..T.
        targets: ``[S]`` integer labels, ``[S, T]`` integer labels with `IGNORE`, or ``[S, K]`` float.
        clients: ``[S]`` index into ``Dataset.client_names``, or None if the data have no clients of their own.
        starts: ``[S]``, the row with which each window of T rows begins; None where samples do not share rows.
        compact: whether integer inputs and targets keep their own type until a batch takes them, which leaves arrays on
            the disk there.
    """

    inputs: NDArray[np.generic]
    lengths: NDArray[np.int64]
    targets: NDArray[np.generic]
    clients: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None
    compact: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """T, steps of a sample with its padding."""
        return self.inputs.shape[1] if self.starts is None else int(self.lengths.max(initial=1))

    @property
    def features(self) -> int:
        """D, numbers in a step."""
        return int(self.inputs.shape[-1])

    def take(self, samples: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.generic]:
        """Return the inputs ``[n, T, D]`` or ``[n, T]`` of some samples, or of all: a copy if they are windows."""
        if self.starts is None:
            return self.inputs[samples]
        return np.lib.stride_tricks.sliding_window_view(self.inputs, self.steps, 0)[self.starts[samples]].swapaxes(1, 2)


@dataclass(frozen=True)
class Score:
    """A metric of particular data, in addition to those of their task.

    Attributes:
        name: ends the name of its column, ``test_{name}``.
        of: gives each sample's score from its error, predicted minus true in the target's own unit, ``[S] -> [S]``
            float64. Scores are summed. Only for regressions with one output.
    """

    name: str
    of: Callable[[Tensor], Tensor]


EXTRA = ("mape", "smape", "mase")
"""Metrics of a forecast that are measured only if asked for."""


@dataclass(frozen=True)
class Forecast:
    """How the K targets of a sample follow from steps ahead, and what is measured of a forecast.

    K = horizon x M x Q: the targets of the first step first, and each of the M targets once for every quantile.

    Attributes:
        horizon: steps ahead.
        quantiles: the Q quantiles that are predicted, ascending, 0.5 among them; empty where one number is.
        metrics: further metrics, of `EXTRA`.
        season: steps back to the value that the naive forecast repeats.
        places: where each target is among the features, or None for one that is not; a naive forecast needs them all.
        naive_errors: ``[G, M]``, the mean absolute error, in the targets' own units, of the naive forecast one season
            ahead in the training rows of each of the data's own clients: what ``mase`` divides by.
    """

    horizon: int = 1
    quantiles: tuple[float, ...] = ()
    metrics: tuple[str, ...] = ()
    season: int = 1
    places: tuple[int | None, ...] = ()
    naive_errors: NDArray[np.float64] | None = None


class Pooled(NamedTuple):
    """Something that was learnt from the samples of all clients together, before any training.

    No noise covers it: with differential privacy it lies outside epsilon.

    Attributes:
        what: such as ``the scale of the columns``.
        way_out: the setting that does without it, such as ``take data.scale=client``; empty if there is none, or if it
            would leave a model with little to learn from.
    """

    what: str
    way_out: str = ""


@dataclass(frozen=True)
class WordTokens:
    """Which tokens are no words, where the next word is predicted; they are counted apart in the metrics.

    Attributes:
        unknown: the numbers of the buckets of words that are not in the vocabulary, from the first to before the last.
        end: the number of the token that ends a sentence.
    """

    unknown: tuple[int, int]
    end: int


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
        groups: ``[N]`` int64, the true group of alike clients to which each of the data's own clients belongs, or None
            if there is none or nobody knows it. Nothing learns from it; clusters are judged by it.
        why_not_natural: the reason to give when ``partition=natural`` is asked for and there are no such clients.
        fitted: what was learnt from the training samples, names of labels, features and targets included. Errors of a
            regression, but not its losses, are told in the targets' own units.
        forecast: what the targets of a forecast are, or None.
        score: one more metric, or None.
        words: which tokens are no words, where the next word is predicted; else None.
        ordered: whether the samples (of each client, where there are clients) are in the order of time.
        stretches: ``[S]``, the stretch of time that each training sample is of, ascending within a client, where only
            the samples within a stretch are in the order of time; else None.
        overlap: how many of the training samples that follow one in time share time steps with it.
        held_anywhere: whether samples are held back for validation at any place in time instead of the end, because
            how much time is left is what the model predicts.
        notes: what was done to the data, or looks wrong in them: one line each, naming the key that changes it.
        facts: what the data are, such as rows and times of a table: labels with texts, for `fedsim.data.describe`.
        pooled: what was learnt from the samples of all clients together; None is all that `fitted` holds.
    """

    name: str
    task: Task
    train: Split
    test: Split
    num_outputs: int
    vocabulary_size: int | None = None
    client_names: tuple[str, ...] | None = None
    groups: NDArray[np.int64] | None = None
    why_not_natural: str = "these data have no clients of their own"
    fitted: Fitted = NOTHING
    forecast: Forecast | None = None
    score: Score | None = None
    words: WordTokens | None = None
    ordered: bool = False
    stretches: NDArray[np.int64] | None = None
    overlap: int = 0
    held_anywhere: bool = False
    notes: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    pooled: tuple[Pooled, ...] | None = None

    @property
    def from_all_clients(self) -> tuple[Pooled, ...]:
        """What was learnt from the samples of all clients together."""
        if self.pooled is not None:
            return self.pooled
        scaling = () if self.fitted.clients else (*self.fitted.scaling.features, *self.fitted.scaling.targets)
        found = {
            "the scale of features and targets": any((c.shift, c.scale) != (0, 1) for c in scaling),
            "the vocabulary": self.fitted.vocabulary,
            "the list of classes": self.fitted.labels,
        }
        return tuple(Pooled(what) for what, there in found.items() if there)

    def groups_of(self, members: Sequence[NDArray[np.int64]]) -> NDArray[np.int64] | None:
        """Return the true group ``[N]`` of clients with these training samples; None if one has samples of several."""
        if self.groups is None or self.train.clients is None:
            return None
        found = [np.unique(self.groups[self.train.clients[own]]) for own in members]
        return np.concatenate(found) if all(len(own) == 1 for own in found) else None

    @property
    def has_order(self) -> bool:
        """Whether training samples follow one another in time, all of a client's or those of a stretch."""
        return self.ordered or self.stretches is not None


@dataclass(frozen=True)
class Assignment:
    """Who holds which sample: for each client, indices into the data source's train and test split.

    A partition may also change what the clients see of their samples: ``observe(split, members, number)`` returns the
    split (number 0: train, 1: test) with other inputs, given the members of each client. Its `notes` say what it
    left out, as ``Dataset.notes`` do.

    Attributes:
        train: indices into the training split, for each client.
        test: indices into the test split.
        client_names: of the clients.
        observe: what clients see of their samples.
        notes: what was left out or held back.
        validation: indices into the training split that the global model is judged on; None if nothing is held back.
        unseen: clients that never train; None if all do.
        sampled_from: how many clients had test samples, of whom only a sample is evaluated; None if all are.
    """

    train: Sequence[NDArray[np.int64]]
    test: Sequence[NDArray[np.int64]]
    client_names: tuple[str, ...]
    observe: Callable[[Split, Sequence[NDArray[np.int64]], int], Split] | None = None
    notes: tuple[str, ...] = ()
    validation: Sequence[NDArray[np.int64]] | None = None
    unseen: Assignment | None = None
    sampled_from: int | None = None
