"""Caches where the usual places cannot be written to: one line, and the same bytes."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from numba.core import config

from fedsim import caches
from fedsim.models import numba_kernels
from fedsim.models.numba_kernels import compiling, plans


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary folder of the test's own, and no folder of a test before it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(config, "CACHE_DIR", "")
    caches.temporary_folder.cache_clear()
    yield tmp_path / f"fedsim-{os.getuid()}"
    caches.temporary_folder.cache_clear()


def test_where_files_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert caches.can_write(tmp_path)
    assert caches.can_write(tmp_path / "new" / "deeper")
    assert not caches.can_write(tmp_path / "file")
    assert not caches.can_write(tmp_path / "file" / "below")
    assert not caches.can_write(tmp_path / "dangling" / "below")
    assert not caches.can_write(Path("/proc/below"))
    assert not caches.can_write(None)


@pytest.mark.parametrize("trap", ["file", "link", "open to all"])
def test_a_folder_that_others_may_have_made_is_not_used(temporary, tmp_path, capsys, trap):
    if trap == "file":
        temporary.touch()
    elif trap == "link":
        temporary.symlink_to(tmp_path)
    else:
        temporary.mkdir()
        temporary.chmod(0o777)
    assert caches.temporary_folder() is None
    assert "nothing is cached" in capsys.readouterr().err


def test_numba_keeps_its_place_while_it_can(tmp_path, temporary, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "xdg"))
    (tmp_path / "file").touch()
    assert caches.find_place_for_numba(tmp_path)  # in the package
    assert config.CACHE_DIR == ""
    assert caches.find_place_for_numba(tmp_path / "file")
    assert str(temporary / "numba") == config.CACHE_DIR
    assert caches.find_place_for_numba(tmp_path / "file")
    assert capsys.readouterr().err.count("\n") == 1


def test_without_a_place_kernels_are_compiled_anew(monkeypatch):
    monkeypatch.setattr(compiling, "find_place_for_numba", lambda package: False)
    assert not numba_kernels.compiled("gru", torch.float32)
    multiply, signature = plans.functions("gru", torch.float32)[2]
    one = compiling.compiled_function.__wrapped__(multiply, signature)
    assert one.address
    assert one.cache_hits == 0
    monkeypatch.undo()
    again = compiling.compiled_function.__wrapped__(multiply, signature)
    assert again.cache_hits <= 1


@pytest.mark.parametrize("damage", ["index", "data"])
def test_damaged_kernels_are_compiled_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kept"))
    multiply, signature = plans.functions("gru", torch.float32)[2]
    assert compiling.compiled_function.__wrapped__(multiply, signature).cache_hits == 0
    assert compiling.compiled_function.__wrapped__(multiply, signature).cache_hits == 1
    (file,) = (tmp_path / "kept").rglob("*.nbi" if damage == "index" else "*.nbc")
    file.write_bytes(file.read_bytes()[:100])
    again = compiling.compiled_function.__wrapped__(multiply, signature)
    assert again.cache_hits == 0
    assert again.address


def test_a_run_on_cached_data_without_a_home(tmp_path):
    """On data that are kept in the cache, twice: the second time from the temporary folder."""
    (tmp_path / "file").touch()
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("FEDSIM_", "XDG_", "NUMBA_"))}
    homeless = usual | {"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(tmp_path)}
    digests = set()
    for number, environment in enumerate((homeless, homeless, usual)):
        command = [sys.executable, "-m", "fedsim", "run", "rounds=1", "threads=1", "console=plain"]
        command += ["data=ucr", "data.name=ItalyPowerDemand"]
        where = tmp_path / f"run{number}"
        done = subprocess.run(
            [*command, f"hydra.run.dir={where}"], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        if environment is homeless:
            assert done.stderr.startswith(f"warning: {tmp_path}/file/home/.cache cannot be written to: caches go to ")
            assert done.stderr.count("\n") == 1
        digests.add(hashlib.sha256((where / "metrics.csv").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert not (tmp_path / "file" / "home").exists()
