"""Rows out of order, at the same time, and of several series under one name."""

import pandas as pd

DAYS = [str(day.date()) for day in pd.date_range("2024-01-01", periods=20)]


def test_reversed_rows_are_refused_or_sorted(table, load, refusal):
    """y is 19 on the first line and 0 on the last, which is the earliest day."""
    path = table("t,y\n" + "".join(f"{day},{k}\n" for k, day in reversed([*enumerate(DAYS)])))
    assert "sort the rows of each client by it, or set data.sort=true" in refusal(path, time_column="t")
    data = load(path, time_column="t", sort=True)
    assert data.train.take()[0, :, 0].tolist() == [0, 1]
    assert data.notes == (
        "rows sorted by 't' within each client (data.sort=true): 19 of 20 had an earlier time than the row before",
    )


def test_sorting_what_is_sorted_says_nothing(table, load):
    text = "t,y\n" + "".join(f"{day},{k}\n" for k, day in enumerate(DAYS))
    assert not load(table(text), time_column="t", sort=True).notes


def test_each_client_is_sorted_by_itself(table, load):
    text = "who,t,y\n" + "".join(f"{who},{t},{k}\n" for k, t in enumerate(range(20, 0, -1)) for who in "ab")
    data = load(table(text), time_column="t", client_column="who", sort=True)
    assert data.client_names == ("a", "b")
    assert data.train.take()[data.train.clients == 1][0, :, 0].tolist() == [19, 18]


def test_repeated_times(table, load, refusal):
    """Day 4 has two rows, y = 4 and 104: the first, their mean 54, or neither."""
    lines = [f"{day},{k}\n" for k, day in enumerate(DAYS)]
    path = table("t,y\n" + "".join([*lines[:5], f"{DAYS[4]},104\n", *lines[5:]]))
    said = refusal(path, time_column="t")
    assert "has the same 't' as a.csv, line 6; each may occur once per client; data.duplicates=first or mean" in said
    first = load(path, time_column="t", duplicates="first")
    assert first.train.take()[3, :, 0].tolist() == [3, 4]
    assert first.notes == (
        "1 of 21 rows have a time that their client has already: the first of each is kept (data.duplicates=first)",
    )
    assert load(path, time_column="t", duplicates="mean").train.take()[3, :, 0].tolist() == [3, 54]


def test_the_end_of_summer_time_without_offsets(table, load, refusal):
    """On 27 October 2024 three o'clock becomes two, so that 02:00 comes twice; in UTC nothing repeats."""
    local = pd.date_range("2024-10-26", periods=60, freq="h", tz="Europe/Berlin")
    path = table("t,y\n" + "".join(f"{time},0\n" for time in local.tz_localize(None)))
    assert "(2024-10-27 02:00:00) has the same" in refusal(path, time_column="t")
    assert "an hour repeats where summer time ends, unless times have their offset" in refusal(path, time_column="t")
    assert not load(path, time_column="t", duplicates="first").notes[1:]
    assert not load(table("t,y\n" + "".join(f"{time},0\n" for time in local)), time_column="t").notes


def test_offsets_in_some_rows_only_are_refused(table, refusal):
    text = "t,y\n2024-01-01T00:00+01:00,0\n2024-01-01T01:00+01:00,0\n2024-01-01 02:00,0\n"
    said = refusal(table(text), time_column="t")
    assert "line 4, column 't': '2024-01-01 02:00' has no offset from UTC, unlike earlier rows" in said


def test_interleaved_series_are_named(table, load, refusal):
    """Two regions and two goods: only both together tell rows of one day apart."""
    keys = [(a, b) for a in "NS" for b in ("tea", "milk")]
    text = "region,good,t,y\n" + "".join(f"{a},{b},{day},{k}\n" for k, day in enumerate(DAYS) for a, b in keys)
    path = table(text)
    said = refusal(path, time_column="t")
    assert "a.csv, line 3 (2024-01-01 00:00:00) has the same 't' as a.csv, line 2 (and 59 more rows" in said
    assert "several series seem to be interleaved, and 'region', 'good' together tell them apart" in said
    assert said.endswith("set data.client_column=[region,good]")
    said = refusal(path, time_column="t", client_column="good")
    assert said.endswith(
        "and 'region' tells them apart: set data.client_column=[region,good]".replace("[region,good]", "[good,region]")
    )
    data = load(path, time_column="t", client_column=["region", "good"])
    assert data.client_names == ("N/tea", "N/milk", "S/tea", "S/milk")
    assert data.train.take()[data.train.clients == 2][0, :, 0].tolist() == [0, 1]


def test_interleaved_series_that_nothing_tells_apart(table, refusal):
    path = table("t,y\n" + "".join(f"{day},{k}.5\n" for k, day in enumerate(DAYS) for _ in range(2)))
    said = refusal(path, time_column="t")
    assert "several series seem to be interleaved; set data.client_column if a column names them, or" in said


def test_names_of_several_columns_stay_apart(table, load):
    """a/b of c and a of b/c would both be a/b/c."""
    text = "p,q,y\n" + "".join(f"{p},{q},{k}\n" for k in range(20) for p, q in (("a/b", "c"), ("a", "b/c")))
    assert load(table(text), client_column=["p", "q"]).client_names == ("('a/b', 'c')", "('a', 'b/c')")


def test_a_blank_at_the_end_makes_no_other_client(table, load):
    text = "who,y\n" + "".join(f"{'A ' if k == 7 else 'A'},{k}\n" for k in range(20))
    data = load(table(text), client_column="who")
    assert data.client_names == ("A",)
    assert data.train.take()[6, :, 0].tolist() == [6, 7]
    assert data.notes == ("blanks at the ends of 1 cells of column 'who' are left out, so 'A ' is 'A'",)


def test_a_blank_at_the_end_makes_no_other_label(table, load):
    text = "x,y\n" + "".join(f"{k % 3},{'b ' if k == 7 else 'ab'[k % 2]}\n" for k in range(20))
    data = load(table(text), task="classification", window=1)
    assert data.num_outputs == 2
    assert "1 cells of column 'y'" in data.notes[0]


# ---------------------------------------------------------------------------------------------------------------------
# times in several columns


def test_date_and_time_of_day(table, load):
    """The third hour is missing: rows 0, 1, 2 | 3, ... in the order of the file."""
    hours = [hour for hour in range(24) if hour != 3]
    text = "Date,Time,y\n" + "".join(f"02/01/2024,{hour:02d}.00.00,{k}\n" for k, hour in enumerate(hours))
    settings = {"time_column": ["Date", "Time"], "time_format": "%d/%m/%Y %H.%M.%S"}
    (note,) = load(table(text), **settings).notes
    assert "1 gap in time" in note
    assert "2 h instead of 1 h, before a.csv, line 5" in note
    iso = "Date,Time,y\n" + "".join(f"2024-01-02,{hour:02d}:00,{k}\n" for k, hour in enumerate(hours))
    assert load(table(iso), time_column=["Date", "Time"]).notes == (note,)


def test_year_month_day_hour(table, load, refusal):
    """From 30 December, 22:00, hour by hour; the columns are known by their names, in any order."""
    times = pd.date_range("2023-12-30 22:00", periods=40, freq="h")
    text = "hour,Year,month,day,y\n" + "".join(f"{t.hour},{t.year},{t.month},{t.day},{t.hour}\n" for t in times)
    path = table(text)
    settings = {"time_column": ["Year", "month", "day", "hour"]}
    data = load(path, **settings)
    assert not data.notes
    assert data.train.take().shape[2] == 1  # none of them is a feature
    bad = refusal(table(text.replace("0,2024,1,1,0", "0,2024,1,32,0")), **settings)
    assert "line 28: '2024 1 32 0' is not a time" in bad


def test_year_and_month(table, load):
    text = "year,month,y\n" + "".join(f"{2020 + k // 12},{k % 12 + 1},0\n" for k in range(40))
    assert not load(table(text), time_column=["year", "month"]).notes
