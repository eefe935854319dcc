"""The user's own time series, from CSV or Parquet files: forecasting, regression or classification of windows."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace

from fedsim.data.dataset import EXTRA, Dataset
from fedsim.data.fitted import Fitted
from fedsim.data.table_columns import Layout
from fedsim.data.table_frame import shorten
from fedsim.data.table_text import DECIMALS, SEPARATORS, THOUSANDS, TextFormat
from fedsim.data.tables import read_table
from fedsim.data.windows import Windows
from fedsim.errors import FieldError, check_above, check_at_least, check_between, check_one_of


@dataclass(frozen=True)
class Csv:
    """Windows of tables with a column per quantity and a row per time step.

    **Clients.** The rows of one client are one time series. `client_column` names the client of each row; without it
    each of several files is a client, named like the file, and a single file is one series without clients, which
    ``partition=iid`` may deal out. A client's rows are in the order of `time_column`, which must rise from row to row
    unless `sort` and `duplicates` say what to do, or without it in the order of the files. Times are numbers or ISO
    8601 dates, or written as `time_format` says; with an offset from UTC they are compared in UTC.

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
    time, and drops the rows for which there is none. Only the columns in use are looked at, and clients and times may
    never be missing. True and false are 1 and 0. What was done to the rows is in the data set's notes.

    **Labels** are numbered in their order, by value if all are whole numbers and else as text, those of test samples
    included: one that occurs only there has an output that is never trained and always counts as an error, and a
    note names it.

    Windows share the rows of the table: a sample takes memory for its targets only.

    Attributes:
        path: a file, a folder (its .csv, .csv.gz and .parquet files) or a glob. Any file that does not end in
            ``.parquet`` is read as text.
        client_column: column that names the client, several that do so together, or None.
        time_column: column of times, several that are one together (year, month, day, ... by these names, or texts such
            as a date and a time of day), or None for the order of the rows.
        time_format: how times are written, as for `datetime.datetime.strptime`.
        feature_columns: inputs; None for all numeric columns but those of clients and times and, unless the task is
            forecast, the targets. Columns without any number are left out, with a note.
        target_column: what is predicted, one column or, except for classification, several.
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
        scale: ``global``, ``client`` or ``none``.
        missing: ``error``, ``drop`` or ``ffill``.
        na_values: cells of numeric columns that mean a missing value, such as -200, besides the usual ones.
        fill_limit: rows in a row that ``ffill`` fills at most; None means one less than a window (at least 1), so that
            a window never holds one repeated value alone.
        gaps: ``split`` (windows do not cross them), ``error`` or ``ignore``.
        sort: whether to sort each client's rows by time, which otherwise must rise already.
        duplicates: ``error``, ``first`` or ``mean``, for rows of one client at the same time.
        short: ``error`` or ``drop``, what to do with clients that have fewer rows than a sample takes.
        separator: ``comma``, ``semicolon``, ``tab`` or ``pipe``, between the fields of a text; None means comma.
        decimal: ``point`` or ``comma``, in the numbers of a text; None means point.
        thousands: ``comma``, ``point``, ``space`` or ``apostrophe``, between groups of digits of a text, or None.
        encoding: of a text, such as ``latin-1``.
        header: whether the first line of a text names the columns; without names they are called 0, 1, ... None means
            that it does, but one that looks like data is refused.
        comment: what lines of a text begin with that are to be skipped, such as ``#``.
        skip_rows: lines of a text to skip: the first so many, or a list of their numbers, counted from 1.
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
        self._check_forecast()
        if self.time_format is not None and self.time_column is None:
            raise FieldError("time_format", self.time_format, "has an effect only with a time_column")
        self._check_rows()
        self._check_text()

    def _check_forecast(self) -> None:
        for name in ("horizon", "season", "metrics", "quantiles"):
            if getattr(self, name) is not None and self.task != "forecast":
                raise FieldError(name, getattr(self, name), "has an effect only with task=forecast")
        check_at_least(self, 1, "season")
        for metric in self.metrics or ():
            if metric not in EXTRA or (self.metrics or []).count(metric) > 1:
                raise FieldError("metrics", self.metrics, f"must be one or more of {', '.join(EXTRA)}, each once")
        levels = self.quantiles
        if levels is not None and not (
            0.5 in levels and levels == sorted({*levels}) and levels[0] > 0 and levels[-1] < 1
        ):
            raise FieldError(
                "quantiles", levels, "must rise, lie above 0 and below 1, and have 0.5, the forecast that errors are of"
            )

    def _check_rows(self) -> None:
        check_one_of(self, "gaps", ("split", "error", "ignore"))
        check_one_of(self, "duplicates", ("error", "first", "mean"))
        check_at_least(self, 1, "fill_limit")
        if self.fill_limit is not None and self.missing != "ffill":
            raise FieldError("fill_limit", self.fill_limit, "has an effect only with missing=ffill")
        if self.na_values is not None and not self.na_values:
            raise FieldError("na_values", self.na_values, "must be one or more cells that mean a missing value")
        if self.sort and not self.time_column:
            raise FieldError("sort", self.sort, "has an effect only with a time_column")
        if self.duplicates != "error" and not self.time_column:
            raise FieldError("duplicates", self.duplicates, "has an effect only with a time_column")
        if self.duplicates == "mean" and self.task == "classification":
            raise FieldError("duplicates", self.duplicates, "labels have no mean; take first")

    def _check_text(self) -> None:
        for name, words in (("separator", SEPARATORS), ("decimal", DECIMALS), ("thousands", THOUSANDS)):
            if getattr(self, name) is not None:
                check_one_of(self, name, words)
        if self.decimal == "comma" and self.separator in (None, "comma"):
            raise FieldError("decimal", self.decimal, "needs another separator, such as separator=semicolon")
        if self.thousands is not None and self.thousands == (self.decimal or "point"):
            raise FieldError("thousands", self.thousands, "is the decimal mark")
        try:
            codecs.lookup(self.encoding)
        except (LookupError, ValueError):
            raise FieldError("encoding", self.encoding, "no such encoding; utf-8, latin-1, utf-16, ...") from None
        if self.comment is not None and not self.comment.strip():
            raise FieldError("comment", self.comment, "must be what the lines to skip begin with, such as '#'")
        skip = self.skip_rows
        if skip is not None and (skip == [] or min(skip if isinstance(skip, list) else [skip]) < 1):
            raise FieldError("skip_rows", skip, "must be how many lines to skip, or a list of lines, the first being 1")

    def _check_columns(self) -> None:
        clients, times = _tuple(self.client_column), _tuple(self.time_column)
        for name, columns in (
            ("target_column", self._targets),
            ("feature_columns", self.feature_columns),
            ("client_column", clients if self.client_column is not None else None),
            ("time_column", times if self.time_column is not None else None),
        ):
            if columns is not None and (not columns or len({*columns}) < len(columns)):
                raise FieldError(name, columns, "must be one or more columns, each named once")
        if self.task == "classification" and len(self._targets) > 1:
            raise FieldError("target_column", self.target_column, "task=classification has one column of labels")
        for name, columns in (("client_column", clients), ("time_column", times)):
            if {*columns} & {*self._targets}:
                raise FieldError(name, getattr(self, name), "is the target_column, which is predicted")
        if {*clients} & {*times}:
            raise FieldError("time_column", self.time_column, "is the client_column")

    def __hash__(self) -> int:
        """Data sources are keys of a cache, which lists cannot be."""
        return hash(repr(self))

    @property
    def _targets(self) -> tuple[str, ...]:
        return _tuple(self.target_column)

    def load(self, seed: int) -> Dataset:
        """Return rows ``[R, D]`` float32, whose windows are the samples, and targets ``[S, K]`` or labels ``[S]``.

        Args:
            seed: not used, the split is by time.

        Raises:
            UserError: if the files cannot be read as the settings say, or give no training or test window.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the features, labels and scaling of others; see `load`."""
        return self._load(fitted)

    def _load(self, fitted: Fitted | None) -> Dataset:
        layout = self._layout()
        if fitted is not None and layout.features is None and fitted.scaling.features:
            layout = replace(layout, features=tuple(column.name for column in fitted.scaling.features))
        table = read_table(layout)
        shown = [name for name in self._targets if name in (self.feature_columns or ()) and self.task != "forecast"]
        if shown:
            note = f"the features include what is to be predicted (data.feature_columns): {shorten(shown)}"
            table = replace(table, notes=(*table.notes, note))
        return self._windows().dataset(table, fitted)

    def _layout(self) -> Layout:
        assert self.path is not None
        skip = self.skip_rows
        return Layout(
            path=self.path,
            client=_tuple(self.client_column),
            time=_tuple(self.time_column),
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
            ),
            na_values=tuple(self.na_values or ()),
            missing=self.missing,
            fill_limit=self._fill_limit,
            gaps=self.gaps,
            sort=self.sort,
            duplicates=self.duplicates,
        )

    @property
    def _fill_limit(self) -> int:
        """At most so many that every window of several rows has one that was measured."""
        if self.missing != "ffill":
            return 0
        return max(self.window - 1, 1) if self.fill_limit is None else self.fill_limit

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
            short=self.short,
            season=self.season or 1,
            metrics=tuple(self.metrics or ()),
            quantiles=tuple(self.quantiles or ()),
        )


def _tuple(names: str | list[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())
