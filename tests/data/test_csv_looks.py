"""What looks wrong in a table is said: missing values in disguise, counters, times in columns that are left out."""

import pandas as pd
import pytest

from fedsim.data.table_looks import codes_for_missing, counters, moments

import numpy as np  # isort: skip

VALUES = [20 + (7 * k) % 11 for k in range(50)]  # 20..30


def one(values):
    return codes_for_missing(np.array(values, float)[:, None], ["y"])


@pytest.mark.parametrize("code", [-200, -999, 9999, 0])
def test_an_isolated_value_that_repeats(code):
    """0 is 20 away from the others, which lie within 10."""
    (note,) = one([*VALUES, code, code, code])
    assert f"column 'y' holds {code} in 3 of 53 rows, far from all other values (20 to 30)" in note
    assert note.endswith(f"set data.na_values=[{code}]")


def test_two_codes():
    (note,) = one([*VALUES, *[-200] * 4, *[9999] * 3])
    assert note.endswith("set data.na_values=[9999,-200]")
    assert "in 7 of 57 rows" in note


def test_a_code_nearer_than_the_range_if_it_looks_like_one():
    """300..1000 and -200: 500 away, less than their range of 700 but more than a quarter of it."""
    values = [300 + 14 * k for k in range(51)]
    assert "holds -200" in one([*values, -200, -200, -200])[0]
    assert not one([*values, -203, -203, -203])


@pytest.mark.parametrize(
    "values",
    [
        [*VALUES, -200, -200],  # only twice
        [*VALUES, 35, 35, 35],  # 5 away
        [0, 1] * 25,
        [0] * 40 + [1000] * 10,
        [1, 2, 3, 4] * 5 + [1000] * 5,  # too few values to have a range
        [np.nan] * 50,
    ],
)
def test_what_is_no_code(values):
    assert not one(values)


def test_codes_become_missing_values(table, load, refusal):
    """Rows 10..12 of 53 hold -200."""
    values = [*VALUES[:10], -200, "-200.0", -200, *VALUES[10:]]
    path = table("y\n" + "".join(f"{value}\n" for value in values))
    assert "data.na_values=[-200]" in load(path).notes[0]
    assert "line 12, column 'y': the value is missing (and in 2 more rows)" in refusal(path, na_values=["-200"])
    (note,) = load(path, na_values=["-200"], missing="drop").notes
    assert note.startswith("3 of 53 rows dropped")


def test_codes_of_parquet_files(tmp_path, table, load):
    table("")
    pd.DataFrame({"y": [*VALUES[:10], -200, -200, -200, *VALUES[10:]]}).to_parquet(tmp_path / "a.parquet")
    (note,) = load(str(tmp_path / "a.parquet"), na_values=["-200"], missing="drop").notes
    assert note.startswith("3 of 53 rows dropped")


def test_words_for_missing_values(table, load, refusal):
    path = table("y\n" + "".join(f"{'-' if k == 4 else k % 7}\n" for k in range(30)))
    said = refusal(path)
    assert said.endswith("'-' is not a number; if it stands for a missing value, set data.na_values=[-]")
    assert load(path, na_values=["-"], missing="ffill").notes[0].startswith("1 missing values filled")


# ---------------------------------------------------------------------------------------------------------------------


def test_counters_are_named():
    """Row numbers, epoch seconds and their fall; not an hour of the day, a level or a walk."""
    rows = np.arange(60)
    columns = {
        "No": rows,
        "epoch": 1_700_000_000 + 60 * rows,
        "left": 100 - rows,
        "hour": rows % 24,
        "level": rows // 10,
        "walk": np.cumsum(1 + rows % 3),
    }
    (note,) = counters(np.column_stack([*columns.values()]).astype(float), [*columns], np.zeros(60, int))
    assert note.startswith("'No', 'epoch', 'left' change by the same step")


def test_counters_may_have_a_few_other_steps_and_begin_anew_in_each_client():
    owner = np.repeat([0, 1], 30)
    column = np.concatenate([np.arange(30), 5 * np.arange(30)]).astype(float)
    column[45:] += 100
    assert counters(column[:, None], ["n"], owner)
    assert not counters(column[:, None], ["n"], np.zeros(60, int))  # of one client it falls once


def test_targets_and_times_are_no_counters(table, load):
    text = "No,t,y\n" + "".join(f"{k},{k},{k}\n" for k in range(30))
    (note,) = load(table(text), time_column="t").notes
    assert note.startswith("'No' changes")


# ---------------------------------------------------------------------------------------------------------------------

DAYS = [str(day.date()) for day in pd.date_range("2024-01-01", periods=30)]


def aside(table, load, times, **settings):
    notes = load(table("when,y\n" + "".join(f"{time},{k % 7}\n" for k, time in enumerate(times))), **settings).notes
    assert notes[0] == "columns without a number are left out (data.feature_columns): 'when'"
    return notes[1:]


def test_left_out_times_that_fall(table, load):
    (note,) = aside(table, load, DAYS[::-1])
    assert "column 'when', left out, reads as times that fall at 29 of 29 rows within clients" in note
    assert "set data.time_column=when, and data.sort=true or data.client_column" in note


def test_left_out_times_day_first(table, load):
    """30 days of January as 01/01/2024, ...: some of them could be months, all of them are days."""
    (note,) = aside(table, load, [f"{day[8:]}/{day[5:7]}/{day[:4]}" for day in DAYS])
    assert note.startswith("column 'when', left out, reads as times: data.time_column=when with data.time_format would")


@pytest.mark.parametrize("form", ["%d %b %Y", "%B %d, %Y", "%d-%b-%y"])
def test_left_out_times_with_names_of_months(table, load, form):
    days = pd.date_range("2024-01-20", periods=30)[::-1]
    (note,) = aside(table, load, [f'"{day:{form}}"' for day in days])
    assert "reads as times that fall at 29 of 29 rows" in note


def test_left_out_times_that_repeat(table, load):
    (note,) = aside(table, load, [DAYS[k // 2] for k in range(30)])
    assert "reads as times, 15 of which repeat within clients" in note
    assert "data.time_column=[when,...]" in note


def test_words_are_no_times():
    for cells in (["a", "b"], ["1", "2"], ["12:30", "12:40"], [""], ["2024-01-01", "soon"]):
        assert moments(pd.Series(cells, dtype=object)) is None
