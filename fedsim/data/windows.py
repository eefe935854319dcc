"""Windows of a table: which rows train and which test, on what scale, and how samples are cut from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.dataset import Dataset, Forecast, Split, Task
from fedsim.data.fitted import Fitted
from fedsim.data.table_frame import shorten
from fedsim.data.table_mask import target_known
from fedsim.data.tables import Table
from fedsim.data.window_scales import GivenScales, pooled, record, scaled
from fedsim.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"
Ints: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True)
class Pieces:
    """Stretches of consecutive rows from which windows are cut.

    Attributes:
        owner: ``[G]`` number of the client of each.
        first: ``[G]`` its first row.
        counts: ``[G]`` how many windows it gives, perhaps none.
    """

    owner: Ints
    first: Ints
    counts: Ints

    def per_client(self, clients: int) -> Ints:
        """``[N]`` windows of each client."""
        found = np.zeros(clients, np.int64)
        np.add.at(found, self.owner, self.counts)
        return found

    def windows(self, stride: int) -> tuple[Ints, Ints]:
        """``[S]`` the piece that each window is cut from, and ``[S]`` its first row."""
        place = np.arange(self.counts.sum()) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        of = np.repeat(np.arange(len(self.counts)), self.counts)
        return of, self.first[of] + place * stride


@dataclass(frozen=True)
class Windows:
    """How samples are cut; see `fedsim.data.csv.Csv` for the fields."""

    path: str | None
    targets: tuple[str, ...]
    task: str
    window: int
    ahead: int
    stride: int
    test_fraction: float
    scale: str
    short: str
    season: int = 1
    metrics: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    scales: GivenScales = ()

    @property
    def extent(self) -> int:
        """Rows that a sample uses, its targets included."""
        return self.window + self.ahead

    def dataset(self, table: Table, fitted: Fitted | None = None) -> Dataset:
        """Cut the training and the test samples of all clients.

        Args:
            table: the rows.
            fitted: labels and scaling of other data, by which these are to be prepared; None fits them.

        Raises:
            UserError: if there are none, or too many for the memory.
        """
        notes = list(table.notes)
        clients = len(table.sizes)
        kept = self._long_enough(table, notes)  # numbers of the clients that take part
        first, sizes = np.cumsum(table.sizes) - table.sizes, np.zeros(clients, np.int64)
        sizes[kept] = table.sizes[kept]
        test_sizes = (sizes * self.test_fraction).astype(np.int64)
        train_sizes = sizes - test_sizes - self.extent  # the rows of the gap belong to neither
        train = self._pieces(table, first, np.maximum(train_sizes, 0))
        test = self._pieces(table, first + sizes - test_sizes, test_sizes)
        tested = (train.per_client(clients) > 0) & (test.per_client(clients) > 0)
        self._report_untested([table.clients[k] for k in kept[~tested[kept]]], len(kept), len(table.breaks), notes)
        train = self._pieces(table, first, np.where(tested, train_sizes, sizes))
        test = self._pieces(table, first + sizes - test_sizes, np.where(tested, test_sizes, 0))
        if len(table.absent):
            train, test, kept = self._with_targets(table, train, test, kept, notes)
        self._check_memory(int(train.counts.sum() + test.counts.sum()))
        ends = self._training_ends(table, train)
        owner = np.repeat(np.arange(clients), table.sizes)
        training = np.arange(len(table.values)) < ends[owner]
        values, scales = scaled(
            table.values, owner, training, table, table.clients, self.scale, self.scales, fitted, notes
        )
        number = np.zeros(clients, np.int64)
        number[kept] = np.arange(len(kept))
        inputs = np.ascontiguousarray(values[:, : table.num_features])  # one array, which all windows share
        splits = [self._split(table, inputs, values, pieces, number) for pieces in (train, test)]
        labels: tuple[str, ...] = ()
        if self.task == "classification":
            splits, labels = number_labels(splits, table.label_names, notes, fitted.labels if fitted else ())
        return Dataset(
            name="csv",
            task=Task.CLASSIFICATION if labels else Task.REGRESSION,
            train=splits[0],
            test=splits[1],
            num_outputs=len(labels) or splits[0].targets.shape[1],
            client_names=tuple(table.clients[k] for k in kept) if table.natural else None,
            ordered=True,
            overlap=-(-self.extent // self.stride) - 1,
            why_not_natural="one file without data.client_column is one series, not clients",
            fitted=record(table, table.clients, scales, kept, () if labels else self.targets, labels),
            forecast=self._forecast(table, ends, test, kept) if self.ahead else None,
            notes=tuple(notes),
            facts=table.facts,
            pooled=pooled(table, scales, self.scale, fitted is not None, labels),
        )

    def _pieces(self, table: Table, first: Ints, sizes: Ints) -> Pieces:
        """Cut each client's `sizes` rows from row `first` on at the table's breaks."""
        begin = table.stretches
        end = np.append(begin[1:], len(table.values))
        owner = np.searchsorted(np.cumsum(table.sizes), begin, side="right")
        start = np.maximum(begin, first[owner])
        rows = np.minimum(end, (first + sizes)[owner]) - start
        return Pieces(owner, start, np.maximum((rows - self.extent) // self.stride + 1, 0))

    def _long_enough(self, table: Table, notes: list[str]) -> Ints:
        """Return the numbers of the clients with rows for at least one sample."""
        begin = table.stretches
        longest = np.zeros(len(table.sizes), np.int64)
        lengths = np.diff(np.append(begin, len(table.values)))
        np.maximum.at(longest, np.searchsorted(np.cumsum(table.sizes), begin, side="right"), lengths)
        short = np.flatnonzero(longest < self.extent)
        needs = f"the {self.extent} rows of a sample (data.window={self.window}"
        needs += f" and data.horizon={self.ahead})" if self.ahead else ")"
        names = [table.clients[k] for k in short]
        if len(short) and (self.short == "error" or len(short) == len(table.sizes)):
            way_out = "" if len(short) == len(table.sizes) else ", or leave such clients out with data.short=drop"
            more = f", as have {len(short) - 1} more of {len(table.sizes)} clients" if len(short) > 1 else ""
            rows, between = int(table.sizes[short[0]]), int(longest[short[0]])
            has = f"{rows} rows"
            if between < rows:
                has += f", but at most {between} without a gap"
                way_out += ", or let windows cross gaps with data.gaps=ignore"
            raise UserError(
                f"data.path={self.path}: client {names[0]!r} has {has}, fewer than {needs}"
                f"{more}; take a smaller window{way_out}"
            )
        if len(short):
            notes.append(
                f"left out {len(short)} of {len(table.sizes)} clients, which have fewer than {needs}: {shorten(names)} "
                "(data.short=drop)"
            )
        unused = int(lengths[lengths < self.extent].sum()) - int(table.sizes[short].sum())
        if unused > 0:
            notes.append(f"{unused:,} rows lie between gaps that are closer than {needs}, and are in no window")
        return np.flatnonzero(longest >= self.extent)

    def _report_untested(self, names: list[str], clients: int, breaks: int, notes: list[str]) -> None:
        """Note clients without a test part, or raise `UserError` if no client has one."""
        needs = f"a test part needs {self.extent} rows and training {2 * self.extent} before it"
        if breaks:
            needs += f", without one of the {breaks:,} gaps that data.gaps=split keeps"
        if len(names) == clients:
            raise UserError(
                f"data.test_fraction={self.test_fraction:g}: no client has enough rows to test on ({needs}); take "
                "another fraction or a smaller data.window"
            )
        if names:
            notes.append(
                f"{len(names)} of {clients} clients have too few rows to test on ({needs}; data.test_fraction="
                f"{self.test_fraction:g}), and train on all of them: {shorten(names)}"
            )

    def _check_memory(self, samples: int) -> None:
        """Refuse targets that do not fit in memory, which holds them twice while they are put in client order."""
        bytes_each = 4 * max(self.ahead, 1) * len(self.targets) * max(len(self.quantiles), 1) + 24
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
        if 2 * samples * bytes_each > there:
            raise UserError(
                f"data.stride={self.stride}: the targets of {samples:,} windows take "
                f"{samples * bytes_each / 2**30:,.1f} GiB, and twice that while they are loaded; this machine has "
                f"{there / 2**30:,.1f} GiB; raise data.stride"
            )

    def _training_ends(self, table: Table, train: Pieces) -> Ints:
        """``[N]``, the row behind the last that each client trains with; 0 for one that is left out."""
        ends = np.zeros(len(table.sizes), np.int64)
        used = train.counts > 0
        last = train.first[used] + (train.counts[used] - 1) * self.stride + self.extent
        np.maximum.at(ends, train.owner[used], last)
        return ends

    def _forecast(self, table: Table, ends: Ints, test: Pieces, kept: Ints) -> Forecast:
        """What the targets are, and how well the naive forecast does in the training rows.

        Raises:
            UserError: if a test target is 0 and a percentage of it is wanted.
        """
        at = [table.columns.index(name) for name in self.targets]
        if "mape" in self.metrics:
            begin = test.windows(self.stride)[1] + self.window
            seen = np.concatenate([[0], np.cumsum((table.values[:, at] == 0).any(1))])
            if hits := int((seen[begin + self.ahead] > seen[begin]).sum()):
                raise UserError(
                    f"data.metrics: mape divides by what is to be predicted, which is 0 in {hits:,} of {len(begin):,} "
                    "test windows; take smape or mase"
                )
        return Forecast(
            horizon=self.ahead,
            quantiles=self.quantiles,
            metrics=self.metrics,
            season=self.season,
            places=tuple(k if k < table.num_features else None for k in at),
            naive_errors=naive_errors(table, ends, at, self.season)[kept],
        )

    def _with_targets(
        self, table: Table, train: Pieces, test: Pieces, kept: Ints, notes: list[str]
    ) -> tuple[Pieces, Pieces, Ints]:
        """Leave out the windows, and the clients, that need a missing target."""
        before = int(train.counts.sum() + test.counts.sum())
        first, last = (self.window, self.extent - 1) if self.ahead else (self.window - 1, self.window - 1)
        train, test = (
            Pieces(pieces.owner[of][known], rows[known], np.ones(int(known.sum()), np.int64))
            for pieces in (train, test)
            for of, rows in [pieces.windows(self.stride)]
            for known in [target_known(table.absent, rows, first, last)]
        )
        left = kept[train.per_client(len(table.sizes))[kept] > 0]
        if not len(left) or not len(test.first):
            raise UserError(
                f"data.path={self.path}: no window for {'testing' if len(left) else 'training'} has a target"
            )
        test = Pieces(*(values[np.isin(test.owner, left)] for values in (test.owner, test.first, test.counts)))
        lost = before - int(train.counts.sum() + test.counts.sum())
        if lost:
            notes.append(f"{lost:,} of {before:,} windows need a missing target, and are left out (data.missing=mask)")
        if gone := [table.clients[k] for k in np.setdiff1d(kept, left)]:
            notes.append(f"left out {len(gone):,} clients without a training window that has a target: {shorten(gone)}")
        return train, test, left

    def _split(
        self,
        table: Table,
        inputs: NDArray[np.float32],
        values: NDArray[np.float32],
        pieces: Pieces,
        number: Ints,
    ) -> Split:
        """Cut the windows of each piece; `number` is what its client is called in the split."""
        of, rows = pieces.windows(self.stride)
        targets: NDArray[np.generic]
        if self.task == "classification":
            targets = table.labels[rows + self.window - 1]
        else:
            predicted = values[:, [table.columns.index(name) for name in self.targets]]
            ahead = _cut(predicted, rows + self.extent - max(self.ahead, 1), max(self.ahead, 1))
            targets = ahead.reshape(len(rows), -1).repeat(max(len(self.quantiles), 1), axis=1)
        lengths = np.full(len(rows), self.window, np.int64)
        owners = number[pieces.owner[of]] if table.natural else None
        return Split(inputs, lengths, targets, owners, rows)


def _cut(values: NDArray[np.float32], rows: Ints, length: int) -> NDArray[np.float32]:
    """Copy the windows ``[S, length, D]`` of ``[R, D]`` that start at each row in `rows`."""
    width = values.shape[1]
    # Consecutive rows are contiguous, so a window is one piece of memory.
    pieces = np.lib.stride_tricks.sliding_window_view(np.ascontiguousarray(values).reshape(-1), length * width)
    windows: NDArray[np.float32] = pieces[rows * width].reshape(len(rows), length, width)
    return windows


def naive_errors(table: Table, ends: Ints, columns: list[int], season: int) -> Floats:
    """``[N, M]``, the mean of ``|y[t] - y[t - season]|`` in each client's training rows, of M columns.

    Pairs of rows with a gap between them do not count; where there is no pair, the mean is 0.

    Args:
        table: the rows.
        ends: ``[N]``, the row behind each client's last training row.
        columns: numbers of the M columns.
        season: rows from one value to the next that it is compared with.
    """
    means = np.zeros((len(table.sizes), len(columns)))
    for client, (first, end) in enumerate(zip(np.cumsum(table.sizes) - table.sizes, ends, strict=True)):
        if end - first > season:
            rows = table.values[first:end, columns]
            behind = np.searchsorted(table.breaks, np.arange(first, end), side="right")
            together = behind[season:] == behind[:-season]
            if together.any():
                means[client] = np.abs(rows[season:] - rows[:-season])[together].mean(0)
    return means


def number_labels(
    splits: list[Split], names: tuple[str, ...], notes: list[str], fitted: tuple[str, ...], what: str = "window"
) -> tuple[list[Split], tuple[str, ...]]:
    """Number the labels that samples have from 0, in their order or as in `fitted`; return splits and labels."""
    train, test = (np.bincount(split.targets.astype(np.int64), minlength=len(names)) for split in splits)
    used = np.flatnonzero(train + test)
    if fitted:
        if new := [names[k] for k in used if names[k] not in fitted]:
            raise UserError(
                f"data.target_column: these data have labels that the model does not know: {shorten(new)}; it knows "
                f"{shorten(fitted)}"
            )
    elif len(used) < 2:
        raise UserError(
            f"data.target_column: all {what}s have the same label {names[used[0]]!r}, so there is nothing to learn"
        )
    unseen = np.flatnonzero((train == 0) & (test > 0))
    if len(unseen) and not fitted:
        notes.append(
            f"{int(test[unseen].sum())} of {int(test.sum())} test {what}s have a label that no training {what} has, "
            f"and so count as errors (data.target_column): {shorten(names[k] for k in unseen)}"
        )
    labels = fitted or tuple(names[k] for k in used)
    number = np.zeros(len(names), np.int64)
    number[used] = [labels.index(names[k]) for k in used]
    numbered = [replace(split, targets=number[split.targets.astype(np.int64)]) for split in splits]
    return numbered, labels
