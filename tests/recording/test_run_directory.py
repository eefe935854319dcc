"""Rows that are whole, files that appear whole, and directories that are in use."""

import csv
import errno
import json
import math
import os
import resource
from pathlib import Path

import pytest

from fedsim.errors import UserError
from fedsim.recording import run_directory
from fedsim.recording.run_directory import CsvWriter, format_cell, refuse_used, write_atomically, write_csv, write_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (10**18, "1000000000000000000"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-12, "1e-12"),
        (2.0, "2.0"),
        (None, ""),
        ("a b", "a b"),
    ],
)
def test_cells(value, text):
    assert format_cell(value) == text


def test_a_row_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    writer = CsvWriter(tmp_path / "a.csv", ("round", "loss"))
    assert (tmp_path / "a.csv").read_bytes() == b"round,loss\n"
    writer.write({"loss": 0.5, "round": 1})
    assert (tmp_path / "a.csv").read_bytes() == b"round,loss\n1,0.5\n"
    writer.close()


def test_a_row_has_exactly_the_columns(tmp_path):
    writer = CsvWriter(tmp_path / "a.csv", ("round", "loss"))
    for row in ({"round": 1}, {"round": 1, "loss": 2, "more": 3}):
        with pytest.raises(ValueError, match="does not have the columns"):
            writer.write(row)
    writer.close()
    assert (tmp_path / "a.csv").read_bytes() == b"round,loss\n"


def test_a_file_is_never_overwritten(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(FileExistsError):
        CsvWriter(tmp_path / "a.csv", ("round",))
    assert (tmp_path / "a.csv").read_text() == "old"


def test_a_row_that_is_only_partly_written_is_removed(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = CsvWriter(tmp_path / "a.csv", ("round", "text"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        writer.write({"round": 1, "text": "x" * 4000})
        with pytest.raises(OSError, match="File too large"):
            writer.write({"round": 2, "text": "y" * 4000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "a.csv").read_text() == f"round,text\n1,{'x' * 4000}\n"
    writer.write({"round": 2, "text": "z"})
    writer.close()
    assert (tmp_path / "a.csv").read_text().endswith("x\n2,z\n")


def test_a_table_is_read_back_as_it_was(tmp_path):
    rows = [
        ["plain", 1, 0.1],
        ['quo"te', 2, math.nan],
        ["com,ma", 3, None],
        ["line\nbreak\r", 4, 1e-9],
        ["é #", 5, 1.0],
    ]
    write_csv(tmp_path / "a.csv", ("name", "count", "value"), rows)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read[0] == ["name", "count", "value"]
    assert [row[0] for row in read[1:]] == [row[0] for row in rows]
    assert [row[2] for row in read[1:]] == ["0.1", "", "", "1e-09", "1.0"]


def test_json_has_no_numbers_that_are_not_finite(tmp_path):
    write_json(
        tmp_path / "a.json", {"a": math.nan, "b": [math.inf, 1], "c": {"d": -math.inf, "e": 0.5}, "f": (1, None)}
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == {"a": None, "b": [None, 1], "c": {"d": None, "e": 0.5}, "f": [1, None]}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("old")
    if failing == "fsync":
        monkeypatch.setattr(run_directory.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_whole_write_replaces_the_file(tmp_path):
    (tmp_path / "a").write_text("old and longer")
    write_atomically(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


def test_free_directories(tmp_path):
    refuse_used(tmp_path, "key")
    refuse_used(tmp_path / "a" / "b" / "c", "key")
    (tmp_path / "notes.txt").write_text("mine")
    refuse_used(tmp_path, "key")


@pytest.mark.parametrize("name", ["metrics.csv", "config.yaml"])
def test_used_directories(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"^key={tmp_path}: already holds a run \({name}\)"):
        refuse_used(tmp_path, "key")


def test_a_file_where_a_directory_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="file is a file"):
            refuse_used(path, "key")


def test_a_directory_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to"):
        refuse_used(tmp_path / "run", "key")
