"""Rows and records read back as they were."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.stopping import Progress, Stop
from fedsim.errors import UserError
from fedsim.recording.run_directory import CsvWriter
from fedsim.runs.history import marked_content, parse_rows, replay, timing_size
from fedsim.runs.record import differences, read_record

COLUMNS = ("round", "clients", "loss")
CELLS = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False))


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_rows_come_back_to_the_bit(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "metrics.csv"
    writer = CsvWriter(path, COLUMNS)
    written = [{"round": number, "clients": one, "loss": other} for number, (one, other) in enumerate(rows)]
    for row in written:
        writer.write(row)
    mark = writer.mark()
    writer.write({"round": 99, "clients": 1, "loss": 0.5})
    writer.close()
    content = marked_content(path, mark)
    read = parse_rows(content, COLUMNS, path)
    assert read == written
    assert [[type(value) for value in row.values()] for row in read] == [
        [type(value) for value in row.values()] for row in written
    ]
    again = CsvWriter(path, COLUMNS, keep=mark["size"])
    assert again.mark() == mark
    again.close()
    assert path.read_bytes() == content


def test_a_mark_is_of_one_content(tmp_path):
    path = tmp_path / "metrics.csv"
    writer = CsvWriter(path, COLUMNS)
    writer.write({"round": 0, "clients": 0, "loss": 1.5})
    mark = writer.mark()
    writer.close()
    size = mark["size"]
    for bad in (None, [], {}, {"size": 3}, *(mark | {"size": wrong} for wrong in (size - 1, size + 1, -1, 0, "9"))):
        with pytest.raises(UserError, match="belongs"):
            marked_content(path, bad)
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6"))
    with pytest.raises(UserError, match=r"another run, or .* has changed"):
        marked_content(path, mark)
    path.unlink()
    with pytest.raises(UserError, match="there is no"):
        marked_content(path, mark)


def test_other_columns():
    with pytest.raises(UserError, match=r"other columns \(accuracy, loss\)"):
        parse_rows(b"round,clients,accuracy\n", COLUMNS, Path("metrics.csv"))
    with pytest.raises(UserError, match="another order"):
        parse_rows(b"clients,round,loss\n", COLUMNS, Path("metrics.csv"))


@given(values=st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=9), patience=st.integers(1, 4))
def test_progress_replayed_is_progress_made(values, patience):
    stop = Stop(patience=patience, target=3.0)
    made = Progress("loss", "max")
    rows = []
    for number, value in enumerate(values):
        rows.append({"round": number, "clients": 1, "loss": value})
        if value is not None:
            made.update(stop, number, float(value))
        if made.reason:
            break
    assert replay(Progress("loss", "max"), stop, rows) == made


TIMING = ("round", "train", "evaluate", "elapsed")
FULL = b"round,train,evaluate,elapsed\n0,0.0,0.1,0.1\n1,0.2,0.1,0.5\n2,0.2,0.1,0.9\n"


@pytest.mark.parametrize(
    ("content", "rounds", "kept", "seconds"),
    [
        (FULL, 1, FULL[:57], 0.5),
        (FULL, 2, FULL, 0.9),
        (FULL, 7, FULL, 0.9),
        (FULL[:-2], 2, FULL[:57], 0.5),
        (FULL[:35], 2, FULL[:29], 0.0),
        (FULL[:20], 2, b"", 0.0),
        (b"", 2, b"", 0.0),
        (b"\xff\xfe\n" + FULL, 2, b"", 0.0),
        (FULL.replace(b"0.5", b"abc"), 2, FULL[:43], 0.1),
        (FULL.replace(b"\n1,", b"\nx,"), 2, FULL[:43], 0.1),
    ],
)
def test_the_timing_that_stays(tmp_path, content, rounds, kept, seconds):
    path = tmp_path / "timing.csv"
    assert timing_size(path, TIMING, rounds) == (None, 0.0)
    path.write_bytes(content)
    size, found = timing_size(path, TIMING, rounds)
    assert content[:size] == kept
    assert math.isclose(found, seconds)


def test_differences_name_keys_and_parts():
    old = {"rounds": 3, "model": {"_target_": "a.GRU", "size": 3, "deep": {"x": 1}}, "tags": ["a"], "lr": 1.0}
    new = {"rounds": 3, "model": {"_target_": "a.GRU", "size": 4, "deep": {"x": 2}}, "tags": ["a"], "lr": 1}
    assert differences(old, new) == {"model.size": (3, 4), "model.deep.x": (1, 2), "lr": (1.0, 1)}
    assert differences(old, old) == {}
    other = {"_target_": "a.LSTM", "size": 3}
    assert differences(old, old | {"model": other}) == {"model": (old["model"], other)}
    assert differences({}, {"a": None}) == {}
    assert differences({"a": 1}, {}) == {"a": (1, None)}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_in_a_record(number):
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(OmegaConf.create({"format_version": 1, "x": number}))
    from fedsim.runs import record

    found = record._Loader(text).get_single_data()["x"]
    assert (type(found), found) == (float, number)


def test_a_record_comes_back(tmp_path):
    (tmp_path / "config.yaml").write_text("format_version: 1\nlr: 1e-05\nname: '1e-05'\n")
    assert read_record(tmp_path) == {"lr": 1e-05, "name": "1e-05"}
