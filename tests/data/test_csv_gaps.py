"""No window crosses a gap in time or a dropped row without a word; what is no gap is not taken for one."""

import numpy as np
import pandas as pd
import pytest


def rows(times, header="t,y"):
    """A file whose y counts the rows."""
    return header + "\n" + "".join(f"{time},{k}\n" for k, time in enumerate(times))


def first_values(split):
    return split.take()[:, 0, 0].astype(int).tolist()


def hourly(count, start="2024-01-01"):
    return [*pd.date_range(start, periods=count, freq="h")]


def test_no_window_crosses_a_gap(table, load):
    """30 rows, half of them for testing; a sample takes e = 2 + 1 rows, and the gap lies before row 8.

    Training rows are 0..11 (12..14 are kept apart), in two stretches: 0..7 gives windows at 0..5, and 8..11 at 8, 9.
    Across the gap there would have been windows at 6 and 7. Test rows 15..29 have no gap: windows at 15..27.
    """
    path = table(rows([*hourly(8), *hourly(22, "2024-06-01")]))
    data = load(path, time_column="t", test_fraction=0.5)
    assert first_values(data.train) == [0, 1, 2, 3, 4, 5, 8, 9]
    assert first_values(data.test) == [*range(15, 28)]
    (note,) = data.notes
    assert note == (
        "1 gap in time in 1 of 1 clients (the longest, 151.7 d instead of 1 h, before a.csv, line 10): windows do not "
        "cross it; data.gaps=ignore lets them"
    )  # 151 days and 17 hours: from 1 January, 07:00, to 1 June
    crossing = load(path, time_column="t", test_fraction=0.5, gaps="ignore")
    assert first_values(crossing.train) == [*range(10)]
    assert crossing.notes[0].endswith("windows cross it (data.gaps=ignore)")


def test_the_stride_starts_anew_after_a_gap(table, load):
    """Stretches 0..7 and 8..11 (see above) with every second row: windows at 0, 2, 4 and at 8."""
    path = table(rows([*hourly(8), *hourly(22, "2024-06-01")]))
    data = load(path, time_column="t", test_fraction=0.5, stride=2)
    assert first_values(data.train) == [0, 2, 4, 8]


def test_a_gap_can_be_refused(table, refusal):
    said = refusal(table(rows([*range(10), *range(20, 30)])), time_column="t", gaps="error")
    assert "1 gap in time in 1 of 1 clients (the longest, 11 instead of 1, before a.csv, line 12); data.gaps=s" in said


def test_gaps_are_counted_per_client(table, load):
    """Steps of 1 and of 10: 3 is a gap for a, and 10 none for b. In b, 30 is one."""
    text = "who,t,y\n" + "".join(f"a,{t},0\n" for t in [*range(20), *range(22, 40), *range(42, 60)])
    text += "".join(f"b,{t},0\n" for t in [*range(0, 200, 10), *range(220, 400, 10)])
    text += "".join(f"c,{t},0\n" for t in range(30))
    data = load(table(text), time_column="t", client_column="who")
    assert "3 gaps in time in 2 of 3 clients (the longest, 30 instead of 10, before" in data.notes[0]


def test_a_client_without_a_long_enough_stretch(table, load, refusal):
    """b has 12 rows, two by two."""
    text = "who,t,y\n" + "".join(f"a,{t},0\n" for t in range(40))
    text += "".join(f"b,{t},0\n" for t in [0, 1, 5, 6, 10, 11, 12 + 3, 16, 20, 21, 25, 26])
    path = table(text)
    said = refusal(path, time_column="t", client_column="who")
    assert "client 'b' has 12 rows, but at most 2 without a gap, fewer than the 3 rows of a sample" in said
    assert "data.gaps=ignore" in said
    data = load(path, time_column="t", client_column="who", short="drop")
    assert data.client_names == ("a",)


def test_scale_of_rows_up_to_the_last_that_trains(table, load):
    """Training windows are at 0..5 and 8, 9 (see the first test), so rows 0..11 train: mean 5.5, variance 143 / 12."""
    path = table(rows([*hourly(8), *hourly(22, "2024-06-01")]))
    data = load(path, time_column="t", test_fraction=0.5, scale="global")
    expected = (np.array([0, 1, 2, 3, 4, 5, 8, 9]) - 5.5) / np.sqrt(143 / 12)
    np.testing.assert_allclose(data.train.take()[:, 0, 0], expected, rtol=1e-6)


NO_GAP = {
    "months": pd.date_range("2020-01-01", periods=40, freq="MS"),
    "ends of months": pd.date_range("2020-01-31", periods=40, freq="ME"),
    "quarters": pd.date_range("2010-01-01", periods=40, freq="QS"),
    "years": pd.date_range("1980-01-01", periods=40, freq="YS"),
    "working days": pd.bdate_range("2024-01-01", periods=40),
    "a six-day week": [day for day in pd.date_range("2024-01-01", periods=50) if day.dayofweek != 6],
    "summer time with offsets": pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin"),
    "days with offsets": pd.date_range("2024-03-20", periods=40, tz="Europe/Berlin"),
    "half an hour late": pd.date_range("2024-01-01", periods=40, freq="h") + pd.to_timedelta([0, 20] * 20, "min"),
}


@pytest.mark.parametrize("kind", NO_GAP)
def test_calendar_steps_are_no_gaps(table, load, kind):
    notes = load(table(rows(NO_GAP[kind])), time_column="t").notes
    assert not [note for note in notes if "gap" in note and "usual" not in note]


GAPS = {
    "a month": (pd.date_range("2020-01-01", periods=40, freq="MS").delete(20), "61 d instead of 31 d"),
    "a year": (pd.date_range("1980-01-01", periods=40, freq="YS").delete(20), "731 d instead of 365 d"),
    "a week of working days": (pd.bdate_range("2024-01-01", periods=60).delete(range(20, 25)), "10 d instead of 1 d"),
    "an hour in spring": (
        pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None),
        "2 h instead of 1 h",
    ),
    "a day": (pd.date_range("2024-01-01", periods=40).delete(20), "2 d instead of 1 d"),
}


@pytest.mark.parametrize("kind", GAPS)
def test_what_is_missing_is_a_gap(table, load, kind):
    """September 2021 is missing after 31 days of August, 2000 after 1999; a week between two weekends; an hour."""
    times, span = GAPS[kind]
    (note,) = load(table(rows(times)), time_column="t").notes
    assert note.startswith(f"1 gap in time in 1 of 1 clients (the longest, {span}, before")


def test_one_or_two_missing_working_days_are_holidays(table, load):
    """Friday 5 January, and Wednesday and Thursday 17 and 18: once one day, once two."""
    days = pd.bdate_range("2024-01-01", periods=40).drop(["2024-01-05", "2024-01-17", "2024-01-18"])
    (note,) = load(table(rows(days)), time_column="t").notes
    assert note == "working days only: 2 times one or two are missing, taken for holidays and no gaps"


def test_without_a_usual_step_it_is_said_and_nothing_is_split(table, load):
    """Steps 1, 2, 4, 8, 16, 32: one in six is the median or near it."""
    times = np.cumsum([1, 2, 4, 8, 16, 32] * 6)
    data = load(table(rows(times)), time_column="t")
    assert len(data.notes) == 1
    assert "1 of 1 clients have no usual step (median 8, longest 32), so their windows count rows" in data.notes[0]
    assert len(data.train) == 26 - 2  # 36 rows, 7 of them for testing, 3 between


# ---------------------------------------------------------------------------------------------------------------------
# rows that are dropped or filled


def test_dropped_rows_leave_a_gap(table, load, refusal):
    """Row 5 of 30 is dropped. Half test: 29 rows, 14 of them; training rows are the first 12 (29 - 14 - 3).

    These are 0..4 and 6..12: windows at 0, 1, 2 and at 6..10.
    """
    path = table("x,y\n" + "".join(f"{'' if k == 5 else 7},{k}\n" for k in range(30)))
    settings = {"missing": "drop", "test_fraction": 0.5, "feature_columns": ["y", "x"]}
    data = load(path, **settings)
    assert first_values(data.train) == [0, 1, 2, *range(6, 11)]
    assert data.notes == (
        "1 of 30 rows dropped, because they have missing values (data.missing=drop): windows do not cross the 1 place "
        "where they lay; data.gaps=ignore lets them",
    )
    assert first_values(load(path, gaps="ignore", **settings).train) == [*range(5), *range(6, 11)]
    assert "data.gaps=split lets no window cross" in refusal(path, gaps="error", **settings)


def test_a_gap_in_time_at_a_dropped_row_is_one_break(table, load):
    """Row 8 comes after a gap and is dropped, so the second stretch begins with row 9."""
    times = [*range(8), *range(100, 122)]
    path = table("t,x,y\n" + "".join(f"{t},{'' if k == 8 else 7},{k}\n" for k, t in enumerate(times)))
    data = load(path, time_column="t", missing="drop", test_fraction=0.5, feature_columns=["y", "x"])
    assert first_values(data.train) == [*range(6), 9, 10]  # training rows are 0..7 and 9..12


def test_fill_has_a_limit(table, load):
    """Rows 4..8 lack x. A window of 4 has a limit of 3: 4, 5 and 6 are filled with x of row 3, and 7 and 8 dropped."""
    path = table("x,y\n" + "".join(f"{'' if 4 <= k <= 8 else k},{k}\n" for k in range(60)))
    settings = {"missing": "ffill", "window": 4, "feature_columns": ["x"]}
    data = load(path, **settings)
    assert data.train.take()[:4, :, 0].tolist() == [[0, 1, 2, 3], [1, 2, 3, 3], [2, 3, 3, 3], [9, 10, 11, 12]]
    filled, dropped = data.notes
    assert filled.startswith(
        "3 missing values filled with the client's last one (data.missing=ffill, at most 3 in a row"
    )
    assert dropped.startswith("2 of 60 rows dropped")
    data = load(path, fill_limit=5, **settings)
    assert data.train.take()[4, :, 0].tolist() == [3, 3, 3, 3]
    assert len(data.notes) == 1 + 0 + ("same step" in data.notes[-1])


def test_nothing_is_carried_over_a_gap_in_time(table, load):
    """Row 10 comes after a gap and has no x: it is dropped, though row 9 has one."""
    times = [*range(10), *range(100, 130)]
    path = table("t,x,y\n" + "".join(f"{t},{'' if k == 10 else 7},{k}\n" for k, t in enumerate(times)))
    data = load(path, time_column="t", missing="ffill")
    assert any("1 of 40 rows dropped" in note for note in data.notes)
    data = load(path, time_column="t", missing="ffill", gaps="ignore")
    assert any("1 missing values filled" in note for note in data.notes)


def test_notes_survive_the_cache(table, load):
    path = table(rows([*hourly(8), *hourly(22, "2024-06-01")]))
    first, again = (load(path, time_column="t") for _ in range(2))
    assert first.notes == again.notes
    assert (first.train.take() == again.train.take()).all()


def test_dates_written_as_numbers_are_pointed_out(table, load):
    """As numbers, 20240201 comes 70 after 20240131."""
    days = pd.date_range("2024-01-01", periods=60)
    path = table(rows(days.strftime("%Y%m%d")))
    (note,) = load(path, time_column="t").notes
    assert "1 gap in time" in note
    assert "if 't' holds dates, such as 20240101, set data.time_format=%Y%m%d: windows do not cross" in note
    assert not load(path, time_column="t", time_format="%Y%m%d").notes


def test_gaps_that_leave_nothing_to_test_on(table, refusal):
    """Of 17 rows the last three are for testing, in two stretches."""
    said = refusal(table(rows([*range(14), 20, 30, 31])), time_column="t")
    assert "and training 6 before it, without one of the 2 gaps that data.gaps=split keeps" in said
