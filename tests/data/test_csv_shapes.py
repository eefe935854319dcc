"""Series in columns and rows, measurements, rows left out, words as features, and other kinds of files."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from fedsim.errors import UserError

WIDE = {"target_column": None, "series_in": "columns"}
ROWS = {"target_column": None, "series_in": "rows"}


# ---------------------------------------------------------------------------------------------------------------------
# series in columns


def test_a_client_per_column_is_the_same_data_as_a_long_table(table, load):
    """The two tables say the same; 30 rows, and what a client is called is all that tells wide from long."""
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(
        {"t": range(30), "a": rng.normal(size=30), "b": rng.normal(size=30), "hot": rng.integers(0, 2, 30)}
    )
    long = wide.melt(["t", "hot"], var_name="who", value_name="y")[["y", "hot", "t", "who"]]
    shared = {"time_column": "t", "window": 3, "scale": "client", "test_fraction": 0.4}
    one = load(table(wide.to_csv(index=False), "wide.csv"), shared_columns=["hot"], **WIDE, **shared)
    two = load(table(long.to_csv(index=False), "long.csv"), client_column="who", **shared)
    assert one.client_names == two.client_names == ("a", "b")
    for first, second in ((one.train, two.train), (one.test, two.test)):
        np.testing.assert_array_equal(first.inputs, second.inputs)
        np.testing.assert_array_equal(first.targets, second.targets)
        np.testing.assert_array_equal(first.clients, second.clients)
    assert one.train.take().shape[2] == 2


def test_columns_without_names_or_times(table, load):
    """As electricity.txt.gz: three columns k, 100 + k, 200 + k, of which a window of two rows starts at each row."""
    text = "".join(f"{k},{100 + k},{200 + k}\n" for k in range(20))
    data = load(table(gzip.compress(text.encode()), "a.txt.gz"), header=False, **WIDE)
    assert data.client_names == ("0", "1", "2")
    first = np.flatnonzero(data.train.clients == 2)[0]
    assert data.train.take()[first].tolist() == [[200], [201]]
    assert data.train.targets[first].tolist() == [202]


def test_only_some_columns_are_series(table, load):
    text = "a,b,c,word\n" + "".join(f"{k},{k},{k},w{k}\n" for k in range(20))
    path = table(text)
    assert load(path, feature_columns=["c", "a"], **WIDE).client_names == ("c", "a")
    data = load(path, **WIDE)
    assert data.client_names == ("a", "b", "c")
    assert any("columns without a number are left out (data.feature_columns): 'word'" in note for note in data.notes)


def test_series_that_begin_late_are_not_shortened_for_others(table, load):
    """b has values in rows 10 to 29 only: 20 of its rows stay, 30 of a."""
    text = "a,b\n" + "".join(f"{k},{k if k >= 10 else ''}\n" for k in range(30))
    data = load(table(text), missing="drop", test_fraction=0.5, **WIDE)
    # a: 15 test rows, 15 - 3 = 12 training rows, 10 windows; b: 10 test rows, 10 - 3 = 7 training rows, 5 windows
    assert np.bincount(data.train.clients).tolist() == [10, 5]
    assert any(note.startswith("10 of 60 rows dropped") for note in data.notes)


def test_refused_columns(table, refusal):
    path = table("a,b,word\n" + "".join(f"{k},{k},x\n" for k in range(20)))
    said = refusal(path, shared_columns=["word"], **WIDE)
    assert "a.csv, line 2, column 'word': 'x' is not a number" in said
    assert "data.shared_columns=c: a.csv has no such column" in refusal(path, shared_columns=["c"], **WIDE)
    assert "has no numeric column but those of data.shared_columns" in refusal(path, shared_columns=["a", "b"], **WIDE)
    bad = table("a,b\n1,2\n3,x\n4,5\n", "bad.csv")
    assert "bad.csv, line 3, column 'b': 'x' is not a number" in refusal(bad, **WIDE)
    empty = table("a,b\n1,2\n3,\n4,5\n", "empty.csv")
    assert "empty.csv, line 3, column 'value': the value is missing" in refusal(empty, **WIDE)


# ---------------------------------------------------------------------------------------------------------------------
# series in rows


def test_a_series_per_row(table, load):
    """As M4: the row of H2 ends two cells early, so it has 8 values; a test part of half has 4 and 5 rows."""
    text = "V1,V2,V3,V4,V5,V6,V7,V8,V9,V10,V11\nH1,0,1,2,3,4,5,6,7,8,9\nH2,10,11,12,13,14,15,16,17,,\n"
    data = load(table(text), client_column="V1", window=1, test_fraction=0.5, **ROWS)
    assert data.client_names == ("H1", "H2")
    assert data.test.take()[data.test.clients == 1].ravel().tolist() == [14, 15, 16]
    assert data.test.targets[data.test.clients == 1].ravel().tolist() == [15, 16, 17]
    assert data.test.take()[data.test.clients == 0].ravel().tolist() == [5, 6, 7, 8]
    assert "1 rows of a.csv end early: empty cells at their ends are no values" in data.notes


def test_rows_without_names_of_clients_are_named_by_their_lines(table, load):
    text = "".join(",".join(str(10 * row + k) for k in range(10)) + "\n" for row in range(2))
    assert load(table(text), header=False, window=1, **ROWS).client_names == ("a.csv, line 1", "a.csv, line 2")


def test_labelled_rows_are_samples(table, load):
    """As the UCR archive's: 20 rows of one label in front and three values, one in five of each label for testing."""
    text = "".join(f"{k % 2 + 1}\t{k}\t{k + 1}\t{k + 2}\n" for k in range(20))
    settings = {"header": False, "target_column": "0", "task": "classification", "series_in": "rows", "window": 3}
    data = load(table(text, "a.tsv"), **settings)
    assert (len(data.train), len(data.test), data.client_names, data.num_outputs) == (16, 4, None, 2)
    for split in (data.train, data.test):
        k = split.take()[:, 0, 0]
        assert split.take()[:, :, 0].tolist() == np.stack([k, k + 1, k + 2], 1).tolist()
        assert split.targets.tolist() == (k % 2).tolist()
        assert split.lengths.tolist() == [3] * len(split)
    assert sorted([*data.train.take()[:, 0, 0], *data.test.take()[:, 0, 0]]) == [*range(20)]
    assert np.bincount(data.test.targets).tolist() == [2, 2]


def test_a_client_with_two_rows_is_refused(table, refusal):
    first = table("id,1,2,3,4,5\na,1,2,3,4,5\nb,1,2,3,4,5\na,1,2,3,4,5\n")
    said = refusal(first, client_column="id", header=True, **ROWS)
    assert "a.csv, line 4: client 'a' has a row already, and each row is a series of its own" in said
    table("id,1,2,3,4,5\na,1,2,3,4,5\n", "b/1.csv")
    folder = table("id,1,2,3,4,5\na,1,2,3,4,5\n", "b/2.csv").removesuffix("/2.csv")
    assert "2.csv, line 2: client 'a' has a row already" in refusal(folder, client_column="id", header=True, **ROWS)


# ---------------------------------------------------------------------------------------------------------------------
# measurements


def measured(table, name="a.csv"):
    """Twenty times of two clients, HR always and T at every other time, in no order of quantities."""
    lines = [
        line
        for who in ("a", "b")
        for k in range(20)
        for line in ([f"{who},{k},HR,{k}"] if k % 2 else [f"{who},{k},T,{100 + k}", f"{who},{k},HR,{k}"])
    ]
    return table("who,t,what,value\n" + "\n".join(lines) + "\n", name)


MEASURED = {"measurement_columns": ["what", "value"], "client_column": "who", "time_column": "t"}


def test_measurements_at_a_time_are_one_row(table, load):
    data = load(measured(table), target_column="HR", missing="ffill", **MEASURED)
    assert data.client_names == ("a", "b")
    # the columns in the order of their first measurements: T, HR; T of row 1 is that of row 0
    assert data.train.take()[0].tolist() == [[100, 0], [100, 1]]
    assert data.train.targets[0].tolist() == [2]


def test_files_may_measure_different_quantities(table, load):
    table("t,what,value\n" + "".join(f"{k},y,{k}\n{k},B,{k + 50}\n" for k in range(20)), "m/1.csv")
    path = table("t,what,value\n" + "".join(f"{k},C,{k + 70}\n{k},y,{k}\n" for k in range(20)), "m/2.csv")
    settings = {"measurement_columns": ["what", "value"], "time_column": "t", "missing": "mask"}
    data = load(path.removesuffix("/2.csv"), **settings)
    assert data.client_names == ("1", "2")
    # features y, B, C, then B_seen, B_since, C_seen, C_since; 1.csv has no C, whose training mean is over 2.csv
    assert data.train.take()[0, 0, [0, 1, 3, 4, 5, 6]].tolist() == [0, 50, 1, 0, 0, 0]
    second = data.train.take()[np.flatnonzero(data.train.clients == 1)[0]]
    assert second[0, [0, 2, 3, 5]].tolist() == [0, 70, 0, 1]
    # 4 of 20 rows test, 20 - 4 - 3 = 13 rows train, 11 windows, the last of which ends in row 12: mean of 70..82
    assert data.train.take()[0, 0, 2] == 76


def test_repeated_measurements(table, load, refusal):
    text = "who,t,what,value\n" + "".join(f"a,{k},y,{k}\n" for k in range(20)) + "a,3,y,5\n"
    path = table(text)
    said = refusal(path, **MEASURED)
    assert "a.csv, line 22 measures 'y' at the same 't' as a.csv, line 5; data.duplicates=first or mean" in said
    for how, value in (("first", 3), ("mean", 4)):
        data = load(path, duplicates=how, **MEASURED)
        assert data.train.take()[2].ravel().tolist() == [2, value]
        assert any(note.startswith("1 measurements of a.csv repeat one at the same time") for note in data.notes)


def test_measurements_without_a_name_are_left_out_and_noted(table, load):
    text = "t,what,value,unit\n" + "".join(f"{k},y,{k},m\n" for k in range(20)) + "5,,7,m\n"
    data = load(table(text), measurement_columns=["what", "value"], time_column="t")
    assert "1 measurements of a.csv that column 'what' does not name are left out" in data.notes
    assert "columns that say more of measurements are left out: 'unit'" in data.notes


def test_a_file_of_nameless_measurements_is_left_out(table, load):
    table("t,what,value\n" + "".join(f"{k},y,{k}\n" for k in range(20)), "m/1.csv")
    path = table("t,what,value\n1,,2\n", "m/2.csv").removesuffix("/2.csv")
    data = load(path, measurement_columns=["what", "value"], time_column="t")
    assert data.client_names is None
    assert "1 measurements of 2.csv that column 'what' does not name are left out" in data.notes


def test_refused_measurements(table, refusal):
    path = measured(table)
    assert "nothing is called 'Temp'; measured are " in refusal(path, **MEASURED, target_column="Temp", missing="mask")
    said = refusal(path, **MEASURED | {"measurement_columns": ["wat", "value"]}, target_column="HR")
    assert "data.measurement_columns=wat: a.csv has no such column (did you mean 'what'?)" in said
    said = refusal(table("t,what,value\n1,t,5\n", "t.csv"), measurement_columns=["what", "value"], time_column="t")
    assert "t.csv: 't' is a column and a quantity in column 'what'" in said
    text = "t,what,value\n1,y,5\n2,y,high\n"
    said = refusal(table(text, "w.csv"), measurement_columns=["what", "value"], time_column="t")
    assert "w.csv, line 3, column 'value': 'high' is not a number" in said


def test_elapsed_times(table, load):
    """Hours may have more digits than a clock: 24:37 is after 9:59, and 0:30 before it."""
    times = [f"{k // 2}:{30 * (k % 2):02d}" for k in range(60)]
    data = load(table("t,y\n" + "".join(f"{t},{k}\n" for k, t in enumerate(times))), time_column="t")
    assert data.train.take()[0].ravel().tolist() == [0, 1]
    assert [note for note in data.notes if "gap" in note] == []
    assert "'t' of a.csv is read as elapsed hours:minutes (for times of day, data.time_format=%H:%M)" in data.notes
    late = [*times[:30], *(f"{k // 2 + 4}:{30 * (k % 2):02d}:00" for k in range(30, 60))]
    data = load(table("t,y\n" + "".join(f"{t},{k}\n" for k, t in enumerate(late)), "b.csv"), time_column="t")
    assert any(
        note.startswith("1 gap in time in 1 of 1 clients (the longest, 4.5 instead of 0.5") for note in data.notes
    )


# ---------------------------------------------------------------------------------------------------------------------
# rows left out


def test_where(table, load):
    text = "country,year,y\n" + "".join(f"{'FR' if k % 2 else 'DE'},{2018 + k % 6 // 2},{k}\n" for k in range(60))
    data = load(table(text), where={"country": "FR", "year": [2019, "2020.0"]}, window=1, feature_columns=["y"])
    kept = [k for k in range(60) if k % 2 and 2018 + k % 6 // 2 in (2019, 2020)]
    assert data.train.take()[:3].ravel().tolist() == kept[:3]
    assert f"{60 - len(kept)} rows of a.csv are left out (data.where)" in data.notes


def test_where_it_is_true(table, load):
    text = "good,y\n" + "".join(f"{'true' if k % 2 else 'false'},{k}\n" for k in range(60))
    data = load(table(text), where={"good": True}, window=1, feature_columns=["y"])
    assert data.train.take()[:3].ravel().tolist() == [1, 3, 5]


def test_a_file_without_wanted_rows_is_no_client(table, load, refusal):
    for name, word in (("f/1.csv", "no"), ("f/2.csv", "yes")):
        path = table("use,y\n" + "".join(f"{word},{k}\n" for k in range(20)), name)
    folder = path.removesuffix("/2.csv")
    data = load(folder, where={"use": "yes"})
    assert data.client_names is None  # one file is left
    assert "20 rows of 1.csv are left out (data.where)" in data.notes
    assert "no row is left (40 rows of 2 files are left out (data.where))" in refusal(folder, where={"use": "maybe"})
    assert "data.where=us: 1.csv has no such column (did you mean 'use'?)" in refusal(folder, where={"us": "yes"})


# ---------------------------------------------------------------------------------------------------------------------
# words as features


def test_categories(table, load):
    text = "wind,y\n" + "".join(f"{['NE', 'cv', 'SE'][k % 3]},{k}\n" for k in range(30))
    data = load(table(text), categories=["wind"], scale="global")
    # y first, then NE, SE and cv in order, which are not scaled
    assert data.train.take()[0, :, 1:].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert "column 'wind': a feature for each of its 3 words (data.categories): 'NE', 'SE', 'cv'" in data.notes


def test_categories_are_those_of_all_files_and_empty_cells_are_missing(table, load, refusal):
    table("w,y\n" + "".join(f"a,{k}\n" for k in range(20)), "c/1.csv")
    path = table("w,y\n" + "".join(f"{'b' if k else ''},{k}\n" for k in range(20)), "c/2.csv").removesuffix("/2.csv")
    assert "2.csv, line 2, column 'w=a': the value is missing" in refusal(path, categories=["w"])
    data = load(path, categories=["w"], missing="drop")
    assert data.train.take()[0].tolist() == [[0, 1, 0], [1, 1, 0]]
    assert data.train.take()[np.flatnonzero(data.train.clients)[0]].tolist() == [[1, 0, 1], [2, 0, 1]]


def test_refused_categories(table, refusal):
    path = table("w,w=a,y\n" + "".join(f"a,1,{k}\n" for k in range(20)))
    assert "data.categories would make a column 'w=a', which there is already" in refusal(path, categories=["w"])
    many = table("w,y\n" + "".join(f"w{k},{k}\n" for k in range(1001)), "b.csv")
    assert "column 'w' of data.categories has 1,001 words, not 1 to 1,000" in refusal(many, categories=["w"])


# ---------------------------------------------------------------------------------------------------------------------
# kinds of files


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.psv", "a.psv.gz"])
def test_separators_by_ending(table, load, name):
    mark = "\t" if ".tsv" in name else "|"
    text = (f"x{mark}y\n" + "".join(f"{k},5{mark}{k}\n" for k in range(20))).encode()
    data = load(table(gzip.compress(text) if name.endswith(".gz") else text, name), decimal="comma")
    assert data.train.take()[0].tolist() == [[0.5, 0], [1.5, 1]]


def test_json_lines(table, load, refusal):
    """Text stays text: client 007 is not 7. A line without a name has a missing value there."""
    rows = [
        {"who": "007", "when": f"2024-01-{k + 1:02d}", "y": k / 3, **({"x": 1} if k != 5 else {})} for k in range(30)
    ]
    text = "\n".join(map(json.dumps, rows)) + "\n\n"
    path = table(text, "a.jsonl")
    data = load(path, client_column="who", time_column="when", missing="ffill")
    assert data.client_names == ("007",)
    assert data.train.take()[1].tolist() == np.float32([[1 / 3, 1], [2 / 3, 1]]).tolist()
    assert (
        data.train.take().tolist()
        == load(
            table(gzip.compress(text.encode()), "b.ndjson.gz"), client_column="who", time_column="when", missing="ffill"
        )
        .train.take()
        .tolist()
    )
    assert "a.jsonl, line 6, column 'x': the value is missing" in refusal(path)
    assert "data.separator=tab: has an effect only on text, and all files are of other kinds" in refusal(
        path, separator="tab"
    )
    assert "b.jsonl, line 2 is not a JSON object" in refusal(table('{"y": 1}\n[1]\n', "b.jsonl"))
    assert "c.jsonl cannot be read as JSON lines" in refusal(table('{"y": 1}\n{"y": }\n', "c.jsonl"))
    assert "d.jsonl is empty" in refusal(table("\n", "d.jsonl"))


def test_monash(table, load, refusal):
    head = "# about\n@relation A\n@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n"
    head += "@missing true\n@equallength false\n@data\n"
    text = head + "T1:2002-01-01 00-00-00:" + ",".join(map(str, range(20))) + "\n"
    text += "T2:2002-01-01 00-00-00:?," + ",".join(map(str, range(100, 125))) + "\n"
    path = table(text, "a.tsf")
    settings = {"client_column": "series_name", "target_column": "series_value"}
    data = load(path, missing="drop", **settings)
    assert data.client_names == ("T1", "T2")
    assert data.train.take()[data.train.clients == 1][0].ravel().tolist() == [100, 101]
    assert "a.tsf, series 2, column 'series_value': the value is missing" in refusal(path, **settings)
    assert "b.tsf cannot be read as .tsf (Missing" in refusal(table("1,2,3\n", "b.tsf"), **settings)


def test_a_folder_of_one_kind(table, load, refusal, tmp_path):
    text = "y\n" + "".join(f"{k}\n" for k in range(20))
    table(text, "f/1.txt")
    table(text, "f/2.txt")
    assert load(str(tmp_path / "f")).client_names == ("1", "2")
    table(text, "f/a.tsv")
    assert load(str(tmp_path / "f")).client_names is None  # beside tables, .txt may be anything
    table(text, "f/b.csv")
    said = refusal(str(tmp_path / "f"))
    assert "the folder holds tables of several kinds, such as 'b.csv' and 'a.tsv'; a glob names those to read" in said
    assert load(str(tmp_path / "f/*.csv")).client_names is None


def test_a_separator_at_every_line_s_end(table, load):
    """UCI air quality has two in all lines; others have one in all lines but the first."""
    for head in ("x,y,,", "x,y"):
        ends = ",," if head.endswith(",") else ","
        text = f"{head}\n" + "".join(f"{k},{k}{ends}\n" for k in range(1, 21))
        data = load(table(text, f"{len(head)}.csv"))
        assert data.train.take()[0].tolist() == [[1, 1], [2, 2]]
        count = ends.count(",")
        assert any(
            f"{count} column(s) of {len(head)}.csv without a name or a value are left out" in n for n in data.notes
        )


# ---------------------------------------------------------------------------------------------------------------------
# settings


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("series_in", {"series_in": "sheets"}),
        ("target_column", {"series_in": "columns"}),
        ("target_column", {"series_in": "rows"}),
        ("target_column", {"series_in": "rows", "task": "regression", "target_column": None}),
        ("series_in", {"series_in": "columns", "task": "regression"}),
        ("shared_columns", {"shared_columns": ["a"]}),
        ("shared_columns", {"target_column": None, "series_in": "columns", "shared_columns": []}),
        (
            "shared_columns",
            {"target_column": None, "series_in": "columns", "shared_columns": ["t"], "time_column": "t"},
        ),
        ("time_column", {"target_column": None, "series_in": "rows", "time_column": "t"}),
        ("categories", {"target_column": None, "series_in": "rows", "categories": ["t"]}),
        ("measurement_columns", {"target_column": None, "series_in": "rows", "measurement_columns": ["a", "b"]}),
        ("measurement_columns", {"measurement_columns": ["a"], "time_column": "t"}),
        ("measurement_columns", {"measurement_columns": ["a", "b"]}),
        ("categories", {"categories": []}),
        ("categories", {"categories": ["y"]}),
        ("categories", {"categories": ["a"], "feature_columns": ["a"]}),
        ("where", {"where": {}}),
        ("where", {"where": {"a": None}}),
        ("where", {"where": {"a": []}}),
        ("where", {"where": {"a": {"b": 1}}}),
        ("labels", {"labels": "a.csv"}),
        ("sequence_column", {"sequence_column": "s"}),
        ("sequence_column", {"sequence_column": "y", "task": "regression"}),
        ("stride", {"sequence_column": "s", "task": "regression", "stride": 2}),
        ("gaps", {"sequence_column": "s", "task": "regression", "gaps": "ignore"}),
        ("short", {"series_in": "rows", "task": "regression", "short": "drop"}),
        ("fill_limit", {"missing": "mask", "fill_limit": 3}),
    ],
)
def test_refused_settings(load, field, values):
    with pytest.raises(UserError) as error:
        load("a.csv", **values)
    assert error.value.field == field
