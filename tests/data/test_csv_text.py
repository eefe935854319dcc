"""CSV as people have it, and what is said about it."""

import pytest

BODY = "".join(f"{k},{k % 7}\n" for k in range(30))


def values(data):
    return data.train.take()[0, :, 0].tolist()


@pytest.mark.parametrize("first", ["0,0.5", "2024-01-01,7", "0.1,a", "-1,2"])
def test_a_first_line_that_looks_like_data_is_refused(table, refusal, first):
    below = first.replace("0", "3")
    said = refusal(table(f"{first}\n{below}\n"))
    assert "a.csv, line 1 looks like data, not like names of columns" in said
    assert "data.header=false" in said
    assert "data.header=true" in said


@pytest.mark.parametrize("first", ["x,y", "country,2019,2020,y", "x2,y", "day,2024-01-01,y"])
def test_names_are_no_data(table, refusal, first):
    row = ",".join("w" if name in ("country", "day") else "1" for name in first.split(","))
    assert "looks like data" not in refusal(table(f"{first}\n{row}\n{row}\n"))


def test_columns_without_names_are_numbered(table, load):
    path = table("".join(f"{k % 5},{k % 7}\n" for k in range(30)))
    data = load(path, target_column="1", header=False)
    assert data.train.take()[:2, 0].tolist() == [[0, 0], [1, 1]]
    assert data.train.targets[0].tolist() == [2]


def test_line_numbers_without_names(table, refusal):
    assert "line 3, column '0': 'abc' is not a number" in refusal(
        table("1,2\n3,4\nabc,5\n6,7\n8,9\n"), target_column="1", header=False
    )
    assert "line 2 has 3 field(s)" in refusal(table("1,2\n3,4,5\n"), target_column="1", header=False)


def test_numbers_may_be_names_if_it_is_said(table, load):
    path = table("0,1\n" + BODY)
    assert load(path, target_column="1", header=True).train.targets[0].tolist() == [2]


def test_comments(table, load, refusal):
    path = table(f"# of station 12, in 2024\n# unit: C\nx,y\n{BODY}# the end\n")
    said = refusal(path)
    assert "line 2 has 1 field(s)" in said
    assert "begins with #: \"data.comment='#'\" skips such lines" in said
    data = load(path, comment="#")
    assert values(data) == [0, 1]
    assert data.notes[0] == "3 line(s) of a.csv are skipped (data.comment=#)"
    broken = table(f"# of station 12, in 2024\nx,y\n{BODY}abc,1\n")
    assert "line 33, column 'x': 'abc'" in refusal(broken, comment="#")  # 1 + 1 + 30 + 1


def test_two_more_lines_of_names(table, load, refusal):
    """As yfinance writes them: names, tickers, and the name of the index alone."""
    text = "Price,Close,y\nTicker,AB,AB\nDate,,\n" + "".join(f"2024-01-{k:02d},{k % 5},{k % 7}\n" for k in range(1, 31))
    path = table(text)
    said = refusal(path, time_column="Price")
    assert "line 2, column 'Close': 'AB' is not a number" in said
    assert said.endswith("the names seem to take 3 lines: data.skip_rows=[2,3] skips all but the first")
    data = load(path, time_column="Price", skip_rows=[2, 3])
    assert data.train.take()[0].tolist() == [[1, 1], [2, 2]]
    assert not data.notes


def test_the_first_lines_can_be_skipped(table, load, refusal):
    path = table("exported by hand\n\nx,y\n" + BODY + "abc,1\n")
    assert "line 34, column 'x': 'abc'" in refusal(path, skip_rows=2)
    assert "has 34 lines, so data.skip_rows cannot skip line 99" in refusal(path, skip_rows=[99])
    assert "is empty but for the lines that are skipped" in refusal(path, skip_rows=34)
    assert values(load(table("exported by hand\n\nx,y\n" + BODY), skip_rows=2)) == [0, 1]


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("names", [[str(k + 1) for k in range(30)], [f"row {k}" for k in range(30)]])
def test_names_of_rows(table, load, quote, names):
    """As R writes them: the first line is one shorter than the others."""
    rows = [f"{quote}{name}{quote},{k % 5},{k % 7}\n" for k, name in enumerate(names)]
    data = load(table(f"{quote}x{quote},{quote}y{quote}\n" + "".join(rows)))
    assert data.train.take()[0].tolist() == [[0, 0], [1, 1]]
    assert data.notes == ("the first column of a.csv, which has no name, is left out as names of rows",)


def test_longer_rows_are_no_names_of_rows(table, refusal):
    """Whether the first or the last column lacks a name cannot be known."""
    assert "line 2 has 3 field(s)" in refusal(table("x,y\n5,1,2\n6,3,4\n7,5,6\n"))


def test_encodings(table, load, refusal):
    text = "caf\u00e9,y\n" + BODY
    path = table(text.encode("latin-1"))
    assert "is not UTF-8 text (byte 3); perhaps data.encoding=latin-1" in refusal(path)
    assert values(load(path, feature_columns=["caf\u00e9"], encoding="latin-1")) == [0, 1]
    path = table(text.encode("utf-16"))
    assert "perhaps data.encoding=utf-16" in refusal(path)
    assert values(load(path, encoding="utf-16")) == [0, 1]
    assert "is not text of data.encoding=ascii" in refusal(path, encoding="ascii")


def test_thousands(table, load, refusal):
    """1,234 is a number of the first column, in quotes."""
    path = table("x,y\n" + "".join(f'"{k},234",{k % 7}\n' for k in range(1, 30)))
    assert "'1,234' is not a number; perhaps data.thousands=comma" in refusal(path)
    assert values(load(path, thousands="comma")) == [1234, 2234]
    path = table("x;y\n" + "".join(f"{k},5;{k % 7}\n" for k in range(1, 30)))
    assert "'1,5' is not a number; perhaps data.decimal=comma" in refusal(path, separator="semicolon")
    path = table("x;y\n" + "".join(f"{k}.234,5;{k % 7}\n" for k in range(1, 30)))
    settings = {"thousands": "point", "decimal": "comma", "separator": "semicolon"}
    assert values(load(path, **settings)) == [1234.5, 2234.5]
    mixed = table("x;y\n" + "".join(f"{'?' if k == 20 else f'{k}.234,5'};{k % 7}\n" for k in range(1, 30)))
    assert values(load(mixed, missing="ffill", **settings)) == [1234.5, 2234.5]


def test_blank_rows_at_the_end(table, load, refusal):
    data = load(table("x,y\n" + BODY + ",\n , \n\n,\n"))
    assert len(data.train) == 30 - 6 - 3 - 2  # 6 rows test and 3 lie between; two windows fewer than rows
    assert data.notes[0] == "3 blank row(s) at the end of a.csv are left out"
    assert "line 3, column 'x': the value is missing" in refusal(table("x,y\n1,2\n,\n3,4\n"))


def test_what_is_done_to_many_files_is_said_once(tmp_path, table, load):
    """One file with two blank rows at its end, one with one, one without."""
    for name, end in (("a", ",\n,\n"), ("b", ",\n"), ("c", "")):
        table("x,y\n" + BODY + end, f"{name}.csv")
    assert load(str(tmp_path)).notes[0] == "3 blank row(s) at the end of 2 files are left out"


def test_blanks_after_names(table, load):
    data = load(table("x, y \n" + BODY))
    assert data.notes[0] == "blanks at the end of names of columns are left out: 'y '"
    assert not [note for note in load(table("x, y\n" + BODY)).notes if "blanks" in note]
