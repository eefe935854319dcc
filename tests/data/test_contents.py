"""Files without an end, and packed ones that hold far more than they are."""

import gzip
import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from fedsim.data import contents
from fedsim.data.contents import Bomb, NotAFile, check_zip, read_whole, unpacked
from fedsim.data.csv import Csv
from fedsim.data.har import Har
from fedsim.data.shakespeare import Shakespeare
from fedsim.data.text import Text
from fedsim.devices.profiles import Profiles
from fedsim.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    return str(tmp_path / "pipe.csv")


@pytest.mark.parametrize("special", ["pipe", "/dev/zero", "/dev/stdin"])
@pytest.mark.parametrize(
    "source",
    [lambda path: Csv(path=path, target_column="y"), lambda path: Text(path=path), lambda path: Shakespeare(path)],
)
def test_a_pipe_or_a_device_is_no_data(pipe, special, source):
    """Nobody writes to the pipe, and the device has no end: reading either would never return."""
    with pytest.raises(UserError, match=r"no regular file|is not a file"):
        source(pipe if special == "pipe" else special).load(0)


def test_a_pipe_is_no_profile(pipe):
    with pytest.raises(UserError, match="cannot be read"):
        Profiles(path=pipe).read()


def test_a_pipe_in_the_place_of_a_file(tmp_path, pipe):
    """What was opened counts, not what the name was before; a link to a file is a file."""
    with pytest.raises(NotAFile):
        read_whole(tmp_path / "pipe.csv")
    with pytest.raises(NotAFile):
        read_whole(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"abc")
    (tmp_path / "link.txt").symlink_to("a.txt")
    assert read_whole(tmp_path / "link.txt") == b"abc"


def test_a_command_does_not_hang_on_a_pipe(pipe):
    command = [sys.executable, "-m", "fedsim", "partition", "data=csv", f"data.path={pipe}", "data.target_column=y"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1


def test_gzip_bomb(tmp_path, monkeypatch):
    """A megabyte of one line again and again packs to a few kilobytes; here 10 kB are free and 20 times the size."""
    monkeypatch.setattr(contents, "FREE", 10_000)
    text = "y\n" + "1.5\n" * 250_000
    packed = gzip.compress(text.encode())
    assert len(text) > 200 * len(packed)
    with pytest.raises(Bomb, match="more than 20 times its size"):
        unpacked(packed, 20)
    assert unpacked(packed, 2000).decode() == text
    assert unpacked(gzip.compress(b"a" * 9000), 1) == b"a" * 9000  # below what is free
    (tmp_path / "t.csv.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"t.csv.gz unpacks to more than 200 times its size; .* raise data.gzip_ratio"):
        Csv(path=str(tmp_path / "t.csv.gz"), target_column="y", window=4).load(0)
    assert len(Csv(path=str(tmp_path / "t.csv.gz"), target_column="y", window=4, gzip_ratio=2000).load(0).train) > 1000


def test_several_members_of_a_gzip_file_count_together(monkeypatch):
    monkeypatch.setattr(contents, "FREE", 10)
    packed = gzip.compress(b"a" * 600) + gzip.compress(b"b" * 600)
    with pytest.raises(Bomb):
        unpacked(packed, 10)
    assert unpacked(packed, 1000) == b"a" * 600 + b"b" * 600


def test_zip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "FREE", 1000)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("UCI HAR Dataset.zip", b"0" * 1_000_000)
    with zipfile.ZipFile(data) as archive, pytest.raises(Bomb):
        check_zip(archive)
    (tmp_path / "har.zip").write_bytes(data.getvalue())
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        Har(path=str(tmp_path / "har.zip")).load(0)


def test_parquet_of_more_numbers_than_there_is_room_for(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"y": np.zeros(100_000)}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 10_000
    monkeypatch.setattr("os.sysconf", lambda name: 800)  # a machine of 640,000 bytes
    with pytest.raises(UserError, match="has 100,000 rows of 1 columns"):
        Csv(path=str(tmp_path / "t.parquet"), target_column="y").load(0)
