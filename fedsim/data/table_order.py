"""The rows of each client in the order of time: sorted if asked for, and no time twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.table_columns import Floats, Layout, refuse, strings
from fedsim.data.table_frame import File, shorten
from fedsim.data.table_time import Flags, Times, shown_moment, shown_time

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Ints: TypeAlias = "NDArray[np.int64]"

INTERLEAVED = 0.1
"""Share of rows at a time that their client has already, from which on they seem to be several series."""
MOST = 8
"""Columns of which up to three together are tried to tell series apart."""


def in_order(
    times: Times,
    codes: Ints,
    values: Floats,
    layout: Layout,
    clients: Sequence[str],
    place: Callable[[int], str],
    files: Callable[[], list[File]],
) -> tuple[Ints, Floats, list[str]]:
    """Order the rows by client and, within each, by time.

    Args:
        times: ``[R]``, as in the files.
        codes: ``[R]`` number of each row's client.
        values: ``[R, M]``, finite or NaN.
        layout: of the table.
        clients: their names.
        place: where a row is, for messages.
        files: reads the files again, for messages.

    Returns:
        the numbers of the rows that stay, in their order; the values of all rows as in the files, or means of them; and
        what was done.

    Raises:
        UserError: if times repeat or fall, and the layout does not say what to do about it.
    """
    import pandas as pd

    notes = []
    rows = np.arange(len(codes))
    again = pd.DataFrame({"client": codes, "time": times}).duplicated().to_numpy(bool)
    if (count := int(again.sum())) > 0:
        if layout.duplicates == "error":
            _refuse_repeated(times, codes, again, layout, clients, place, files)
        kept = "the first of each is kept"
        if layout.duplicates == "mean":
            values = pd.DataFrame(values).groupby([codes, times]).transform("mean").to_numpy(np.float64)
            kept = "their mean is taken"
        said = f"{count:,} of {len(codes):,} rows have a time that their {layout.series} has already: {kept} "
        notes.append(f"{said}(data.duplicates={layout.duplicates})")
        rows = rows[~again]
    order = rows[np.argsort(codes[rows], kind="stable")]
    falls = (codes[order][1:] == codes[order][:-1]) & (times[order][1:] < times[order][:-1])
    if falls.any():
        if not layout.sort:
            _refuse_falling(times, codes, order, falls, layout, clients, place)
        order = rows[np.lexsort((times[rows], codes[rows]))]
        said = f"rows sorted by {shown_time(layout)!r} within each {layout.series} (data.sort=true): "
        notes.append(f"{said}{int(falls.sum()):,} of {len(rows):,} had an earlier time than the row before")
    return order, values, notes


def _refuse_falling(
    times: Times,
    codes: Ints,
    order: Ints,
    falls: Flags,
    layout: Layout,
    clients: Sequence[str],
    place: Callable[[int], str],
) -> None:
    at = int(falls.argmax())
    here, before = int(order[at + 1]), int(order[at])
    more = "" if falls.sum() == 1 else f", and {int(falls.sum()) - 1} more rows are out of order"
    several = "" if layout.client else "; if a file holds several clients, set data.client_column"
    refuse(
        layout,
        f"{layout.series} {clients[codes[here]]!r}: {place(here)} ({shown_moment(times[here])}) has an earlier "
        f"{shown_time(layout)!r} than {place(before)}{more}; sort the rows of each client by it, or set data.sort=true"
        f"{several}",
    )


def _refuse_repeated(
    times: Times,
    codes: Ints,
    again: Flags,
    layout: Layout,
    clients: Sequence[str],
    place: Callable[[int], str],
    files: Callable[[], list[File]],
) -> None:
    here = int(again.argmax())
    before = int(((codes == codes[here]) & (times == times[here])).argmax())
    count = int(again.sum())
    more = "" if count == 1 else f" (and {count - 1:,} more rows repeat a time)"
    said = f"{layout.series} {clients[codes[here]]!r}: {place(here)} ({shown_moment(times[here])}) has the same "
    said += f"{shown_time(layout)!r} as {place(before)}{more}; "
    one = "data.duplicates=first or mean keeps one row of each time"
    if again.mean() < INTERLEAVED:
        hour = "an hour repeats where summer time ends, unless times have their offset from UTC; "
        refuse(layout, f"{said}each may occur once per client; {hour if _autumn(times[again]) else ''}{one}")
    apart = _telling_apart(files(), layout)
    if apart:
        names = [*layout.client, *apart]
        key = names[0] if len(names) == 1 else f"[{','.join(names)}]"
        tell = f"{shorten(apart)} {'tells' if len(apart) == 1 else 'together tell'} them apart"
        refuse(layout, f"{said}several series seem to be interleaved, and {tell}: set data.client_column={key}")
    clue = "no other column tells them apart" if layout.client else "set data.client_column if a column names them"
    refuse(layout, f"{said}several series seem to be interleaved; {clue}, or {one}")


def _autumn(times: Times) -> bool:
    """Whether all times are before four o'clock on a Sunday, when clocks are set back."""
    import pandas as pd

    if times.dtype.kind != "M":
        return False
    found = pd.DatetimeIndex(times)
    return bool(((found.dayofweek == 6) & (found.hour < 4)).all())


def _telling_apart(files: Sequence[File], layout: Layout) -> tuple[str, ...]:
    """The fewest columns that tell rows at the same time apart, words before whole numbers; none if there are none."""
    import pandas as pd

    frame = pd.concat([file.frame.assign(**{"\0file": k}) for k, file in enumerate(files)], ignore_index=True)
    keys = [*(layout.client or ["\0file"]), *layout.sequence, *layout.time]
    if not {*keys} <= {*frame.columns}:  # those that the table of labels has
        return ()
    texts = pd.DataFrame({name: strings(frame[name]) for name in keys})
    words: list[str] = []
    numbers: list[str] = []
    for name in frame.columns:
        column: pd.Series[str] = frame[name]
        if name in (*keys, "\0file", *layout.targets) or pd.api.types.is_float_dtype(column):
            continue
        texts[name] = strings(column)
        if 1 < texts[name].nunique() <= len(frame) // 2:
            (numbers if pd.api.types.is_numeric_dtype(column) else words).append(name)
    candidates = [*words, *numbers][:MOST]
    for size in (1, 2, 3):
        for names in combinations(candidates, size):
            if not texts.duplicated([*keys, *names]).any():
                return names
    return ()
