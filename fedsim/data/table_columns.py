"""Columns of a table as numbers, times or words; what is not one is refused with its file, line and text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from fedsim.data.table_files import NO_VALUE, File
from fedsim.errors import FieldError, UserError

if TYPE_CHECKING:  # importing pandas takes half a second, which a cached table need not spend
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """What to read from the files, and how.

    Attributes:
        path: a file, a folder or a glob.
        client: column that names the client, or None.
        time: column by which a client's rows are ordered, or None for the order of the file.
        time_format: how times are written, or None for numbers and ISO 8601.
        features: columns of the inputs, or None for all numeric ones.
        targets: columns of what is predicted.
        labels: whether the target is a label, not a number.
        keep_targets: whether the targets are among "all numeric columns".
        separator: name of the character between CSV fields, None for the default.
        decimal: name of the decimal mark in CSV numbers, None for the default.
        missing: ``error``, ``drop`` or ``ffill``.
    """

    path: str
    client: str | None
    time: str | None
    time_format: str | None
    features: tuple[str, ...] | None
    targets: tuple[str, ...]
    labels: bool
    keep_targets: bool
    separator: str | None
    decimal: str | None
    missing: str


def as_texts(column: pd.Series) -> NDArray[np.object_]:
    """A column as text, None where a cell is empty."""
    texts = _strings(column)
    out: NDArray[np.object_] = texts.to_numpy(object, copy=True)
    out[(texts == "").to_numpy(bool)] = None
    return out


def _strings(column: pd.Series) -> pd.Series[str]:
    """Every value as text, "" where there is none."""
    import pandas as pd

    values = column.astype(object).to_numpy(copy=True)
    values[column.isna().to_numpy(bool)] = ""
    return pd.Series([str(value) for value in values], dtype=object)


def as_numbers(file: File, name: str, layout: Layout, or_text: bool = False) -> Floats | None:
    """A column as numbers, NaN where missing; with `or_text`, None if it has text and no number at all.

    Raises:
        UserError: naming the first value that is not a number.
    """
    import pandas as pd

    column = file.frame[name]
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):  # bool is among them
        return column.to_numpy(np.float64, na_value=np.nan)
    present = column.notna().to_numpy(bool)
    codes, distinct = pd.factorize(_strings(column))  # as text, and each only once
    shown = pd.Series(distinct, dtype=object)
    plain = shown.str.strip().str.lower().replace({"true": "1", "false": "0"})  # bool with gaps
    if layout.decimal == "comma":
        plain = plain.str.replace(",", ".", regex=False)
    found = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = np.isnan(found) & ~plain.isin([text.lower() for text in NO_VALUE]).to_numpy(bool)
    bad, found = wrong[codes] & present, np.where(present, found[codes], np.nan)
    if not bad.any():
        return found
    if or_text and np.isnan(found).all():
        return None
    row = int(bad.argmax())
    refuse(layout, f"{file.place(row)}, column {name!r}: {_quoted(shown[codes[row]])} is not a number")


def as_times(file: File, name: str, layout: Layout) -> NDArray[np.generic]:
    """A column of times: numbers as they are, dates as nanoseconds since 1970, read as UTC where no zone is given."""
    import pandas as pd

    column = file.frame[name]
    missing = column.isna().to_numpy(bool)
    if pd.api.types.is_numeric_dtype(column) and layout.time_format is None:
        times = column.to_numpy(np.float64, na_value=np.nan) if missing.any() else column.to_numpy()
        missing = missing | ~np.isfinite(times.astype(np.float64))
        if not missing.any():
            return times
    if missing.any():
        refuse(layout, f"{file.place(int(missing.argmax()))}, column {name!r}: the time is missing or infinite")
    if pd.api.types.is_datetime64_any_dtype(column):
        if layout.time_format is not None:
            raise FieldError("data.time_format", layout.time_format, f"{file.name} holds dates, which need no format")
        found = pd.to_datetime(column, utc=True)
    else:
        found = _parsed(file, name, layout, _strings(column))
    try:
        return found.dt.tz_localize(None).dt.as_unit("ns").to_numpy()
    except (ValueError, OverflowError):
        refuse(layout, f"{file.name}, column {name!r}: dates must lie between the years 1678 and 2262")


def _parsed(file: File, name: str, layout: Layout, texts: pd.Series[str]) -> pd.Series[pd.Timestamp]:
    """Texts as dates, or `UserError` for the first that is not one."""
    import pandas as pd

    what = "a number or an ISO 8601 date (for other formats set data.time_format, such as '%d/%m/%Y %H:%M')"
    if layout.time_format is not None:
        what = f"a time of data.time_format={layout.time_format}"
    try:
        found = pd.to_datetime(texts, format=layout.time_format or "ISO8601", errors="coerce", utc=True)
    except ValueError as error:
        raise FieldError("data.time_format", layout.time_format, " ".join(str(error).split())) from None
    wrong = found.isna().to_numpy(bool)
    if wrong.any():
        numeric = pd.to_numeric(texts, errors="coerce").notna().to_numpy(bool)
        if layout.time_format is None and numeric.sum() > (~wrong).sum():  # mostly numbers
            wrong = ~numeric
        row = int(wrong.argmax())
        refuse(layout, f"{file.place(row)}, column {name!r}: {_quoted(texts.iloc[row])} is not {what}")
    return found


def _quoted(value: str) -> str:
    """A value as it is shown: quoted, on one line, not endless."""
    return repr(value if len(value) <= 60 else f"{value[:57]}...")


def refuse(layout: Layout, text: str) -> NoReturn:
    """Raise a `UserError` about the files."""
    raise UserError(f"data.path={layout.path}: {text}")
