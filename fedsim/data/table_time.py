"""Times of a table's rows: read from one column or several, put in order, and searched for gaps."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.table_columns import Layout, quoted, refuse, strings
from fedsim.data.table_frame import File
from fedsim.errors import FieldError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Ints: TypeAlias = "NDArray[np.int64]"
Flags: TypeAlias = "NDArray[np.bool_]"
Times: TypeAlias = "NDArray[np.generic]"

PARTS = ("year", "month", "day", "hour", "minute", "second")
"""Names of columns that together are a time, whatever their order; the first two or more of them."""
NEAR = 0.1
"""How far, as a share of the usual step, a step may be from it to count as usual."""
LONG = 1.5
"""Usual steps beyond which there is a gap: half-way to a missing row, more than months and summer time differ by."""
HOLIDAYS = 2
"""Working days in a row that may be missing where rows come on working days only."""

_OFFSET = re.compile(r"(?:[Zz]|[+-]\d\d:\d\d|[+-]\d{4}|:\d\d[+-]\d\d) *$")
_ELAPSED = re.compile(r"\d+:[0-5]\d(?::[0-5]\d(?:\.\d+)?)?")
_DAY, _SECOND = 86_400 * 10**9, 10**9


# ---------------------------------------------------------------------------------------------------------------------
# reading


def as_times(file: File, layout: Layout) -> Times:
    """The times of a file.

    Numbers are taken as they are, dates as nanoseconds since 1970, read as UTC where no zone is given, and elapsed
    times such as 24:37 as hours.
    """
    import pandas as pd

    if len(layout.time) > 1:
        return _nanoseconds(file, layout, _together(file, layout))
    name = layout.time[0]
    column = file.frame[name]
    missing = column.isna().to_numpy(bool)
    if pd.api.types.is_numeric_dtype(column) and layout.time_format is None:
        times = column.to_numpy(np.float64, na_value=np.nan) if missing.any() else column.to_numpy()
        missing = missing | ~np.isfinite(times.astype(np.float64))
        if not missing.any():
            return times
    _refuse_missing(file, layout, name, missing)
    if pd.api.types.is_datetime64_any_dtype(column):
        if layout.time_format is not None:
            raise FieldError("data.time_format", layout.time_format, f"{file.name} holds dates, which need no format")
        return _nanoseconds(file, layout, pd.to_datetime(column, utc=True))
    texts = strings(column)
    if layout.time_format is None and all(_ELAPSED.fullmatch(text) for text in texts):
        parts = texts.str.split(":", expand=True).astype(np.float64).fillna(0).to_numpy()
        found: NDArray[np.float64] = (parts @ np.array([3600.0, 60.0, 1.0])[: parts.shape[1]]) / 3600
        return found
    return _nanoseconds(file, layout, _parsed(file, shown_time(layout), layout, texts))


def is_elapsed(column: pd.Series, times: Times) -> bool:
    """Whether a column's times were texts such as 24:37."""
    import pandas as pd

    return times.dtype.kind == "f" and not pd.api.types.is_numeric_dtype(column)


def hours(times: Times) -> NDArray[np.float64]:
    """Times as numbers: hours where they are dates, else as they are."""
    return times.astype(np.int64) / 3.6e12 if times.dtype.kind == "M" else times.astype(np.float64)


def shown_time(layout: Layout) -> str:
    """The time column, or columns, for messages."""
    return "+".join(layout.time)


def _refuse_missing(file: File, layout: Layout, name: str, missing: Flags) -> None:
    if missing.any():
        row = int(missing.argmax())
        where = f"{file.place(row)}, column {name!r}"
        refuse(layout, f"{where}: the time is missing or infinite{file.head_hint(row)}")


def _nanoseconds(file: File, layout: Layout, found: pd.Series[pd.Timestamp]) -> Times:
    try:
        return found.dt.tz_localize(None).dt.as_unit("ns").to_numpy()
    except (ValueError, OverflowError):
        refuse(layout, f"{file.name}, column {shown_time(layout)!r}: dates must lie between the years 1678 and 2262")


def _together(file: File, layout: Layout) -> pd.Series[pd.Timestamp]:
    """Times in several columns: year, month, day, ... by their names, else their texts, joined by blanks."""
    import pandas as pd

    columns = {name: file.frame[name] for name in layout.time}
    for name, column in columns.items():
        _refuse_missing(file, layout, name, column.isna().to_numpy(bool))
    lower = {name.lower(): column for name, column in columns.items()}
    if layout.time_format is None and {*lower} == {*PARTS[: len(lower)]}:
        parts = pd.DataFrame({name: pd.to_numeric(strings(column), errors="coerce") for name, column in lower.items()})
        parts = parts if "day" in parts else parts.assign(day=1)
        found = pd.to_datetime(parts, errors="coerce", utc=True)
        if (wrong := found.isna().to_numpy(bool)).any():
            row = int(wrong.argmax())
            shown = " ".join(strings(column).iloc[row] for column in columns.values())
            refuse(layout, f"{file.place(row)}: {quoted(shown)} is not a time{file.head_hint(row)}")
        return found
    texts = pd.concat([strings(column).str.strip() for column in columns.values()], axis=1).agg(" ".join, axis=1)
    return _parsed(file, shown_time(layout), layout, texts)


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
        where = f"{file.place(row)}, column {name!r}"
        refuse(layout, f"{where}: {quoted(texts.iloc[row])} is not {what}{file.head_hint(row)}")
    if layout.time_format is None or "%z" in layout.time_format:
        codes, tails = pd.factorize(np.array([text[-6:] for text in texts], object))
        zoned = np.array([_OFFSET.search(tail) is not None for tail in tails], bool)[codes]
        if zoned.any() and not zoned.all():
            row = int((zoned != zoned[0]).argmax())
            said = "has an offset from UTC" if zoned[row] else "has no offset from UTC"
            refuse(layout, f"{file.place(row)}, column {name!r}: {quoted(texts.iloc[row])} {said}, unlike earlier rows")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# gaps


def shown_moment(time: np.generic) -> str:
    """A time for messages."""
    import pandas as pd

    return str(pd.Timestamp(time)) if time.dtype.kind == "M" else str(time)  # type: ignore[arg-type]


def shown_span(span: float, dates: bool) -> str:
    """A length of time, or a difference of numbers, for messages."""
    if not dates:
        return f"{span:,.6g}"
    units = (("d", _DAY), ("h", 3600 * _SECOND), ("min", 60 * _SECOND))
    unit, size = next(((unit, size) for unit, size in units if span >= size), ("s", _SECOND))
    return f"{span / size:,.4g} {unit}"


def find_gaps(
    time: Times, owner: Ints, layout: Layout, clients: list[str], place: Callable[[int], str]
) -> tuple[Flags, list[str]]:
    """Find the rows before which more time passed than usually does.

    A client's usual step is the median difference of its times, if at least half of its differences are within a tenth
    of it; a longer one than 1.5 times that is a gap. Where rows come daily but never on some days of the week, working
    days are counted, and one or two missing are holidays. Clients without a usual step have no gaps that can be known.

    Args:
        time: ``[R]``, rising within each client.
        owner: ``[R]`` ascending.
        layout: of the table.
        clients: their names.
        place: where a row is, for messages.

    Returns:
        ``[R]``, whether there is a gap before the row, and what to say.

    Raises:
        UserError: for a gap, if the layout does not allow any.
    """
    import pandas as pd

    before = np.zeros(len(time), bool)
    at = np.flatnonzero(owner[1:] == owner[:-1]) + 1
    if len(at) < 2:
        return before, []
    dates = time.dtype.kind == "M"
    plain = time.astype(np.int64) if dates else time.astype(np.float64)
    delta = (plain[at] - plain[at - 1]).astype(np.float64)
    who = owner[at]
    by_client = pd.Series(delta).groupby(who)
    several = by_client.transform("size").to_numpy() > 2
    step = np.where(several, by_client.transform("median").to_numpy(np.float64), np.median(delta))
    usual = np.abs(delta - step) <= NEAR * step
    regular = pd.Series(usual).groupby(who).transform("mean").to_numpy(np.float64) >= 0.5
    long = regular & (delta > LONG * step)
    notes, holidays = [], 0
    if dates and (daily := regular & (np.abs(step - _DAY) <= NEAR * _DAY)).any():
        long, holidays = _working_days(time, at, daily, long)
    if holidays:
        notes.append(f"working days only: {_times(holidays)} one or two are missing, taken for holidays and no gaps")
    if not regular.all():
        odd = np.unique(who[~regular])
        longest, middle = delta[~regular].max(), float(np.median(delta[~regular]))
        notes.append(
            f"the times of {len(odd)} of {len(clients)} clients have no usual step (median {shown_span(middle, dates)}"
            f", longest {shown_span(longest, dates)}), so their windows count rows, whatever time lies between them "
            f"(data.time_column={shown_time(layout)})"
        )
    if not long.any():
        return before, notes
    worst = int(np.where(long, delta, -np.inf).argmax())
    count = int(long.sum())
    it = "it" if count == 1 else "them"
    text = f"{count:,} gap{'s' * (count > 1)} in time in {len(np.unique(who[long])):,} of {len(clients):,} clients"
    text += f" (the longest, {shown_span(delta[worst], dates)} instead of {shown_span(step[worst], dates)}, before "
    text += f"{place(int(at[worst]))})"
    if not dates and (form := _written_as_numbers(time)):
        text += f"; if {shown_time(layout)!r} holds dates, such as {plain[0]:.0f}, set data.time_format={form}"
    if layout.gaps == "error":
        refuse(layout, f"{text}; data.gaps=split keeps windows from crossing them, data.gaps=ignore lets them")
    if layout.gaps == "ignore":
        return before, [*notes, f"{text}: windows cross {it} (data.gaps=ignore)"]
    before[at[long]] = True
    return before, [*notes, f"{text}: windows do not cross {it}; data.gaps=ignore lets them"]


def _written_as_numbers(time: Times) -> str:
    """The format of numbers that may be dates, such as 20240131, or nothing."""
    import pandas as pd

    numbers = time.astype(np.float64)
    low, high = numbers.min(), numbers.max()
    for form, least, most in (("%Y%m%d", 18000101, 22001231), ("%Y%m", 180001, 220012)):
        if least <= low and high <= most and (numbers % 1 == 0).all():
            texts = pd.Series(numbers.astype(np.int64)).astype(str)
            return form if pd.to_datetime(texts, format=form, errors="coerce").notna().all() else ""
    return ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _working_days(time: Times, at: Ints, daily: Flags, long: Flags) -> tuple[Flags, int]:
    """Count steps of days in working days, where some days of the week never occur; return gaps and holidays."""
    days = time.astype("datetime64[D]")
    rows = np.unique(np.concatenate([at[daily], at[daily] - 1]))
    worked = np.bincount((days[rows].astype(np.int64) + 3) % 7, minlength=7) > 0  # 1970-01-01 was a Thursday
    if worked.all() or len(rows) < 7:
        return long, 0
    steps = np.busday_count(days[at - 1], days[at], weekmask=[*worked.astype(int)])
    holidays = daily & (steps > 1) & (steps <= 1 + HOLIDAYS)
    return np.where(daily, steps > 1 + HOLIDAYS, long), int(holidays.sum())
