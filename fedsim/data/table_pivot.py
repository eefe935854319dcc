"""Tables with a row per measurement, made into rows of time steps with a column per quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.table_columns import Layout, as_numbers, as_texts, quoted, refuse
from fedsim.data.table_frame import Done, File, shorten
from fedsim.data.table_rows import Rows, numeric_columns, require

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def pivoted(file: File, layout: Layout) -> File:
    """Give each quantity a column, and all measurements of one client, sequence and time one row.

    Args:
        file: a row per measurement.
        layout: whose `measurements` are the columns of their names and values.

    Returns:
        Rows in the order of their first measurements; quantities that the settings name and the file lacks are missing.

    Raises:
        UserError: if a quantity was measured twice at the same time, unless ``duplicates`` says which counts.
    """
    import pandas as pd

    parameter, value = layout.measurements
    require(file, "measurement_columns", layout.measurements, layout)
    frame, notes = file.frame, []
    names = as_texts(frame[parameter])
    numbers = as_numbers(file, value, layout)
    assert numbers is not None
    named = [name for columns in layout.keyed.values() for name in columns]
    keys = [name for name in dict.fromkeys(named) if name in frame.columns and name not in layout.measurements]
    require(file, "time_column", layout.time, layout)
    if rest := [name for name in frame.columns if name not in (*keys, *layout.measurements)]:
        notes.append(Done(f"columns that say more of measurements are left out: {shorten(rest)}", file.name))
    nameless = np.array([name is None for name in names], bool)
    if nameless.any():
        text = f"COUNT measurements of FILES that column {parameter!r} does not name are left out"
        notes.append(Done(text, file.name, int(nameless.sum())))
    unwanted = nameless | np.isin(names, layout.sequence)
    if (names[~nameless] == (layout.sequence or ("",))[0]).any():
        notes.append(Done(f"measurements of {layout.sequence[0]!r}, the sequence, are left out", file.name))
    kept = np.flatnonzero(~unwanted)
    if clash := [name for name in pd.unique(names[kept]) if name in keys]:
        refuse(layout, f"{file.name}: {clash[0]!r} is a column and a quantity in column {parameter!r}")
    codes, quantities = pd.factorize(names[kept])
    rows = frame[keys].iloc[kept].groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    cells = pd.DataFrame({"row": rows, "quantity": codes, "value": numbers[kept]})
    again = cells.duplicated(["row", "quantity"]).to_numpy(bool)
    if again.any():
        _report_repeated(file, layout, cells, again, kept, names, notes)
    if layout.duplicates == "mean":
        cells["value"] = cells.groupby(["row", "quantity"])["value"].transform("mean")
    cells = cells[~again]
    first = np.flatnonzero(~pd.Series(rows).duplicated().to_numpy(bool))
    grid = np.full((len(first), len(quantities)), np.nan)
    grid[cells["row"], cells["quantity"]] = cells["value"]
    found = frame[keys].iloc[kept[first]].reset_index(drop=True)
    columns = {str(name): grid[:, k] for k, name in enumerate(quantities)}
    numeric = (*(layout.features or ()), *(() if layout.labels else layout.targets))
    columns |= {name: np.full(len(first), np.nan) for name in numeric if name not in columns and name not in keys}
    return file.only(kept[first], pd.concat([found, pd.DataFrame(columns)], axis=1), tuple(notes))


def _report_repeated(
    file: File,
    layout: Layout,
    cells: pd.DataFrame,
    again: NDArray[np.bool_],
    kept: NDArray[np.int64],
    names: NDArray[np.object_],
    notes: list[Done],
) -> None:
    """Note the measurements that repeat, or refuse them."""
    if layout.duplicates == "error":
        at = int(again.argmax())
        same = (cells["row"] == cells["row"].iloc[at]) & (cells["quantity"] == cells["quantity"].iloc[at])
        here, before = int(kept[at]), int(kept[int(same.to_numpy().argmax())])
        count = f" (and {int(again.sum()) - 1:,} more rows do)" if again.sum() > 1 else ""
        refuse(
            layout,
            f"{file.place(here)} measures {quoted(names[here])} at the same {'+'.join(layout.time)!r} as "
            f"{file.place(before)}{count}; data.duplicates=first or mean keeps one value",
        )
    said = "the first of each is kept" if layout.duplicates == "first" else "their mean is taken"
    text = f"COUNT measurements of FILES repeat one at the same time: {said} (data.duplicates={layout.duplicates})"
    notes.append(Done(text, file.name, int(again.sum())))


def aligned(parts: Sequence[Rows], layout: Layout) -> list[Rows]:
    """Give all files the quantities of all, missing where a file has not measured them.

    Raises:
        UserError: if no file has a quantity that the settings name.
    """
    names = parts[0].names if layout.features is not None else tuple(dict.fromkeys(n for p in parts for n in p.names))
    columns = numeric_columns(names, layout)
    seen = np.zeros(len(columns), bool)
    found = []
    for part in parts:
        own = numeric_columns(part.names, layout)
        values = np.full((len(part.values), len(columns)), np.nan)
        values[:, [columns.index(name) for name in own]] = part.values
        seen |= (~np.isnan(values)).any(0)
        found.append(replace(part, names=names, values=values))
    asked = {*(() if layout.model else layout.features or ()), *layout.targets}
    never = [name for name, there in zip(columns, seen, strict=True) if not there and name in asked]
    if never:
        known = [name for name, there in zip(columns, seen, strict=True) if there]
        refuse(layout, f"nothing is called {never[0]!r}; measured are {shorten(known)}")
    return found
