"""Windows, splits and scales of small tables that can be checked by eye, and what is said about bad ones."""

import dataclasses
import gzip
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import build
from fedsim.data import table_files, tables
from fedsim.data.csv import Csv
from fedsim.data.dataset import Task
from fedsim.data.window_scales import moments
from fedsim.errors import FieldError, UserError


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSIM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def write(tmp_path):
    def write(text, name="a.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def counting(rows, header="y", first=0):
    """A file of one column that counts."""
    return header + "\n" + "".join(f"{k}\n" for k in range(first, first + rows))


def refusal(**settings):
    with pytest.raises(UserError) as error:
        Csv(**{"target_column": "y", "window": 2, "scale": "none"} | settings).load(0)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# samples


def test_forecast_by_hand(write):
    """20 rows 0..19 in y, z = 10 y; half tests. A sample takes e = 2 + 2 rows, and e rows lie between the parts.

    Test rows are 10..19: windows at 10, 13, 16 (the next would be 19). Training rows are 0..5, since 6..9 are the gap:
    a window at 0 only, because one at 3 would use row 6.
    """
    text = "y,z\n" + "".join(f"{k},{10 * k}\n" for k in range(20))
    data = Csv(
        path=write(text), target_column="y", window=2, horizon=2, stride=3, test_fraction=0.5, scale="none"
    ).load(0)
    assert (data.name, data.task, data.num_outputs, data.vocabulary_size) == ("csv", Task.REGRESSION, 2, None)
    assert data.train.take().tolist() == [[[0, 0], [1, 10]]]
    assert data.train.targets.tolist() == [[2, 3]]
    assert data.test.take().tolist() == [[[k, 10 * k], [k + 1, 10 * k + 10]] for k in (10, 13, 16)]
    assert data.test.targets.tolist() == [[12, 13], [15, 16], [18, 19]]
    assert data.test.lengths.tolist() == [2, 2, 2]
    assert data.train.take().dtype == data.train.targets.dtype == np.float32


def test_forecast_of_several_targets_is_row_by_row(write):
    text = "x,y,z\n" + "".join(f"{k},{k + 100},{k + 200}\n" for k in range(20))
    settings = {"target_column": ["z", "x"], "feature_columns": ["y"], "window": 1, "horizon": 2, "scale": "none"}
    data = Csv(path=write(text), test_fraction=0.3, **settings).load(0)
    assert data.num_outputs == 4
    assert data.train.take()[0].tolist() == [[100]]
    assert data.train.targets[0].tolist() == [201, 1, 202, 2]


def test_regression_reads_the_last_row_and_hides_the_target(write):
    text = "x,y\n" + "".join(f"{k},{-k}\n" for k in range(15))
    data = Csv(path=write(text), target_column="y", task="regression", window=3, scale="none").load(0)
    assert data.train.take()[0].tolist() == [[0], [1], [2]]
    assert data.train.targets[0].tolist() == [-2]
    assert data.num_outputs == 1


def test_target_among_the_features_is_allowed_and_noted(write):
    text = "x,y\n" + "".join(f"{k},{-k}\n" for k in range(12))
    settings = {"target_column": "y", "feature_columns": ["y", "x"], "task": "regression", "scale": "none"}
    data = Csv(path=write(text), window=1, **settings).load(0)
    assert data.train.take()[2].tolist() == [[-2, 2]]
    assert "the features include what is to be predicted (data.feature_columns): 'y'" in data.notes


def test_labels_in_order(write):
    """12 rows, 6 test; labels 9 and 10 are numbers, so 9 comes first; each window's is that of its last row."""
    text = "x,y\n" + "".join(f"{k},{10 if k % 2 else 9}\n" for k in range(12))
    settings = {"target_column": "y", "task": "classification", "window": 2, "test_fraction": 0.5}
    data = Csv(path=write(text), **settings).load(0)
    assert (data.task, data.num_outputs) == (Task.CLASSIFICATION, 2)
    assert data.train.targets.tolist() == [1, 0, 1]  # windows at rows 0, 1, 2; rows 4 and 5 are the gap
    assert data.test.targets.tolist() == [1, 0, 1, 0, 1]
    words = Csv(path=write(text.replace(",9\n", ",b\n").replace(",10\n", ",10 a\n")), **settings).load(0)
    assert words.train.targets.tolist() == [0, 1, 0]  # as text, "10 a" < "b"


def test_label_only_in_test_rows_is_counted_and_noted(write):
    labels = [*"abababab", *"cabc"]
    text = "x,y\n" + "".join(f"{k},{label}\n" for k, label in enumerate(labels))
    data = Csv(path=write(text), target_column="y", task="classification", window=1, test_fraction=0.34).load(0)
    assert data.num_outputs == 3
    assert data.test.targets.tolist() == [2, 0, 1, 2]
    note = data.notes[-1]
    assert note.startswith("2 of 4 test windows have a label that no training window has")
    assert note.endswith("'c'")


def test_label_that_no_window_has_gets_no_output(write):
    """Row 0 is never a window's last."""
    text = "x,y\n0,only here\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(15))
    data = Csv(path=write(text), target_column="y", task="classification", window=2).load(0)
    assert data.num_outputs == 2
    assert set(data.train.targets) == {0, 1}


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    window=st.integers(1, 8),
    horizon=st.integers(1, 5),
    stride=st.integers(1, 7),
    task=st.sampled_from(["forecast", "regression"]),
    fraction=st.floats(0.05, 0.9),
)
def test_no_row_of_a_test_window_is_near_training(sizes, window, horizon, stride, task, fraction):
    """The features are the row's number in its client, so that windows say which rows they use."""
    extent = window + (horizon if task == "forecast" else 0)
    rows = [(k, row) for k, size in enumerate(sizes) for row in range(size)]
    values = np.array([[row, row] for _, row in rows], float)
    table = tables.Table(
        values, ("row", "y"), 1, np.zeros(0, np.int64), np.array(sizes), tuple("abcd"[: len(sizes)]), (), True, ()
    )
    settings = {"window": window, "stride": stride, "task": task, "test_fraction": fraction, "scale": "none"}
    source = Csv(path="-", target_column="y", short="drop", horizon=horizon if task == "forecast" else None, **settings)
    kept = [size for size in sizes if size >= extent]
    tests = [int(size * fraction) for size in kept]
    tested = [test >= extent and size - test >= 2 * extent for size, test in zip(kept, tests, strict=True)]
    if not any(tested):
        with pytest.raises(UserError):
            source._windows().dataset(table)
        return
    data = source._windows().dataset(table)
    for client, (size, test) in enumerate(zip(kept, tests, strict=True)):
        used = []
        for split in (data.train, data.test):
            own = split.clients == client
            inputs, targets = split.take()[own, :, 0], split.targets[own]
            assert (np.diff(inputs, axis=1) == 1).all()
            assert (np.diff(inputs[:, 0]) == stride).all()
            ahead = np.arange(1, horizon + 1) if task == "forecast" else np.zeros(1)
            assert (targets == inputs[:, -1:] + ahead).all()
            used.append({*inputs.ravel(), *targets.ravel()})
        assert 0 in used[0]
        if tested[client]:
            assert not used[0] & used[1]
            assert min(used[1]) == size - test  # the test part begins where it should
            assert min(used[1]) - max(used[0]) > extent  # so `extent` rows or more lie between
            assert min(used[1]) - max(used[0]) <= extent + stride  # and no window more would have fitted
            assert size - max(used[1]) <= stride
        else:
            assert not used[1]
            assert size - max(used[0]) <= stride


# ---------------------------------------------------------------------------------------------------------------------
# clients


def test_client_column(write):
    """Rows of two clients, mixed; in each, the order of the file."""
    text = "who,y\n" + "".join(f"{'007' if k % 2 else 'NA'},{k}\n" for k in range(40))
    data = Csv(path=write(text), client_column="who", target_column="y", window=1, scale="none").load(0)
    assert data.client_names == ("NA", "007")  # words, in the order of their appearance
    assert data.train.take()[data.train.clients == 0][:3, 0, 0].tolist() == [0, 2, 4]
    assert data.train.take()[data.train.clients == 1][:3, 0, 0].tolist() == [1, 3, 5]


def test_each_file_is_a_client(tmp_path, write):
    write(counting(12, first=100), "b.csv.gz".removesuffix(".gz"))
    write(gzip.compress(counting(12, first=200).encode()), "c.csv.gz")
    pd.DataFrame({"y": range(300, 312)}).to_parquet(tmp_path / "d.parquet")
    write("not read", "notes.txt")
    write("not read", ".hidden.csv")
    for path in (str(tmp_path), f"{tmp_path}/[b-d].*"):
        data = Csv(path=path, target_column="y", window=1, scale="none").load(0)
        assert data.client_names == ("b", "c", "d")
        assert [data.train.take()[data.train.clients == k][0, 0, 0] for k in range(3)] == [100, 200, 300]


def test_files_of_the_same_name_are_named_by_their_folders(tmp_path, write):
    for house in "12":
        write(counting(12), f"houses/{house}/load.csv")
    data = Csv(path=f"{tmp_path}/**/load.csv", target_column="y", window=1).load(0)
    assert data.client_names == ("1/load.csv", "2/load.csv")


def test_client_column_over_several_files(tmp_path, write):
    """A month per file: the second continues where the first ends."""
    for month in (0, 1):
        write("who,t,y\n" + "".join(f"{c},{10 * month + k},{k}\n" for c in "ab" for k in range(10)), f"{month}.csv")
    settings = {"client_column": "who", "time_column": "t", "target_column": "y", "window": 3, "scale": "none"}
    data = Csv(path=str(tmp_path), **settings).load(0)
    assert data.client_names == ("a", "b")
    assert data.train.take()[8, :, 0].tolist() == [8, 9, 0]


def test_one_file_is_one_series_without_clients(write):
    data = Csv(path=write(counting(12)), target_column="y", window=1).load(0)
    assert data.client_names is None
    assert data.train.clients is None
    assert "data.client_column" in data.why_not_natural


def test_client_too_short_to_test_trains_on_all_its_rows(tmp_path, write):
    """A sample takes 2 rows: 12 rows test on 2 and train on 8; 6 rows cannot be cut."""
    write(counting(12), "long.csv")
    write(counting(6), "short.csv")
    data = Csv(path=str(tmp_path), target_column="y", window=1).load(0)
    assert np.bincount(data.train.clients).tolist() == [7, 5]
    assert np.bincount(data.test.clients, minlength=2).tolist() == [1, 0]
    (note,) = data.notes
    assert note.startswith("1 of 2 clients have too few rows to test on (a test part needs 2 rows")
    assert note.endswith("and train on all of them: 'short'")


def test_client_shorter_than_a_sample(tmp_path, write):
    write(counting(20), "long.csv")
    write(counting(1), "short.csv")
    write(counting(2), "shorter.csv")
    said = refusal(path=str(tmp_path))
    assert "client 'short' has 1 rows, fewer than the 3 rows of a sample" in said
    assert "as have 1 more of 3 clients" in said
    assert "data.short=drop" in said
    data = Csv(path=str(tmp_path), target_column="y", window=2, short="drop").load(0)
    assert data.client_names == ("long",)
    (note,) = data.notes
    assert note.startswith("left out 2 of 3 clients")
    assert "'short', 'shorter'" in note
    assert "has 20 rows, fewer than the 101" in refusal(path=str(tmp_path), window=100, short="drop")


def test_client_whose_rows_are_all_dropped(write):
    path = write("who,x,y\nb,,1\nb,,2\n" + "".join(f"a,{k},0\n" for k in range(20)))
    settings = {"path": path, "client_column": "who", "target_column": "y", "missing": "drop", "window": 2}
    assert "client 'b' has 0 rows" in refusal(**settings)
    for scale in ("client", "global"):
        assert Csv(**settings, scale=scale, short="drop").load(0).client_names == ("a",)


def test_nothing_to_test_on(write):
    assert refusal(path=write(counting(8))).startswith("data.test_fraction=0.2: no client has enough rows to test on")


# ---------------------------------------------------------------------------------------------------------------------
# scale


def test_scaled_by_the_training_rows(tmp_path, write):
    """Each client: 12 rows, 2 test, 2 gap (a sample takes 2), so rows 0..7 train.

    a counts 0..11: mean 3.5, variance (8^2 - 1) / 12 = 5.25. b counts by tens from 0: mean 35, variance 525.
    Together: mean 19.25; variance = mean of both variances + (15.75)^2.
    """
    write(counting(12), "a.csv")
    write("y\n" + "".join(f"{10 * k}\n" for k in range(12)), "b.csv")
    settings = {"path": str(tmp_path), "target_column": "y", "window": 1}
    each = Csv(scale="client", **settings).load(0)
    expected = (np.arange(12) - 3.5) / np.sqrt(5.25)
    for client in (0, 1):
        own = each.train.clients == client
        np.testing.assert_allclose(each.train.take()[own, 0, 0], expected[:7], rtol=1e-6)
        np.testing.assert_allclose(each.train.targets[own, 0], expected[1:8], rtol=1e-6)
        np.testing.assert_allclose(each.test.targets[each.test.clients == client, 0], expected[11:], rtol=1e-6)
    together = Csv(scale="global", **settings).load(0)
    deviation = np.sqrt((5.25 + 525) / 2 + 15.75**2)
    np.testing.assert_allclose(together.test.targets[:, 0], [(11 - 19.25) / deviation, (110 - 19.25) / deviation], 1e-6)


def test_constant_column_is_shifted_only(write):
    """0.1 summed 8 times and divided by 8 is not 0.1 in general, so the spread must not come from rounding."""
    text = "x,y\n" + "".join(f"{0.1 if k < 11 else 3.1},{k}\n" for k in range(12))
    data = Csv(path=write(text), target_column="y", task="regression", window=1).load(0)
    np.testing.assert_allclose(data.train.take(), 0, atol=1e-15)
    np.testing.assert_allclose(data.test.take()[-1], [[3.0]], rtol=1e-6)


def test_test_rows_do_not_scale(write):
    lines = [str(k % 3) for k in range(20)]
    before = Csv(path=write("y\n" + "\n".join(lines)), target_column="y", window=1).load(0)
    lines[-4:] = ["1000"] * 4
    after = Csv(path=write("y\n" + "\n".join(lines)), target_column="y", window=1).load(0)
    assert (before.train.take() == after.train.take()).all()
    assert not (before.test.take() == after.test.take()).all()


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    shift=st.floats(-1e6, 1e6),
    by=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
def test_moments(sizes, shift, by, seed):
    """Each group's training rows have mean 0 and variance 1, whatever the units; reference: NumPy, group by group."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    if not len(groups):
        return
    rng = np.random.default_rng(seed)
    values = shift + by * rng.standard_normal((len(groups), 2))
    training = rng.random(len(groups)) < 0.7
    if not training.any():
        return
    mean, deviation = moments(values, groups, training, len(sizes))
    scaled = (values - mean[groups]) / deviation[groups]
    for k in range(len(sizes)):
        own, x = groups == k, values[training & (groups == k)]
        if len(x) > 1:
            np.testing.assert_allclose(scaled[own], (values[own] - x.mean(0)) / x.std(0), rtol=1e-4, atol=1e-4)
        elif len(x) == 1:
            np.testing.assert_allclose(scaled[own], values[own] - x, atol=1e-9)


def test_column_that_varies_only_in_the_test_rows(write):
    text = "x,y\n" + "".join(f"{1e-30 * k if k < 11 else 1e30},{k}\n" for k in range(12))
    said = refusal(path=write(text), task="regression", window=1, scale="global")
    assert "column 'x' hardly varies" in said


# ---------------------------------------------------------------------------------------------------------------------
# cells


def test_which_columns_are_features(write):
    """Numbers and truth values are; words are not, nor a column without a name, as pandas writes its index."""
    text = ",x,flag,gap,word,y\n" + "".join(
        f"{k},{k}.5,{k % 2 == 0},{'' if k == 1 else 'True'},w{k},0\n" for k in range(12)
    )
    settings = {"target_column": "y", "task": "regression", "window": 1, "scale": "none", "missing": "ffill"}
    data = Csv(path=write(text), **settings).load(0)
    assert data.train.take()[:3, 0].tolist() == [[0.5, 1, 1], [1.5, 0, 1], [2.5, 1, 1]]
    left_out, counts, filled = data.notes
    assert left_out == "columns without a number are left out (data.feature_columns): 'word'"
    assert filled.startswith("1 missing values filled")
    assert counts.startswith("'x' changes by the same step")
    assert Csv(path=write(text), **settings).load(0).notes == data.notes  # from the cache too


def test_semicolons_and_decimal_commas(write):
    text = "t;y;z\r\n" + "".join(f"{k:02d}/02/2024 10:00;1{k},5;{'?' if k == 3 else -k}\r\n" for k in range(1, 21))
    settings = {"separator": "semicolon", "decimal": "comma", "time_format": "%d/%m/%Y %H:%M", "missing": "drop"}
    settings |= {"time_column": "t", "window": 2, "scale": "none"}
    data = Csv(path=write(text), target_column="y", gaps="ignore", **settings).load(0)
    assert data.train.take()[0].tolist() == [[11.5, -1], [12.5, -2]]
    assert data.train.take()[1].tolist() == [[12.5, -2], [14.5, -4]]  # row 3 is gone, its neighbours touch
    data = Csv(path=write(text), target_column="y", **settings).load(0)
    assert data.train.take()[0].tolist() == [[14.5, -4], [15.5, -5]]  # rows 1 and 2 are too few for a sample of 3


def test_household_power_layout(write):
    """As "Individual household electric power consumption" is written: two time columns, which are words."""
    rows = [f"16/12/2006;17:{k:02d}:00;{k}.216;{'?' if k == 5 else k}" for k in range(30)]
    path = write("Date;Time;Global_active_power;Voltage\n" + "\n".join(rows), "power.txt")
    settings = {"separator": "semicolon", "missing": "ffill", "scale": "none", "window": 2}
    data = Csv(path=path, target_column="Global_active_power", **settings).load(0)
    np.testing.assert_allclose(data.train.take()[4], [[4.216, 4], [5.216, 4]], rtol=1e-6)


def test_missing_values(tmp_path, write):
    """Client b begins with a gap, which a's last value must not fill."""
    text = "who,x,y\n" + "".join(f"a,{k},0\n" for k in range(14)) + "b,,0\nb,5,0\nb,inf,0\n"
    text += "".join(f"b,{k},0\n" for k in range(20, 32))
    settings = {"client_column": "who", "target_column": "y", "task": "regression", "window": 1, "scale": "none"}
    said = refusal(path=write(text), **settings)
    assert "a.csv, line 16, column 'x': the value is missing (and in 1 more rows); set data.missing=drop" in said
    dropped = Csv(path=write(text), missing="drop", **settings).load(0)
    assert dropped.train.take()[dropped.train.clients == 1][:2, 0, 0].tolist() == [5, 20]
    assert any("2 of 29 rows dropped" in note for note in dropped.notes)
    filled = Csv(path=write(text), missing="ffill", **settings).load(0)
    assert filled.train.take()[filled.train.clients == 1][:3, 0, 0].tolist() == [5, 5, 20]
    assert any("1 missing values filled" in note for note in filled.notes)
    assert any("1 of 29 rows dropped" in note for note in filled.notes)


def test_missing_labels(write):
    rows = [f"{k},{'' if k == 2 else 'NA' if k % 2 else 'b'}" for k in range(20)]
    settings = {"path": write("x,y\n" + "\n".join(rows)), "target_column": "y", "task": "classification", "window": 1}
    assert "line 4, column 'y': the value is missing" in refusal(**settings)
    assert Csv(missing="drop", **settings).load(0).train.targets[:4].tolist() == [1, 0, 0, 1]
    assert Csv(missing="ffill", **settings).load(0).train.targets[:4].tolist() == [1, 0, 0, 0]


def test_infinity_is_missing_and_huge_numbers_are_refused(write):
    assert "line 3, column 'y': inf is not a finite number" in refusal(path=write("y\n1\n1e999\n2\n"))
    said = refusal(path=write("y\n1\n-1e31\n"), missing="drop")
    assert (
        "line 3, column 'y': -1e+31 is larger than 1e+30; if it means a missing value, data.na_values=[-1e+31]" in said
    )
    said = refusal(path=write("y\n1\n-1e31\n"), missing="drop", na_values=["-1e+31"])
    assert "client 'a' has 1 rows" in said


TIMES = {
    "numbers": ("1.5", "2", "3"),
    "dates": ("2024-01-31", "2024-02-01", "2024-02-02"),
    "seconds": ("2024-01-31 23:59:59", "2024-02-01 00:00:00", "2024-02-01T00:00:01.5"),
    "zones": ("2024-03-31T01:30:00+01:00", "2024-03-31T03:00:00+02:00", "2024-03-31T01:00:01Z"),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times(write, kind):
    first, second, third = TIMES[kind]

    def settings(*times):
        text = "t,y\n" + "".join(f"{t},0\n" for t in times)
        return {"path": write(text), "time_column": "t", "window": 1, "target_column": "y"}

    with pytest.raises(UserError, match="no client has enough rows"):  # in order: only too few
        Csv(**settings(first, second, third)).load(0)
    said = refusal(**settings(first, third, second))
    assert said.split(": ", 1)[1].startswith("client 'a': a.csv, line 4 (")
    assert ") has an earlier 't' than a.csv, line 3; sort the rows" in said
    said = refusal(**settings(first, second, second))
    assert ") has the same 't' as a.csv, line 3; several series seem to be interleaved; set" in said
    assert "data.client_column" in said
    said = refusal(**settings(first, second, "soon"))
    assert "line 4, column 't': 'soon' is not a number or an ISO 8601 date" in said
    assert "the time is missing" in refusal(**settings(first, "", third))


def test_times_of_two_kinds(tmp_path, write):
    write("t,y\n1,1\n", "a.csv")
    write("t,y\n2024-01-01,1\n", "b.csv")
    assert "numbers in some files and dates in others" in refusal(path=str(tmp_path), time_column="t")


def test_two_clients_at_the_same_time(write):
    text = "who,t,y\n" + "".join(f"{who},{t},0\n" for t in range(20) for who in "ab")
    data = Csv(path=write(text), client_column="who", time_column="t", target_column="y", window=1).load(0)
    assert len(data.train) == 2 * 13


# ---------------------------------------------------------------------------------------------------------------------
# files

BAD = {
    "empty": ("", "a.csv is empty"),
    "blank": ("\n\n \n", "a.csv is empty"),
    "no rows": ("x,y\n", "a.csv has no rows"),
    "long row": ("x,y\n1,2\n1,2,3\n", "a.csv, line 3 has 3 field(s), but the first line names 2"),
    "all rows long": ("x,y\n1,2,3\n1,2,3\n", "a.csv, line 2 has 3 field(s)"),
    "short row": ("x,y\n1,2\n1\n", "a.csv, line 3 has 1 field(s)"),
    "blank line": ("x,y\n1,2\n\n3,4\n", "a.csv, line 3 is empty"),
    "quoted short row": ('x,y\n"1\n1",2\n1\n', "a.csv, line 4 has 1 field(s)"),
    "open quote": ('x,y\n1,2\n"1,2\n', "a.csv"),
    "twice": ("x,y,x\n1,2,3\n", "a.csv names the column 'x' more than once"),
    "no header": (",\n1,2\n", "a.csv has an empty first line"),
    "latin 1": ("x,y\ncafé,2\n".encode("latin-1"), "a.csv is not UTF-8 text (byte 7)"),
    "utf 16": ("x,y\n1,2\n".encode("utf-16"), "a.csv is not UTF-8 text"),
    "binary": (b"\x00\x01\x02,\x00\n", "a.csv is not text (NUL at byte 0)"),
    "word": ("x,y\n1,2\n3,4\nabc,5\n", "a.csv, line 4, column 'x': 'abc' is not a number"),
    "word in a quoted file": ('x,y\n"1",2\n3,"4"\nabc,5\n', "a.csv, line 4, column 'x': 'abc' is not a number"),
    "word target": ("x,y\n1,a\n2,b\n", "a.csv, line 2, column 'y': 'a' is not a number"),
    "other target": ("x,yy\n1,2\n", "a.csv has no such column (did you mean 'yy'?); it has 'x', 'yy'"),
    "other separator and decimal": (
        "x;y\n1,5;2\n",
        "the first line names 1 column(s) (perhaps data.separator=semicolon)",
    ),
    "other separator": ("x;y\n1;2\n", "a.csv has no such column; it has 'x;y' (perhaps data.separator=semicolon)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file(write, kind):
    content, said = BAD[kind]
    path = write(content)
    answer = refusal(path=path)
    assert said in answer
    assert path in answer or "data.target_column=y" in answer


def test_line_numbers_count_quoted_line_breaks(write):
    text = 'x,y\n"1",2\n"\n\n",3\nabc,4\n'
    assert "line 6, column 'x': 'abc'" in refusal(path=write(text))


def test_features_that_are_not_numbers(write):
    path = write("x,when,y\n1,noon,2\n2,dusk,3\n")
    assert "line 2, column 'when': 'noon' is not a number" in refusal(path=path, feature_columns=["x", "when"])
    assert "has no numeric column" in refusal(
        path=path, feature_columns=None, target_column=["x", "y"], task="regression"
    )
    assert "data.feature_columns=wen: a.csv has no such column (did you mean 'when'?)" in refusal(
        path=path, feature_columns=["wen"]
    )


def test_files_of_different_columns(tmp_path, write):
    write("x,y\n1,2\n", "a.csv")
    write("y,z\n1,2\n", "b.csv")
    said = refusal(path=str(tmp_path))
    assert "a.csv has the numeric columns 'x', 'y' and b.csv 'y', 'z'; name those to use" in said


def test_missing_client(write):
    assert "line 3, column 'who': the client is missing" in refusal(path=write("who,y\na,1\n,2\n"), client_column="who")


def test_one_label(write):
    text = "x,y\n" + "1,a\n" * 20
    assert "all windows have the same label 'a'" in refusal(path=write(text), task="classification")


def test_paths(tmp_path, write):
    assert "there is no such file" in refusal(path=str(tmp_path / "nothing.csv"))
    assert "no file matches" in refusal(path=str(tmp_path / "*.csv"))
    assert "the folder has no .csv" in refusal(path=str(tmp_path))
    assert "data.path=a\0b: " in refusal(path="a\0b")
    assert "cannot be read" in refusal(path="a" * 9999)
    assert "/dev/null is not a file" in refusal(path="/dev/null")
    assert "cannot be unpacked" in refusal(path=write("x,y\n1,2\n", "a.csv.gz"))
    damaged = gzip.compress(counting(1000).encode())
    assert "cannot be unpacked" in refusal(path=write(damaged[:50], "b.csv.gz"))
    assert "cannot be unpacked" in refusal(path=write(damaged[:20] + b"\xff\xff" + damaged[22:], "c.csv.gz"))


def test_parquet(tmp_path, write, monkeypatch):
    frame = pd.DataFrame(
        {
            "who": pd.Categorical(["a"] * 15 + ["b"] * 15),
            "when": [*pd.date_range("2024-01-01", periods=15, freq="h", tz="Europe/Lisbon")] * 2,
            "x": np.arange(30, dtype=np.int16),
            "flag": pd.array([True, None] * 15, "boolean"),
            "y": np.arange(30) / 2,
        }
    )
    path = str(tmp_path / "client=3" / "a.parquet")  # no column comes from the folder's name
    (tmp_path / "client=3").mkdir()
    frame.set_index("when").to_parquet(path)
    settings = {"path": path, "client_column": "who", "time_column": "when", "window": 1, "scale": "none"}
    data = Csv(target_column="y", missing="ffill", **settings).load(0)
    assert data.client_names == ("a", "b")
    assert data.train.take()[:2, 0].tolist() == [[0, 1, 0], [1, 1, 0.5]]
    assert "a.parquet, row 2, column 'flag': the value is missing" in refusal(**settings)
    assert "data.separator=tab: has an effect only on text" in refusal(separator="tab", **settings)
    assert "data.header=false: has an effect only on text" in refusal(header=False, **settings)
    assert "data.skip_rows=[2]: has an effect only on text" in refusal(skip_rows=[2], **settings)
    assert "data.time_format=%Y: a.parquet holds dates" in refusal(time_format="%Y", missing="ffill", **settings)
    assert "cannot be read as Parquet" in refusal(path=write(b"PAR1 nothing PAR1", "b.parquet"))
    assert "cannot be read as Parquet" in refusal(path=write(b"", "b.parquet"))

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(table_files, "import_module", absent)
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "other cache"))
    assert "a.parquet is Parquet, which needs pyarrow; install with: python -m pip install 'pyarrow>=" in refusal(
        **settings
    )


def test_cache_holds_for_the_same_content_and_settings_only(tmp_path, write, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    reads = []
    read_file = tables.read_file
    monkeypatch.setattr(tables, "read_file", lambda *args: reads.append(1) or read_file(*args))
    settings = {"path": write(counting(20)), "target_column": "y", "window": 2, "scale": "none"}
    first = Csv(**settings).load(0)
    again = Csv(**settings).load(0)
    Csv(**settings | {"window": 3, "scale": "global"}).load(0)  # made of the same rows
    assert len(reads) == 1
    for split in ("train", "test"):
        for name in ("inputs", "targets", "lengths"):
            a, b = (getattr(getattr(data, split), name) for data in (first, again))
            assert a.dtype == b.dtype
            assert (a == b).all()
    Csv(**settings, missing="drop").load(0)
    assert len(reads) == 2
    write(counting(20, first=5))
    assert Csv(**settings).load(0).train.take()[0, 0, 0] == 5


def test_windows_that_do_not_fit_into_memory(write, monkeypatch):
    """80 - 11 training rows give 59 windows of 11, 20 test rows 10; each has a target and three numbers of 8 bytes."""
    monkeypatch.setattr("os.sysconf", lambda name: 62)  # 3,844 bytes; 2 * 69 * 28 = 3,864
    assert "data.stride=1: the targets of 69 windows take" in refusal(path=write(counting(100)), window=10)


# ---------------------------------------------------------------------------------------------------------------------
# settings


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("path", {"path": None}),
        ("target_column", {"target_column": None}),
        ("target_column", {"target_column": []}),
        ("target_column", {"target_column": ""}),
        ("target_column", {"target_column": ["y", "y"]}),
        ("target_column", {"target_column": ["y", "z"], "task": "classification"}),
        ("client_column", {"client_column": "y"}),
        ("time_column", {"time_column": "y"}),
        ("time_column", {"time_column": "t", "client_column": "t"}),
        ("time_format", {"time_format": "%Y"}),
        ("feature_columns", {"feature_columns": []}),
        ("feature_columns", {"feature_columns": ["x", "x"]}),
        ("task", {"task": "forecasting"}),
        ("window", {"window": 0}),
        ("horizon", {"horizon": 0}),
        ("horizon", {"horizon": 1, "task": "regression"}),
        ("horizon", {"horizon": 2, "task": "classification"}),
        ("stride", {"stride": 0}),
        ("test_fraction", {"test_fraction": 0.0}),
        ("test_fraction", {"test_fraction": 1.0}),
        ("scale", {"scale": "yes"}),
        ("missing", {"missing": "ignore"}),
        ("short", {"short": "ignore"}),
        ("separator", {"separator": ";"}),
        ("decimal", {"decimal": ","}),
        ("decimal", {"decimal": "comma"}),
        ("decimal", {"decimal": "comma", "separator": "comma"}),
        ("client_column", {"client_column": []}),
        ("client_column", {"client_column": ["a", "a"]}),
        ("client_column", {"client_column": ["a", "y"]}),
        ("time_column", {"time_column": []}),
        ("time_column", {"time_column": ["a", "y"]}),
        ("time_column", {"time_column": ["a", "b"], "client_column": ["b", "c"]}),
        ("na_values", {"na_values": []}),
        ("fill_limit", {"fill_limit": 3}),
        ("fill_limit", {"fill_limit": 0, "missing": "ffill"}),
        ("gaps", {"gaps": "cross"}),
        ("sort", {"sort": True}),
        ("duplicates", {"duplicates": "last", "time_column": "t"}),
        ("duplicates", {"duplicates": "first"}),
        ("duplicates", {"duplicates": "mean", "time_column": "t", "task": "classification"}),
        ("thousands", {"thousands": ","}),
        ("thousands", {"thousands": "point"}),
        ("thousands", {"thousands": "comma", "decimal": "comma", "separator": "tab"}),
        ("encoding", {"encoding": "latin-99"}),
        ("encoding", {"encoding": "a\0b"}),
        ("comment", {"comment": " "}),
        ("skip_rows", {"skip_rows": 0}),
        ("skip_rows", {"skip_rows": []}),
        ("skip_rows", {"skip_rows": [2, 0]}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Csv(**({"path": "a.csv", "target_column": "y"} | values))
    assert error.value.field == field


def test_invalid_time_format(write):
    path = write("t,y\n2024,1\n2025,2\n")
    assert refusal(path=path, time_column="t", time_format="%Q").startswith("data.time_format=%Q: ")
    assert "'2024' is not a time of data.time_format=%d/%m" in refusal(path=path, time_column="t", time_format="%d/%m")


def test_equal_settings_are_one_key():
    one, two = (Csv(path="a", target_column=["y"], feature_columns=["x"]) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != dataclasses.replace(one, target_column=["z"])


def test_lists_of_columns_survive_the_record(tmp_path):
    several = {"client_column": ["a", "b"], "time_column": ["c", "d"], "na_values": ["-200"], "skip_rows": [2, 3]}
    source = Csv(path="a", target_column=["y", "z"], feature_columns=["x"], **several)
    assert build.build(build.record_of(source, name_class=True), Csv, "data") == source


def test_nothing_is_said_where_nothing_is_left_out(write, caplog):
    caplog.set_level(logging.WARNING)
    assert not Csv(path=write(counting(20)), target_column="y", window=2).load(0).notes
    assert not caplog.records


# ---------------------------------------------------------------------------------------------------------------------
# scales that the user gives


def test_given_scales_by_hand(write):
    """``(x - 10) / 2`` and ``(y + 1) / 4``, whatever the rows hold; errors are in the columns' own units."""
    text = "x,y\n" + "".join(f"{k * k},{3 * k}\n" for k in range(12))
    scales = {"y": [-1, 4], "x": [10, 2.0]}
    data = Csv(
        path=write(text), target_column="y", feature_columns=["x"], task="regression", window=1, test_fraction=0.5,
        scale="given", scales=scales,
    ).load(0)  # fmt: skip
    np.testing.assert_allclose(data.train.take()[:, 0, 0], (np.arange(len(data.train)) ** 2 - 10) / 2)
    np.testing.assert_allclose(data.train.targets[:, 0], (3 * np.arange(len(data.train)) + 1) / 4)
    assert [(c.name, c.shift, c.scale) for c in data.fitted.scaling.targets] == [("y", -1, 4)]
    assert data.pooled == ()
    assert len({data.fitted, Csv(path=write(text), target_column="y", scale="none", window=1).load(0).fitted}) == 2


def test_given_scales_stand_for_what_was_never_seen(write):
    """The shift of x, that is 0 in the model's eyes, where masking has nothing to carry on; flags are left alone."""
    text = "x,y\n" + "".join(f"{'' if k < 2 else k},{k}\n" for k in range(12))
    data = Csv(
        path=write(text), target_column="y", feature_columns=["x"], task="regression", window=1, missing="mask",
        scale="given", scales={"x": [7, 2], "x_since": [0, 1], "y": [0, 1]},
    ).load(0)  # fmt: skip
    inputs = data.train.take()[:, 0]
    assert inputs[:3, 0].tolist() == [0, 0, (2 - 7) / 2]
    assert inputs[:3, 1].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("scales", "text"),
    [
        ({"y": [0, 1]}, "data.scales: says nothing of 'x'; give each column its shift and its scale"),
        (
            {"y": [0, 1], "x": [0, 1], "xx": [0, 1]},
            "data.scales: the table has no column 'xx' that is read (did you mean 'x'?); it has 'x', 'y'",
        ),
    ],
)
def test_given_scales_are_of_all_columns(write, scales, text):
    path = write("x,y\n" + "".join(f"{k},{k}\n" for k in range(20)))
    assert refusal(path=path, feature_columns=["x"], task="regression", scale="given", scales=scales) == text


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": "given"},
        {"scale": "given", "scales": {}},
        {"scale": "none", "scales": {"y": [0, 1]}},
        *({"scale": "given", "scales": {"y": pair}} for pair in (1, [1], [0, 0], [0, -1], [0, "1"], [float("inf"), 1])),
    ],
)
def test_wrong_scales(settings):
    with pytest.raises(FieldError, match=r"^scales="):
        Csv(path="x.csv", target_column="y", **settings)
