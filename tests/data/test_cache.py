"""A cache helps or is ignored: it never breaks a run and never gives wrong arrays."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fedsim import caches
from fedsim.data import cache
from fedsim.data.cache import cache_directories, cached_arrays

ARRAYS = {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "y": np.array([3, 1, 2])}


class Maker:
    """Returns the arrays and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> cache.Arrays:
        self.calls += 1
        return dict(ARRAYS)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "made" / "cache"))
    return tmp_path / "made" / "cache"


def check(arrays: cache.Arrays) -> None:
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_second_call_reads_what_the_first_one_kept(directory):
    make = Maker()
    check(cached_arrays("source", "version 1", ARRAYS, make))
    check(cached_arrays("source", "version 1", ARRAYS, make))
    assert make.calls == 1
    assert [f.suffix for f in directory.iterdir()] == [".npz"]  # no temporary file is left


@pytest.mark.parametrize("change", ["source", "identity", "format"])
def test_key_depends_on_the_version(directory, monkeypatch, change):
    make = Maker()
    cached_arrays("source", "version 1", ARRAYS, make)
    if change == "format":
        monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    source = "other" if change == "source" else "source"
    cached_arrays(source, "version 2" if change == "identity" else "version 1", ARRAYS, make)
    assert make.calls == 2


def test_damaged_file_is_reported_and_made_again(directory, caplog):
    make = Maker()
    cached_arrays("source", "1", ARRAYS, make)
    (file,) = directory.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    check(cached_arrays("source", "1", ARRAYS, make))
    assert "making it again" in caplog.text
    check(cached_arrays("source", "1", ARRAYS, make))
    assert make.calls == 2  # the damaged file was replaced


def test_no_damage_gets_through(directory, caplog):
    """Truncation anywhere, and random bytes anywhere: the arrays are right or the file is refused."""
    caplog.set_level(logging.CRITICAL)
    cached_arrays("source", "1", ARRAYS, Maker())
    (file,) = directory.iterdir()
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [good[:n] for n in range(0, len(good), 7)]
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.integers(1, 9)):
            data[rng.integers(len(data))] = rng.integers(256)
        damaged.append(bytes(data))
    for data in damaged:
        file.write_bytes(data)
        arrays = cache._read(file, ARRAYS)
        if arrays is not None:
            check(arrays)


def test_large_arrays_are_mapped(directory, monkeypatch, tmp_path):
    """Right values, in pages of the file; what is written to them does not reach it."""
    arrays = {"x": np.arange(24.0).reshape(2, 3, 4), "f": np.asfortranarray(np.eye(3)), "n": np.array(3)}
    cached_arrays("source", "1", arrays, lambda: arrays)
    monkeypatch.setattr(cache, "LARGE", 150)
    for _ in range(2):
        found = cached_arrays("source", "1", arrays, lambda: {})
        assert isinstance(found["x"], np.memmap)
        assert isinstance(found["f"], np.memmap)
        assert not isinstance(found["n"], np.memmap)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
        found["x"][:] = -1


def test_a_truncated_large_array_is_made_again(directory, monkeypatch, caplog):
    monkeypatch.setattr(cache, "LARGE", 1)
    cached_arrays("source", "1", ARRAYS, Maker())
    (file,) = directory.iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    check(cached_arrays("source", "1", ARRAYS, Maker()))
    assert "making it again" in caplog.text


def test_large_objects_are_not_unpickled(directory, monkeypatch):
    monkeypatch.setattr(cache, "LARGE", 1)
    make = Maker()
    cached_arrays("source", "1", ARRAYS, make)
    (file,) = directory.iterdir()
    np.savez(file, x=np.array([{"a": 1}], dtype=object), y=ARRAYS["y"])
    check(cached_arrays("source", "1", ARRAYS, make))
    assert make.calls == 2


def test_objects_are_not_unpickled(directory):
    make = Maker()
    cached_arrays("source", "1", ARRAYS, make)
    (file,) = directory.iterdir()
    np.savez(file, x=np.array([{"a": 1}], dtype=object), y=ARRAYS["y"])
    check(cached_arrays("source", "1", ARRAYS, make))
    assert make.calls == 2


def test_file_with_other_arrays_is_made_again(directory):
    make = Maker()
    cached_arrays("source", "1", ARRAYS, make)
    (file,) = directory.iterdir()
    np.savez(file, x=ARRAYS["x"])
    check(cached_arrays("source", "1", ARRAYS, make))


def test_unusable_directory_is_reported_and_does_no_harm(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "file" / "below"))
    check(cached_arrays("source", "1", ARRAYS, Maker()))
    assert "FEDSIM_CACHE_DIR" in caplog.text


def test_full_disk_leaves_nothing_behind(directory, monkeypatch, caplog):
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    check(cached_arrays("source", "1", ARRAYS, Maker()))
    assert "No space left" in caplog.text
    assert list(directory.iterdir()) == []


def test_directory_order(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directories()[0] == tmp_path / "own"
    monkeypatch.delenv("FEDSIM_CACHE_DIR")
    assert cache_directories()[0] == tmp_path / "xdg" / "fedsim"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directories()[0] == tmp_path / "home" / ".cache" / "fedsim"


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """No home directory, and a temporary folder of this test's; no folder of a test before it."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FEDSIM_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caches.temporary_folder.cache_clear()
    yield tmp_path
    caches.temporary_folder.cache_clear()


def test_without_a_home_the_temporary_folder_serves(homeless, capsys):
    make = Maker()
    check(cached_arrays("source", "1", ARRAYS, make))
    check(cached_arrays("source", "1", ARRAYS, make))
    assert make.calls == 1
    folder = homeless / f"fedsim-{os.getuid()}"
    assert [file.suffix for file in (folder / "data").iterdir()] == [".npz"]
    assert folder.stat().st_mode & 0o777 == 0o700
    err = capsys.readouterr().err
    assert err.startswith(f"warning: there is no home directory: caches go to {folder} (FEDSIM_CACHE_DIR")
    assert err.count("\n") == 1


def test_without_any_folder_nothing_is_cached(homeless, capsys):
    (homeless / f"fedsim-{os.getuid()}").symlink_to(homeless)  # somebody else's trap
    make = Maker()
    check(cached_arrays("source", "1", ARRAYS, make))
    check(cached_arrays("source", "1", ARRAYS, make))
    assert make.calls == 2
    assert "nothing is cached" in capsys.readouterr().err


def test_a_cache_that_is_only_readable_is_read(homeless, monkeypatch):
    """As in an image that was made with the cache filled."""
    monkeypatch.setattr(Path, "home", lambda: homeless / "home")
    make = Maker()
    check(cached_arrays("source", "1", ARRAYS, make))
    monkeypatch.setattr(cache, "can_write", lambda folder: False)
    check(cached_arrays("source", "1", ARRAYS, make))
    assert make.calls == 1
    check(cached_arrays("source", "2", ARRAYS, make))
    check(cached_arrays("source", "2", ARRAYS, make))
    assert make.calls == 2
