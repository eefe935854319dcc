"""Columns of a table as numbers or words; what is not one is refused with its file, line and text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import numpy as np

from fedsim.data.table_frame import NO_VALUE, File
from fedsim.data.table_text import THOUSANDS, TextFormat
from fedsim.errors import UserError

if TYPE_CHECKING:  # importing pandas takes half a second, which a cached table need not spend
    import pandas as pd
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"

_THOUSANDS = re.compile(r"-?\d{1,3}(?:([,.' ])\d{3})(?:\1\d{3})*(?:[.,]\d*)?")
_COMMA = re.compile(r"[-+]?\d*,\d+")


@dataclass(frozen=True)
class Layout:
    """What to read from the files, and how.

    Attributes:
        path: a file, a folder or a glob.
        client: columns that together name the client, perhaps none.
        time: columns that together are the time by which a client's rows are ordered, or none for the files' order.
        time_format: how times are written, or None for numbers and ISO 8601.
        features: columns of the inputs, or None for all numeric ones.
        targets: columns of what is predicted.
        labels: whether the target is a label, not a number.
        keep_targets: whether the targets are among "all numeric columns".
        text: how texts are written.
        na_values: further cells of numeric columns that are missing values.
        missing: ``error``, ``drop`` or ``ffill``.
        fill_limit: rows in a row that ``ffill`` fills.
        gaps: ``split``, ``error`` or ``ignore``.
        sort: whether the rows of each client are sorted by time.
        duplicates: ``error``, ``first`` or ``mean``, for rows of one client at the same time.
        series_in: ``columns`` or ``rows``, where each is a series, or None for a row per time step.
        shared: with ``series_in=columns``, columns that all series have as features.
        measurements: columns of the name and the value of a measurement, where each row is one, or none.
        sequence: the column that names the sequence of each row, where sequences are samples, or none.
        label_table: a table with a row per sequence, from which columns are taken that the files do not have.
        where: columns and the cells that rows must have in them to be read.
        categories: columns of words that become a feature for each of their words.
        model: the features of a saved model that the table is read for, those made of words and of what is missing
            included; none if the table decides.
    """

    path: str
    client: tuple[str, ...]
    time: tuple[str, ...]
    time_format: str | None
    features: tuple[str, ...] | None
    targets: tuple[str, ...]
    labels: bool
    keep_targets: bool
    text: TextFormat
    na_values: tuple[str, ...]
    missing: str
    fill_limit: int
    gaps: str
    sort: bool
    duplicates: str
    series_in: str | None = None
    shared: tuple[str, ...] = ()
    measurements: tuple[str, ...] = ()
    sequence: tuple[str, ...] = ()
    label_table: str | None = None
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    categories: tuple[str, ...] = ()
    model: tuple[str, ...] = ()

    @property
    def sequences(self) -> bool:
        """Whether sequences are samples, not windows."""
        return bool(self.sequence) or (self.series_in == "rows" and not self.keep_targets)

    @property
    def series(self) -> str:
        """What the rows that follow each other in time are called."""
        return "sequence" if self.sequences else "client"

    @property
    def keyed(self) -> dict[str, tuple[str, ...]]:
        """The columns that the settings name, by their keys, but for those that `series_in` makes."""
        return {
            "client_column": self.client,
            "sequence_column": self.sequence,
            "time_column": self.time,
            "target_column": self.targets,
            "feature_columns": self.features or (),
            "shared_columns": self.shared,
            "categories": self.categories,
        }


def as_texts(column: pd.Series) -> NDArray[np.object_]:
    """A column as text without blanks at its ends, None where a cell is empty."""
    import pandas as pd

    codes, distinct = pd.factorize(strings(column))
    stripped: NDArray[np.object_] = np.array([text.strip() or None for text in distinct], object)
    return stripped[codes]


def loose_cells(column: pd.Series) -> int:
    """How many cells of a column have blanks at their ends."""
    import pandas as pd

    codes, distinct = pd.factorize(strings(column))
    return int(np.array([text != text.strip() for text in distinct], bool)[codes].sum())


def strings(column: pd.Series) -> pd.Series[str]:
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
        return _without(column.to_numpy(np.float64, na_value=np.nan), layout.na_values)
    present = column.notna().to_numpy(bool)
    codes, distinct = pd.factorize(strings(column))  # as text, and each only once
    shown = pd.Series(distinct, dtype=object)
    plain = shown.str.strip().str.lower().replace({"true": "1", "false": "0"})  # bool with gaps
    if layout.text.thousands is not None:
        plain = plain.str.replace(THOUSANDS[layout.text.thousands], "", regex=False)
    if layout.text.decimal == "comma":
        plain = plain.str.replace(",", ".", regex=False)
    found = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    nothing = [text.lower() for text in (*NO_VALUE, *layout.na_values)]
    wrong = np.isnan(found) & ~plain.isin(nothing).to_numpy(bool)
    bad, found = wrong[codes] & present, np.where(present, found[codes], np.nan)
    if not bad.any():
        return _without(found, layout.na_values)
    if or_text and np.isnan(found).all() and not shown[wrong].map(lambda text: bool(_mark_hint(text, layout))).all():
        return None
    row, kinds = int(bad.argmax()), int(wrong.sum())
    word = shown[codes[row]]
    hint = file.head_hint(row) or _mark_hint(word, layout)
    if not hint and kinds <= 3 and bad.mean() < 0.5 and all(text.isprintable() for text in shown[wrong]):
        hint = f"; if it stands for a missing value, set data.na_values=[{','.join(map(str, shown[wrong]))}]"
    refuse(layout, f"{file.place(row)}, column {name!r}: {quoted(word)} is not a number{hint}")


def _mark_hint(text: str, layout: Layout) -> str:
    """The setting with which a text would be a number, or nothing."""
    if layout.text.thousands is None and (mark := _THOUSANDS.fullmatch(text.strip())):
        return "; perhaps data.thousands=" + next(name for name, sign in THOUSANDS.items() if sign == mark[1])
    comma = layout.text.decimal != "comma" and _COMMA.fullmatch(text.strip())
    return "; perhaps data.decimal=comma" if comma else ""


@cache
def _codes(na_values: tuple[str, ...]) -> Floats:
    """The numbers that stand for missing values; kept, because there may be thousands of files."""
    import pandas as pd

    return pd.to_numeric(pd.Series([*na_values], dtype=object), errors="coerce").dropna().to_numpy(np.float64)


def _without(values: Floats, na_values: tuple[str, ...]) -> Floats:
    """Numbers, NaN where they are among those that stand for missing values."""
    codes = _codes(na_values)
    return np.where(np.isin(values, codes), np.nan, values) if len(codes) else values


def quoted(value: str) -> str:
    """A value as it is shown: quoted, on one line, not endless."""
    return repr(value if len(value) <= 60 else f"{value[:57]}...")


def refuse(layout: Layout, text: str) -> NoReturn:
    """Raise a `UserError` about the files."""
    raise UserError(f"data.path={layout.path}: {text}")
