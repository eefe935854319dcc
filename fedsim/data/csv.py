"""The user's own time series, from files of tables: forecasting, regression or classification."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fedsim.data.contents import RATIO
from fedsim.data.csv_fields import as_tuple, cells_of, check_fields
from fedsim.data.dataset import Dataset, Pooled
from fedsim.data.fitted import Fitted
from fedsim.data.sequences import Sequences
from fedsim.data.table_columns import Layout
from fedsim.data.table_frame import shorten
from fedsim.data.table_rows import own_columns
from fedsim.data.table_shapes import series_name
from fedsim.data.table_text import TextFormat
from fedsim.data.tables import read_table
from fedsim.data.window_scales import GivenScales
from fedsim.data.windows import Windows


@dataclass(frozen=True)
class Csv:
    """Windows, or whole sequences, of tables with a column per quantity and a row per time step, or of other shapes.

    **Clients.** The rows of one client are one time series. `client_column` names the client of each row; without it
    each of several files is a client, named like the file, and a single file is one series without clients, which
    ``partition=iid`` may deal out. A client's rows are in the order of `time_column`, which must rise from row to row
    unless `sort` and `duplicates` say what to do, or without it in the order of the files. Times are numbers, ISO
    8601 dates or elapsed hours and minutes (24:37), or written as `time_format` says; with an offset from UTC they are
    compared in UTC.

    **Gaps.** No window crosses a gap, unless ``gaps=ignore``: a step of time of more than 1.5 times the client's usual
    one (the median, if at least half of the steps are within a tenth of it), or rows dropped for missing values. Months
    and years are no gaps, nor are days of the week that never occur, and one or two missing working days are holidays.
    Windows start anew after a gap. A client whose steps are too uneven to have a usual one is not cut, but named.

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
    of names (clients and labels) only empty cells; `na_values` adds cells of numeric columns. ``drop`` drops such rows,
    which leaves a gap; ``ffill`` carries on the client's last value for at most `fill_limit` rows, not over a gap in
    time, and drops the rows for which there is none. ``mask`` drops no row: it carries the last value on, however long
    ago, takes the training mean before the first, and adds two features for each that has a missing value: NAME_seen,
    1 or 0 and never scaled, and NAME_since, the hours, units of time or rows since the row before that has one (Che et
    al. 2018, GRU-simple); windows that need a missing target are left out. Only the columns in use are looked at, and
    clients and times may never be missing. True and false are 1 and 0. What was done to the rows is in the data set's
    notes.

    **Labels** are numbered in their order, by value if all are whole numbers and else as text, those of test samples
    included: one that occurs only there has an output that is never trained and always counts as an error, and a
    note names it.

    **Other shapes.** With ``series_in=columns`` each numeric column is the series of one client, both its feature and
    its target, and `shared_columns` are features of all; with ``rows`` each row is a series, its numeric columns the
    steps of time, which a client has alone if the task is forecast, and which else is one sample with the row's target.
    With `measurement_columns` each row is one measurement, and those of one client, sequence and time become one row.

    **Sequences.** With `sequence_column` a sample is a sequence, not a window: its last `window` rows, padded behind
    the end, with the target in its last row. Columns of clients and targets (and features, if named) may be in
    `labels`, a table with a row per sequence; if the files lack the `sequence_column`, each file is a sequence, named
    like it with or without ending and folder. A share `test_fraction` of each client's sequences is for testing, the
    same share of each label as far as that goes, drawn once for all seeds. Sequences are not cut at gaps.

    Windows share the rows of the table: a sample takes memory for its targets only.

    Attributes:
        path: a file, a folder (its tables, of one kind: .csv, .csv.gz and .parquet; .tsv; .psv; .jsonl and .ndjson;
            .tsf; or, if there are no others, .txt; texts perhaps with .gz) or a glob. Other endings mean text.
        client_column: column that names the client, several that do so together, or None.
        time_column: column of times, several that are one together (year, month, day, ... by these names, or texts such
            as a date and a time of day), or None for the order of the rows.
        time_format: how times are written, as for `datetime.datetime.strptime`.
        feature_columns: inputs; None for all numeric columns but those of clients and times and, unless the task is
            forecast, the targets. Columns without any number are left out, with a note.
        target_column: what is predicted, one column or, except for classification, several; with `series_in` and
            ``task=forecast`` none, as it is the series.
        task: ``forecast``, ``regression`` or ``classification``.
        window: rows of a sample.
        horizon: rows ahead, only for ``task=forecast``; None means 1.
        season: rows back to the value that the naive forecast repeats, only for ``task=forecast``; None means 1. It is
            what a model must beat, and what ``mase`` divides by.
        metrics: further metrics of a forecast, of ``mape``, ``smape`` and ``mase`` (`fedsim.evaluation.errors`).
        quantiles: quantiles to predict instead of the mean, 0.5 among them, only for ``task=forecast``. The loss is
            then the pinball loss.
        stride: rows from the start of one window to the next.
        test_fraction: share of each client's rows to test on, above 0 and below 1.
        scale: ``global``, ``client``, ``given`` or ``none``.
        scales: of every column that is read, what to subtract and what to divide by then, only for ``scale=given``.
        missing: ``error``, ``drop``, ``ffill`` or ``mask``.
        na_values: cells of numeric columns that mean a missing value, such as -200, besides the usual ones.
        fill_limit: rows in a row that ``ffill`` fills at most; None means one less than a window (at least 1), so that
            a window never holds one repeated value alone.
        gaps: ``split`` (windows do not cross them), ``error`` or ``ignore``.
        sort: whether to sort each client's rows by time, which otherwise must rise already.
        duplicates: ``error``, ``first`` or ``mean``, for rows of one client at the same time.
        short: ``error`` or ``drop``, what to do with clients that have fewer rows than a sample takes.
        separator: ``comma``, ``semicolon``, ``tab`` or ``pipe``, between the fields of a text; None means tab for .tsv,
            pipe for .psv and else comma.
        decimal: ``point`` or ``comma``, in the numbers of a text; None means point.
        thousands: ``comma``, ``point``, ``space`` or ``apostrophe``, between groups of digits of a text, or None.
        encoding: of a text, such as ``latin-1``.
        header: whether the first line of a text names the columns; without names they are called 0, 1, ... None means
            that it does, but one that looks like data is refused.
        comment: what lines of a text begin with that are to be skipped, such as ``#``.
        skip_rows: lines of a text to skip: the first so many, or a list of their numbers, counted from 1.
        gzip_ratio: how many times its size a packed file of more than 64 MiB may unpack to.
        series_in: ``columns`` or ``rows``, each of which is a series of its own; None for a row per time step.
        shared_columns: with ``series_in=columns``, those that are no series but features of all.
        measurement_columns: of a table with a row per measurement, the column of its name and that of its value.
        sequence_column: column that names the sequence of each row; each is one sample.
        labels: a table with a row per sequence, written as the files are, with a first line of names.
        categories: columns of words, each word of which is a feature, 1 in the rows that have it.
        where: columns and the cell, or list of cells, that rows must have there to be read.
    """

    path: str | None = None
    client_column: str | list[str] | None = None
    time_column: str | list[str] | None = None
    time_format: str | None = None
    feature_columns: list[str] | None = None
    target_column: str | list[str] | None = None
    task: str = "forecast"
    window: int = 24
    horizon: int | None = None
    season: int | None = None
    metrics: list[str] | None = None
    quantiles: list[float] | None = None
    stride: int = 1
    test_fraction: float = 0.2
    scale: str = "global"
    scales: dict[str, Any] | None = None
    missing: str = "error"
    na_values: list[str] | None = None
    fill_limit: int | None = None
    gaps: str = "split"
    sort: bool = False
    duplicates: str = "error"
    short: str = "error"
    separator: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    encoding: str = "utf-8"
    header: bool | None = None
    comment: str | None = None
    skip_rows: int | list[int] | None = None
    gzip_ratio: int = RATIO
    series_in: str | None = None
    shared_columns: list[str] | None = None
    measurement_columns: list[str] | None = None
    sequence_column: str | None = None
    labels: str | None = None
    categories: list[str] | None = None
    where: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing, out of range or has no effect with the others.
        """
        check_fields(self)

    def __hash__(self) -> int:
        """Data sources are keys of a cache, which lists cannot be."""
        return hash(repr(self))

    @property
    def _targets(self) -> tuple[str, ...]:
        alone = self.series_in is not None and self.task == "forecast"  # no column names a series' own values
        return (series_name(as_tuple(self.shared_columns)),) if alone else as_tuple(self.target_column)

    def load(self, seed: int) -> Dataset:
        """Return rows ``[R, D]`` float32, whose windows are the samples, and targets ``[S, K]`` or labels ``[S]``.

        Sequences are padded with zeros to the longest of them, of at most `window` rows.

        Args:
            seed: not used, the split is the same for all.

        Raises:
            UserError: if the files cannot be read as the settings say, or give no training or test window.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the features, labels and scaling of others; see `load`."""
        return self._load(fitted)

    def _load(self, fitted: Fitted | None) -> Dataset:
        layout = self._layout()
        if fitted is not None and fitted.scaling.features and self.series_in is None:
            names = tuple(column.name for column in fitted.scaling.features)
            read = layout.features or own_columns(names, layout.categories, self.missing == "mask")
            layout = replace(layout, features=read, model=names)
        table = read_table(layout)
        shown = [name for name in self._targets if name in (self.feature_columns or ()) and self.task != "forecast"]
        if shown:
            note = f"the features include what is to be predicted (data.feature_columns): {shorten(shown)}"
            table = replace(table, notes=(*table.notes, note))
        dataset = (self._sequences() if layout.sequences else self._windows()).dataset(table, fitted)
        if layout.categories and fitted is None:
            words = Pooled("the words of data.categories, each of which is a feature")
            dataset = replace(dataset, pooled=(*dataset.from_all_clients, words))
        return dataset

    def _layout(self) -> Layout:
        assert self.path is not None
        skip = self.skip_rows
        return Layout(
            path=self.path,
            client=as_tuple(self.client_column),
            time=as_tuple(self.time_column),
            time_format=self.time_format,
            features=None if self.feature_columns is None else tuple(self.feature_columns),
            targets=self._targets,
            labels=self.task == "classification",
            keep_targets=self.task == "forecast",
            text=TextFormat(
                separator=self.separator,
                decimal=self.decimal,
                thousands=self.thousands,
                encoding=self.encoding,
                header=self.header,
                comment=self.comment,
                skip_rows=tuple(skip) if isinstance(skip, list) else skip,
                na_values=tuple(self.na_values or ()),
                gzip_ratio=self.gzip_ratio,
            ),
            na_values=tuple(self.na_values or ()),
            missing=self.missing,
            fill_limit=self._fill_limit,
            gaps=self.gaps,
            sort=self.sort,
            duplicates=self.duplicates,
            series_in=self.series_in,
            shared=as_tuple(self.shared_columns),
            measurements=as_tuple(self.measurement_columns),
            sequence=as_tuple(self.sequence_column),
            label_table=self.labels,
            where=cells_of(self.where),
            categories=as_tuple(self.categories),
        )

    @property
    def _fill_limit(self) -> int:
        """At most so many that every window of several rows has one that was measured."""
        if self.missing != "ffill":
            return 0
        return max(self.window - 1, 1) if self.fill_limit is None else self.fill_limit

    @property
    def _scales(self) -> GivenScales:
        return tuple((name, float(shift), float(scale)) for name, (shift, scale) in (self.scales or {}).items())

    def _windows(self) -> Windows:
        return Windows(
            path=self.path,
            targets=self._targets,
            task=self.task,
            window=self.window,
            ahead=(self.horizon or 1) if self.task == "forecast" else 0,
            stride=self.stride,
            test_fraction=self.test_fraction,
            scale=self.scale,
            scales=self._scales,
            short=self.short,
            season=self.season or 1,
            metrics=tuple(self.metrics or ()),
            quantiles=tuple(self.quantiles or ()),
        )

    def _sequences(self) -> Sequences:
        return Sequences(
            path=self.path,
            targets=self._targets,
            task=self.task,
            window=self.window,
            test_fraction=self.test_fraction,
            scale=self.scale,
            scales=self._scales,
        )
