"""The user's own time series, from CSV or Parquet files: forecasting, regression or classification of windows."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.table_columns import Layout
from fedsim.data.table_files import DECIMALS, SEPARATORS, shorten
from fedsim.data.tables import Table, read_table
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Csv:
    """Windows of tables with a column per quantity and a row per time step.

    **Clients.** The rows of one client are one time series. `client_column` names the client of each row; without it
    each of several files is a client, named like the file, and a single file is one series without clients, which
    ``partition=iid`` may deal out. A client's rows are in the order of `time_column`, which must rise from row to row,
    or without it in the order of the files. Times are numbers or ISO 8601 dates, or written as `time_format` says.

    **Samples.** A window of `window` rows starts at every `stride`-th row: inputs ``[window, D]`` of the D features.
    ``task=forecast`` predicts the targets in each of the next `horizon` rows, K = horizon x targets numbers, those of
    the first row first; ``regression`` the targets in the window's last row; ``classification`` the label there.

    **Train and test.** The last ``floor(test_fraction x rows)`` rows of each client are for testing, and its training
    windows lie before them: with a window's extent e = window + horizon (horizon 0 where nothing is forecast), every
    row that a training window uses, its targets included, lies more than e rows before the first row of the test
    windows, so the e rows between belong to neither. A client without room for a window on each side trains on all
    its rows, with a warning; one with fewer than e rows is refused, or left out with ``short=drop``.

    **Scale.** Every feature, and every target that is a number, is brought to zero mean and unit variance over the
    training rows, of all clients together (``global``) or of each alone (``client``). Losses and errors of targets are
    then in units of that standard deviation. A column that is constant there is shifted only.

    **Missing values** are empty cells, ``?``, ``NA``, ``N/A``, ``NaN``, ``null``, ``None`` and infinities; in columns
    of names (clients and labels) only empty cells. ``drop`` drops such rows, and the rows around them become
    neighbours; ``ffill`` carries on the client's last value and drops the rows before its first one. Only the columns
    in use are looked at, and clients and times may never be missing. True and false are 1 and 0.

    **Labels** are numbered in their order, by value if all are whole numbers and else as text, those of test samples
    included: one that occurs only there has an output that is never trained and always counts as an error, and a
    warning names it.

    Windows overlap, and each is a copy: S samples take S x window x D x 4 bytes, so raise `stride` for long windows.

    Attributes:
        path: a file, a folder (its .csv, .csv.gz and .parquet files) or a glob. Any file that does not end in
            ``.parquet`` is read as UTF-8 text whose first line names the columns.
        client_column: column that names the client, or None.
        time_column: column of times, or None for the order of the rows.
        time_format: how times are written, as for `datetime.datetime.strptime`.
        feature_columns: inputs; None for all numeric columns but those of clients and times and, unless the task is
            forecast, the targets. Columns without any number are left out, with a warning.
        target_column: what is predicted, one column or, except for classification, several.
        task: ``forecast``, ``regression`` or ``classification``.
        window: rows of a sample.
        horizon: rows ahead, only for ``task=forecast``; None means 1.
        stride: rows from the start of one window to the next.
        test_fraction: share of each client's rows to test on, above 0 and below 1.
        scale: ``global``, ``client`` or ``none``.
        missing: ``error``, ``drop`` or ``ffill``.
        short: ``error`` or ``drop``, what to do with clients that have fewer rows than a sample takes.
        separator: ``comma``, ``semicolon``, ``tab`` or ``pipe``, between the fields of a text; None means comma.
        decimal: ``point`` or ``comma``, in the numbers of a text; None means point.
    """

    path: str | None = None
    client_column: str | None = None
    time_column: str | None = None
    time_format: str | None = None
    feature_columns: list[str] | None = None
    target_column: str | list[str] | None = None
    task: str = "forecast"
    window: int = 24
    horizon: int | None = None
    stride: int = 1
    test_fraction: float = 0.2
    scale: str = "global"
    missing: str = "error"
    short: str = "error"
    separator: str | None = None
    decimal: str | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing, out of range or has no effect with the others.
        """
        if not self.path:
            raise FieldError("path", self.path, "name a CSV or Parquet file, a folder of them or a glob")
        if not self.target_column or "" in self._targets:
            raise FieldError("target_column", self.target_column, "name the column (or a list of them) to predict")
        check_one_of(self, "task", ("forecast", "regression", "classification"))
        self._check_columns()
        check_at_least(self, 1, "window", "horizon", "stride")
        check_above(self, 0, "test_fraction")
        check_between(self, 0, 1, "test_fraction", open_high=True)
        check_one_of(self, "scale", ("global", "client", "none"))
        check_one_of(self, "missing", ("error", "drop", "ffill"))
        check_one_of(self, "short", ("error", "drop"))
        if self.horizon is not None and self.task != "forecast":
            raise FieldError("horizon", self.horizon, "has an effect only with task=forecast")
        if self.time_format is not None and self.time_column is None:
            raise FieldError("time_format", self.time_format, "has an effect only with a time_column")
        if self.separator is not None:
            check_one_of(self, "separator", SEPARATORS)
        if self.decimal is not None:
            check_one_of(self, "decimal", DECIMALS)
        if self.decimal == "comma" and self.separator in (None, "comma"):
            raise FieldError("decimal", self.decimal, "needs another separator, such as separator=semicolon")

    def _check_columns(self) -> None:
        for name, columns in (("target_column", self._targets), ("feature_columns", self.feature_columns)):
            if columns is not None and (not columns or len({*columns}) < len(columns)):
                raise FieldError(name, columns, "must be one or more columns, each named once")
        if self.task == "classification" and len(self._targets) > 1:
            raise FieldError("target_column", self.target_column, "task=classification has one column of labels")
        for name in ("client_column", "time_column"):
            if getattr(self, name) in self._targets:
                raise FieldError(name, getattr(self, name), "is the target_column, which is predicted")
        if self.client_column is not None and self.client_column == self.time_column:
            raise FieldError("time_column", self.time_column, "is the client_column")

    def __hash__(self) -> int:
        """Data sources are keys of a cache, which lists cannot be."""
        return hash(repr(self))

    @property
    def _targets(self) -> tuple[str, ...]:
        return (self.target_column,) if isinstance(self.target_column, str) else tuple(self.target_column or ())

    @property
    def _horizon(self) -> int:
        """Rows after a window's last one that its target uses."""
        return (self.horizon or 1) if self.task == "forecast" else 0

    @property
    def _extent(self) -> int:
        """Rows that a sample uses, its targets included."""
        return self.window + self._horizon

    def load(self, seed: int) -> Dataset:
        """Return inputs ``[S, window, D]`` float32 and targets ``[S, K]`` float32 or ``[S]`` labels.

        Args:
            seed: not used, the split is by time.

        Raises:
            UserError: if the files cannot be read as the settings say, or give no training or test window.
        """
        assert self.path is not None
        features = None if self.feature_columns is None else tuple(self.feature_columns)
        table = read_table(
            Layout(
                path=self.path,
                client=self.client_column,
                time=self.time_column,
                time_format=self.time_format,
                features=features,
                targets=self._targets,
                labels=self.task == "classification",
                keep_targets=self.task == "forecast",
                separator=self.separator,
                decimal=self.decimal,
                missing=self.missing,
            )
        )
        shown = [name for name in self._targets if name in (features or ()) and self.task != "forecast"]
        answer = [f"the features include what is to be predicted, {shorten(shown)}"] if shown else []
        for note in (*table.notes, *answer):
            _log.warning("csv: %s", note)
        return self._dataset(table)

    def _dataset(self, table: Table) -> Dataset:
        extent, stride = self._extent, self.stride
        kept = self._long_enough(table)  # numbers of the clients that take part
        first, sizes = (np.cumsum(table.sizes) - table.sizes)[kept], table.sizes[kept]
        test_sizes = (sizes * self.test_fraction).astype(np.int64)
        train_sizes = sizes - test_sizes - extent  # the rows of the gap belong to neither
        tested = (test_sizes >= extent) & (train_sizes >= extent)
        self._report_untested([table.clients[k] for k in kept[~tested]], len(kept))
        train_sizes = np.where(tested, train_sizes, sizes)
        train_counts = (train_sizes - extent) // stride + 1
        test_counts = np.where(tested, (test_sizes - extent) // stride + 1, 0)
        self._check_memory(table, int(train_counts.sum() + test_counts.sum()))
        values = self._scaled(table, kept, first, (train_counts - 1) * stride + extent)
        splits = [
            self._windows(table, values, starts, counts)
            for starts, counts in ((first, train_counts), (first + sizes - test_sizes, test_counts))
        ]
        classes = 0
        if self.task == "classification":
            splits, classes = _number_labels(splits, table.label_names)
        natural = table.natural
        return Dataset(
            name="csv",
            task=Task.CLASSIFICATION if classes else Task.REGRESSION,
            train=splits[0],
            test=splits[1],
            num_outputs=classes or splits[0].targets.shape[1],
            client_names=tuple(table.clients[k] for k in kept) if natural else None,
            ordered=True,
            why_not_natural="one file without data.client_column is one series, not clients",
        )

    def _long_enough(self, table: Table) -> Ints:
        """Return the numbers of the clients with rows for at least one sample."""
        short = np.flatnonzero(table.sizes < self._extent)
        needs = f"the {self._extent} rows of a sample (data.window={self.window}"
        needs += f" and data.horizon={self._horizon})" if self._horizon else ")"
        names = [table.clients[k] for k in short]
        if len(short) and (self.short == "error" or len(short) == len(table.sizes)):
            way_out = "" if len(short) == len(table.sizes) else ", or leave such clients out with data.short=drop"
            more = f", as have {len(short) - 1} more of {len(table.sizes)} clients" if len(short) > 1 else ""
            raise UserError(
                f"data.path={self.path}: client {names[0]!r} has {table.sizes[short[0]]} rows, fewer than {needs}"
                f"{more}; take a smaller window{way_out}"
            )
        if len(short):
            _log.warning(
                "csv: left out %d of %d clients, which have fewer than %s: %s",
                len(short),
                len(table.sizes),
                needs,
                shorten(names),
            )
        return np.flatnonzero(table.sizes >= self._extent)

    def _report_untested(self, names: list[str], clients: int) -> None:
        """Warn about clients without a test part, or raise `UserError` if no client has one."""
        needs = f"a test part needs {self._extent} rows and training {2 * self._extent} before it"
        if len(names) == clients:
            raise UserError(
                f"data.test_fraction={self.test_fraction:g}: no client has enough rows to test on ({needs}); take "
                "another fraction or a smaller data.window"
            )
        if names:
            text = "csv: %d of %d clients have too few rows to test on (%s), and train on all of them: %s"
            _log.warning(text, len(names), clients, needs, shorten(names))

    def _check_memory(self, table: Table, samples: int) -> None:
        """Refuse windows that do not fit in memory, which holds them twice while they are put in client order."""
        bytes_each = 4 * (self.window * table.num_features + self._horizon * len(self._targets))
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
        if 2 * samples * bytes_each > there:
            raise UserError(
                f"data.stride={self.stride}: {samples:,} windows take {samples * bytes_each / 2**30:,.1f} GiB, and "
                f"twice that while they are loaded; this machine has {there / 2**30:,.1f} GiB; raise data.stride"
            )

    def _scaled(self, table: Table, kept: Ints, first: Ints, train_rows: Ints) -> NDArray[np.float32]:
        """Return ``[R, M]``, scaled by the statistics of the first `train_rows` rows of each client in `kept`."""
        values = table.values
        if self.scale != "none":
            clients = np.repeat(np.arange(len(table.sizes)), table.sizes)
            ends = np.zeros(len(table.sizes), np.int64)
            ends[kept] = first + train_rows  # of a client that is left out, no row trains
            training = np.arange(len(values)) < ends[clients]
            groups = clients if self.scale == "client" else np.zeros_like(clients)
            values = _standardised(values, groups, training)
        with np.errstate(over="ignore"):
            small = values.astype(np.float32)
        if not np.isfinite(small).all():
            name = table.columns[int((~np.isfinite(small)).any(0).argmax())]
            raise UserError(
                f"data.scale={self.scale}: column {name!r} hardly varies in the training rows, and its other rows are "
                "too far from them for 32 bits; leave it out of data.feature_columns"
            )
        return small

    def _windows(self, table: Table, values: NDArray[np.float32], starts: Ints, counts: Ints) -> Split:
        """Cut `counts` windows per client, the first of which begins at row `starts`."""
        clients = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(clients)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = starts[clients] + place * self.stride
        inputs = _cut(values[:, : table.num_features], rows, self.window)
        targets: NDArray[np.generic]
        if self.task == "classification":
            targets = table.labels[rows + self.window - 1]
        else:
            predicted = values[:, [table.columns.index(name) for name in self._targets]]
            ahead = _cut(predicted, rows + self._extent - max(self._horizon, 1), max(self._horizon, 1))
            targets = ahead.reshape(len(rows), -1)
        lengths = np.full(len(rows), self.window, np.int64)
        return Split(inputs, lengths, targets, clients if table.natural else None)


def _cut(values: NDArray[np.float32], rows: Ints, length: int) -> NDArray[np.float32]:
    """Copy the windows ``[S, length, D]`` of ``[R, D]`` that start at each row in `rows`."""
    width = values.shape[1]
    # Consecutive rows are contiguous, so a window is one piece of memory.
    pieces = np.lib.stride_tricks.sliding_window_view(np.ascontiguousarray(values).reshape(-1), length * width)
    windows: NDArray[np.float32] = pieces[rows * width].reshape(len(rows), length, width)
    return windows


def _standardised(values: Floats, groups: Ints, training: NDArray[np.bool_]) -> Floats:
    """Shift and scale each group's columns to zero mean and unit variance over its training rows.

    Args:
        values: ``[R, M]``.
        groups: ``[R]`` ascending.
        training: ``[R]``, which rows count; a group without any is left as it is.
    """
    x, owner = values[training], groups[training]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    count = np.diff(np.append(first, len(owner)))[:, None]
    shape = (int(groups[-1]) + 1, values.shape[1])
    mean, deviation = np.zeros(shape), np.ones(shape)
    present = owner[first]
    mean[present] = np.add.reduceat(x, first) / count
    spread = np.sqrt(np.add.reduceat((x - mean[owner]) ** 2, first) / count)
    constant = np.maximum.reduceat(x, first) == np.minimum.reduceat(x, first)
    deviation[present] = np.where(constant | (spread == 0), 1, spread)
    with np.errstate(over="ignore"):  # the caller looks for what is too large
        scaled: Floats = (values - mean[groups]) / deviation[groups]
    return scaled


def _number_labels(splits: list[Split], names: tuple[str, ...]) -> tuple[list[Split], int]:
    """Number the labels that samples have from 0, in their order; return the splits and how many labels there are."""
    train, test = (np.bincount(split.targets.astype(np.int64), minlength=len(names)) for split in splits)
    used = np.flatnonzero(train + test)
    if len(used) < 2:
        raise UserError(
            f"data.target_column: all windows have the same label {names[used[0]]!r}, so there is nothing to learn"
        )
    unseen = np.flatnonzero((train == 0) & (test > 0))
    if len(unseen):
        _log.warning(
            "csv: %d of %d test windows have a label that no training window has, and so count as errors: %s",
            int(test[unseen].sum()),
            int(test.sum()),
            shorten(names[k] for k in unseen),
        )
    number = np.zeros(len(names), np.int64)
    number[used] = np.arange(len(used))
    numbered = [
        Split(split.inputs, split.lengths, number[split.targets.astype(np.int64)], split.clients) for split in splits
    ]
    return numbered, len(used)
