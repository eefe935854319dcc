"""What the fields of `fedsim.data.csv.Csv` may be, alone and together."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.data.dataset import EXTRA
from fedsim.data.table_text import DECIMALS, ENDINGS, SEPARATORS, THOUSANDS
from fedsim.errors import FieldError, check_above, check_at_least, check_between, check_one_of


def as_tuple(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several or none, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def cells_of(where: Mapping[str, Any] | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The columns of `Csv.where`, each with the cells that are wanted, as text."""
    return tuple(
        (name, tuple(str(cell) for cell in (cells if isinstance(cells, list) else [cells])))
        for name, cells in (where or {}).items()
    )


def check_fields(csv: Any) -> None:
    """Raise `FieldError` if a value is missing, out of range or has no effect with the others."""
    if not csv.path:
        raise FieldError("path", csv.path, "name a CSV or Parquet file, a folder of them or a glob")
    check_one_of(csv, "task", ("forecast", "regression", "classification"))
    if csv.series_in is not None:
        check_one_of(csv, "series_in", ("columns", "rows"))
    _check_target(csv)
    _check_columns(csv)
    _check_shape(csv)
    _check_forecast(csv)
    check_at_least(csv, 1, "gzip_ratio")
    check_at_least(csv, 1, "window", "horizon", "season", "stride")
    check_above(csv, 0, "test_fraction")
    check_between(csv, 0, 1, "test_fraction", open_high=True)
    _check_scale(csv)
    check_one_of(csv, "missing", ("error", "drop", "ffill", "mask"))
    check_one_of(csv, "short", ("error", "drop"))
    if csv.time_format is not None and csv.time_column is None:
        raise FieldError("time_format", csv.time_format, "has an effect only with a time_column")
    _check_rows(csv)
    _check_sequences(csv)
    _check_text(csv)


def _check_target(csv: Any) -> None:
    alone = csv.series_in is not None and csv.task == "forecast"
    if alone and csv.target_column is not None:
        raise FieldError("target_column", csv.target_column, f"series_in={csv.series_in} forecasts each series itself")
    if not alone and (not csv.target_column or "" in as_tuple(csv.target_column)):
        raise FieldError("target_column", csv.target_column, "name the column (or a list of them) to predict")


def _check_columns(csv: Any) -> None:
    named = {
        name: as_tuple(value)
        for name in ("target_column", "feature_columns", "client_column", "time_column", "shared_columns", "categories")
        if (value := getattr(csv, name)) is not None
    }
    for name, columns in named.items():
        if not columns or len({*columns}) < len(columns):
            raise FieldError(name, getattr(csv, name), "must be one or more columns, each named once")
    if csv.sequence_column is not None:
        named["sequence_column"] = as_tuple(csv.sequence_column)
    targets = as_tuple(csv.target_column)
    if csv.task == "classification" and len(targets) > 1:
        raise FieldError("target_column", csv.target_column, "task=classification has one column of labels")
    pairs = (
        *(
            ("client_column", "target_column", ", which is predicted"),
            ("time_column", "target_column", ", which is predicted"),
        ),
        *(("time_column", "client_column", ""), ("sequence_column", "client_column", "")),
        *(("sequence_column", "time_column", ""), ("sequence_column", "target_column", ", which is predicted")),
        *(("shared_columns", "client_column", ""), ("shared_columns", "time_column", "")),
        *(("shared_columns", "feature_columns", ""), ("categories", "feature_columns", "")),
        *(("categories", "client_column", ""), ("categories", "time_column", "")),
        *(("categories", "target_column", ", which is predicted"), ("categories", "sequence_column", "")),
        ("categories", "shared_columns", ""),
    )
    for name, other, why in pairs:
        if both := {*named.get(name, ())} & {*named.get(other, ())}:
            value = getattr(csv, name)
            which = "is the" if isinstance(value, str) else f"holds {min(both)!r}, as has the"
            raise FieldError(name, value, f"{which} {other}{why}")


def _check_scale(csv: Any) -> None:
    check_one_of(csv, "scale", ("global", "client", "given", "none"))
    if csv.scale != "given":
        if csv.scales is not None:
            raise FieldError("scales", csv.scales, "has an effect only with scale=given")
        return
    allowed = "must be the columns with two numbers each, shift and scale, such as {temperature: [20, 5]}"
    if not csv.scales:
        raise FieldError("scales", csv.scales, f"scale=given needs them: {allowed}")
    for pair in csv.scales.values():
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(x) in (int, float) for x in pair)
        if not numbers or not all(map(math.isfinite, pair)) or pair[1] <= 0:
            raise FieldError("scales", csv.scales, f"{allowed}, finite, the scale above 0")


def _check_forecast(csv: Any) -> None:
    for name in ("horizon", "season", "metrics", "quantiles"):
        if getattr(csv, name) is not None and csv.task != "forecast":
            raise FieldError(name, getattr(csv, name), "has an effect only with task=forecast")
    for metric in csv.metrics or ():
        if metric not in EXTRA or csv.metrics.count(metric) > 1:
            raise FieldError("metrics", csv.metrics, f"must be one or more of {', '.join(EXTRA)}, each once")
    levels = csv.quantiles
    if levels is not None and not (0.5 in levels and levels == sorted({*levels}) and levels[0] > 0 and levels[-1] < 1):
        raise FieldError(
            "quantiles", levels, "must rise, lie above 0 and below 1, and have 0.5, the forecast that errors are of"
        )


def _check_shape(csv: Any) -> None:
    """Check the shapes of tables, of which a table has one."""
    if csv.series_in == "columns" and csv.task != "forecast":
        raise FieldError("series_in", csv.series_in, "needs task=forecast: a column is its own target")
    if csv.shared_columns is not None and csv.series_in != "columns":
        raise FieldError("shared_columns", csv.shared_columns, "has an effect only with series_in=columns")
    if csv.series_in == "rows":
        for name in ("time_column", "categories"):
            if getattr(csv, name) is not None:
                raise FieldError(name, getattr(csv, name), "has no meaning with series_in=rows: columns are the times")
    for name in ("measurement_columns", "sequence_column"):
        if csv.series_in is not None and getattr(csv, name) is not None:
            raise FieldError(name, getattr(csv, name), f"has no meaning with series_in={csv.series_in}")
    pair = csv.measurement_columns
    if pair is not None and (len(pair) != 2 or pair[0] == pair[1] or "" in pair):
        raise FieldError("measurement_columns", pair, "must be two columns, those of names and values")
    if pair is not None and csv.time_column is None:
        raise FieldError("measurement_columns", pair, "needs the time_column, at which what is measured is one row")
    for name, cells in (csv.where or {}).items():
        words = cells if isinstance(cells, list) else [cells]
        if not words or any(word is None or isinstance(word, list | dict) for word in words):
            raise FieldError("where", csv.where, f"{name} must be a cell that rows must have, or a list of such cells")
    if csv.where is not None and not csv.where:
        raise FieldError("where", csv.where, "must be columns and the cells that rows must have, such as {country: FR}")


def _check_sequences(csv: Any) -> None:
    if csv.labels is not None and not csv.sequence_column:
        raise FieldError(
            "labels", csv.labels, "needs the sequence_column, which names the sequence of each of its rows"
        )
    if csv.sequence_column is not None and (csv.task == "forecast" or not csv.sequence_column):
        raise FieldError("sequence_column", csv.sequence_column, "needs task=classification or regression")
    rows = csv.series_in == "rows" and csv.task != "forecast"
    if csv.sequence_column is None and not rows:
        return
    for name, usual in (("stride", 1), ("gaps", "split"), ("short", "error")):
        if getattr(csv, name) != usual:
            raise FieldError(name, getattr(csv, name), "has no effect on sequences, each of which is one sample")


def _check_rows(csv: Any) -> None:
    check_one_of(csv, "gaps", ("split", "error", "ignore"))
    check_one_of(csv, "duplicates", ("error", "first", "mean"))
    check_at_least(csv, 1, "fill_limit")
    if csv.fill_limit is not None and csv.missing != "ffill":
        raise FieldError("fill_limit", csv.fill_limit, "has an effect only with missing=ffill")
    if csv.na_values is not None and not csv.na_values:
        raise FieldError("na_values", csv.na_values, "must be one or more cells that mean a missing value")
    if csv.sort and not csv.time_column:
        raise FieldError("sort", csv.sort, "has an effect only with a time_column")
    if csv.duplicates != "error" and not csv.time_column:
        raise FieldError("duplicates", csv.duplicates, "has an effect only with a time_column")
    if csv.duplicates == "mean" and csv.task == "classification" and csv.measurement_columns is None:
        raise FieldError("duplicates", csv.duplicates, "labels have no mean; take first")


def _check_text(csv: Any) -> None:
    for name, words in (("separator", SEPARATORS), ("decimal", DECIMALS), ("thousands", THOUSANDS)):
        if getattr(csv, name) is not None:
            check_one_of(csv, name, words)
    other = csv.path is not None and csv.path.lower().removesuffix(".gz").endswith((*ENDINGS,))
    if csv.decimal == "comma" and (csv.separator == "comma" or (csv.separator is None and not other)):
        raise FieldError("decimal", csv.decimal, "needs another separator, such as separator=semicolon")
    if csv.thousands is not None and csv.thousands == (csv.decimal or "point"):
        raise FieldError("thousands", csv.thousands, "is the decimal mark")
    try:
        codecs.lookup(csv.encoding)
    except (LookupError, ValueError):
        raise FieldError("encoding", csv.encoding, "no such encoding; utf-8, latin-1, utf-16, ...") from None
    if csv.comment is not None and not csv.comment.strip():
        raise FieldError("comment", csv.comment, "must be what the lines to skip begin with, such as '#'")
    skip = csv.skip_rows
    if skip is not None and (skip == [] or min(skip if isinstance(skip, list) else [skip]) < 1):
        raise FieldError("skip_rows", skip, "must be how many lines to skip, or a list of lines, the first being 1")
