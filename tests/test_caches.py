"""Caches where the usual places cannot be written to: one line, and the same bytes."""

import hashlib
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
from numba.core import config

from fedsim import caches
from fedsim.errors import UserError
from fedsim.models import numba_kernels
from fedsim.models.numba_kernels import kernels, machine_code, plans, table


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


@pytest.mark.parametrize(
    ("usable", "place"),
    [
        ({"own", "package", "home"}, "own/here"),
        ({"package", "home"}, None),  # the folder that was named is the only one, besides the temporary
        ({"package", "home", "unnamed"}, "package/__pycache__"),
        ({"home", "unnamed"}, "home/fedsim/kernels"),
        ({"unnamed"}, None),
    ],
)
def test_where_kernels_are_kept(tmp_path, temporary, monkeypatch, usable, place):
    for name in ("own", "package", "home"):
        (tmp_path / name).mkdir() if name in usable else (tmp_path / name).touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "" if "unnamed" in usable else str(tmp_path / "own" / "here"))
    expected = temporary / "kernels" if place is None else tmp_path / place
    assert caches.place_for_kernels(tmp_path / "package") == expected


def load(cell="gru", dtype=torch.float32):
    """Load a small kernel as a process does that has not loaded it before."""
    module, step, _, *_ = plans.CELLS[cell]
    return kernels.kernel.__wrapped__(module, step, table.STEP_KINDS, dtype)


def test_without_a_place_kernels_are_compiled_anew(monkeypatch):
    monkeypatch.setattr(machine_code, "place_for_kernels", lambda package: None)
    assert not numba_kernels.compiled("gru", torch.float32)
    for _ in range(2):
        one = load()
        assert one.address
        assert not one.kept


def test_kernels_are_kept(tmp_path, monkeypatch):
    """One file per function and dtype; none of another program, processor or setting is taken."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    machine_code._key.cache_clear()
    try:
        assert not load().kept
        assert load().kept
        assert not load(dtype=torch.float64).kept
        assert [file.name.partition("-")[0] for file in (tmp_path / "kept").iterdir()] == ["gru.step"] * 2
        monkeypatch.setenv("NUMBA_OPT", "2")
        machine_code._key.cache_clear()
        assert not load().kept
    finally:
        monkeypatch.undo()
        machine_code._key.cache_clear()


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    with pytest.raises(UserError, match="NUMBA_DISABLE_JIT is set"):
        load()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "unreadable"])
def test_damaged_kernels_are_compiled_again(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    load()
    (file,) = (tmp_path / "kept").iterdir()
    stored = file.read_bytes()
    if damage == "unreadable":
        file.unlink()
        file.mkdir()
    else:
        changed = stored[:-1] + bytes([stored[-1] ^ 1])
        file.write_bytes({"cut": stored[:-100], "changed": changed, "empty": b""}[damage])
    again = load()
    assert again.address
    assert not again.kept
    if damage == "unreadable":
        assert "cannot keep compiled kernels" in caplog.text
        assert [path.name for path in (tmp_path / "kept").iterdir()] == [file.name]  # nothing half-written is left
    else:
        assert ("is damaged; compiling it again" in caplog.text) == (damage != "empty")
        assert file.read_bytes() == stored or load().kept


def test_kept_kernels_compute_the_same_bytes(tmp_path):
    """A process that compiles, one that loads what it kept, and one that has Numba at work besides."""
    program = """
        import hashlib, sys
        if sys.argv[1] == "numba":
            import numba
            assert numba.njit(lambda x: 10 // x)(3) == 3
        import torch
        from fedsim.models import numba_kernels
        from fedsim.models.torch_kernels import Weights
        torch.manual_seed(0)
        x = torch.randn(3, 5, 4, 6, dtype=torch.float64)
        weights = Weights(*(torch.randn(3, *shape, dtype=torch.float64) for shape in ((24, 6), (24, 8), (24,), (24,))))
        states, _ = numba_kernels.forward("gru", x, weights)
        print(hashlib.sha256(states.numpy().tobytes()).hexdigest())
        print("numba" in sys.modules)
        import numba
        try:  # exceptions of other compiled code are still Numba's own, whichever came first
            numba.njit(lambda x: 10 // x)(0)
        except ZeroDivisionError:
            print("raised")
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), way],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for way in ("compile", "load", "numba")
    ]
    assert [rest for _, *rest in found] == [["True", "raised"], ["False", "raised"], ["True", "raised"]]
    assert len({digest for digest, *_ in found}) == 1


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
