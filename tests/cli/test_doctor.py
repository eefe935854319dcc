"""`fedsim doctor`: what it finds, what it marks, and that it survives what is broken."""

import importlib
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fedsim as package
from fedsim import extras
from fedsim.cli import checkup, load
from fedsim.cli.load import Load


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """Nobody else on four cores, and no variables, whatever the machine that tests run on is like."""
    monkeypatch.setattr(checkup, "measure", lambda: Load(0.0, 0.0, [], 0.3))
    monkeypatch.setattr(checkup, "allowed_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(checkup, "quota", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for name in checkup.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def doctor(fedsim):
    """Return ``doctor()``, the lines that it prints by their labels, with the problem below each."""

    def call():
        answer = fedsim("doctor")
        assert (answer.code, answer.err) == (0, ""), answer
        lines, found = answer.out.splitlines(), {}
        for number, line in enumerate(lines):
            if not line.startswith("  !"):
                below = lines[number + 1] if number + 1 < len(lines) else ""
                found[line[:18].strip()] = (line[18:], below[4:] if below.startswith("  ! ") else None)
        assert lines[-1] == (
            "no problems found" if (n := sum(line.startswith("  ! ") for line in lines)) == 0
            else f"{n} problem{'s' if n > 1 else ''}, marked with !"
        )  # fmt: skip
        assert len(lines) < 40
        return found

    return call


def test_versions(doctor):
    found = doctor()
    assert found["fedsim"] == (f"{package.__version__} in {Path(package.__file__).parent}", None)
    assert found["python"][0].startswith(f"{platform.python_version()} in {sys.prefix}")
    for name in ("torch", "numba", "pandas", "hydra-core"):
        assert f"{name} {metadata.version(name)}" in found["packages"][0]
    assert found["packages"][1] is None


def test_extras(doctor, monkeypatch):
    versions = {"onnx": "1.16.1", "onnxruntime": None, "h5py": "3.11.0", "pyarrow": "3.0"}
    real = extras.version
    monkeypatch.setattr(extras, "version", lambda text: versions.get(re.match(r"\w+", text)[0], real(text)))
    found = doctor()
    assert "hdf5" in found["extras"][0].split(", ")
    assert "parquet" not in found["extras"][0].split(", ")
    assert found["no onnx"][0] == "python -m pip install 'onnx>=1.16' 'onnxruntime>=1.18'"
    hint = "python -m pip install 'pyarrow>=15'"
    assert found["no parquet"] == (hint, f"parquet needs pyarrow>=15 (found: 3.0): {hint}")
    assert not {"test", "dev", "docs"} & {name.removeprefix("no ") for name in found}


def test_a_package_that_is_too_old(doctor, monkeypatch):
    real = extras.version
    monkeypatch.setattr(extras, "version", lambda text: "2.1.0" if text.startswith("torch") else real(text))
    assert doctor()["packages"][1] == "fedsim needs torch>=2.6 (found: 2.1.0): python -m pip install 'torch>=2.6'"


def test_not_installed_but_on_the_path(doctor, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    extras._all.cache_clear()
    found = doctor()
    extras._all.cache_clear()
    assert found["packages"][1].startswith("fedsim is on the path but not installed")
    assert found["extras"][0] == "none"


def test_devices(doctor, monkeypatch):
    assert torch.cuda.is_available() or doctor()["device"] == ("cpu", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    card = SimpleNamespace(name="H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    assert doctor()["device"] == ("cuda:0 H100, 80 GiB, cuda:1 H100, 80 GiB", None)


@pytest.mark.parametrize(
    ("cuda", "hidden", "reason"),
    [
        (None, None, "there is an NVIDIA driver, but torch was built without CUDA: see pytorch.org"),
        ("12.6", None, "there is an NVIDIA driver, but torch cannot use it (the driver is too old): see pytorch.org"),
        ("12.6", "", "CUDA_VISIBLE_DEVICES hides all devices: unset it"),
    ],
)
def test_a_device_that_torch_does_not_see(doctor, monkeypatch, elsewhere, cuda, hidden, reason):
    def available():
        if cuda is not None:
            importlib.import_module("warnings").warn("the driver\n is too old", UserWarning, stacklevel=1)
        return False

    Path("nvidia0").touch()
    monkeypatch.setattr(checkup, "DRIVERS", (Path("nvidia0"),))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", available)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    text, problem = doctor()["device"]
    assert text == "cpu"
    assert problem.startswith(reason)


@pytest.mark.parametrize(
    ("threads", "limit", "variable", "problem"),
    [
        (4, None, None, None),
        (4, None, "1", None),  # set by the user in the meantime: torch is asked, not the variable
        (1, None, "1", "OMP_NUM_THREADS=1 leaves cores unused: unset it, or fedsim run ... threads=4"),
        (1, None, None, None),  # by something else
        (8, None, None, "more threads than cores wait for each other: fedsim run ... threads=4"),
        (4, 1.5, None, "more threads than cores wait for each other: fedsim run ... threads=1"),
        (4, 0.5, None, "more threads than cores wait for each other: fedsim run ... threads=1"),
        (4, 16.0, None, None),
    ],
)
def test_threads(doctor, monkeypatch, threads, limit, variable, problem):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(checkup, "quota", lambda: limit)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    text, found = doctor()["threads"]
    assert text.startswith(f"torch uses {threads}; this process may use 4 of {os.cpu_count()} cores")
    assert ("the time of" in text) == (limit is not None)
    assert found == problem


def test_only_known_variables_are_shown(fedsim, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "zzyx")
    monkeypatch.setenv("FEDSIM_TOKEN", "zzyx")
    monkeypatch.setenv("KMP_AFFINITY", "a\x1b[2Jb")
    answer = fedsim("doctor")
    assert answer.code == 0
    assert "OMP_NUM_THREADS=4, KMP_AFFINITY=a\\x1b[2Jb, NUMBA_DISABLE_JIT=1" in answer.out
    assert "  ! NUMBA_DISABLE_JIT breaks the kernels: unset it" in answer.out
    assert "zzyx" not in answer.out


@pytest.mark.parametrize(
    ("found", "text", "problem"),
    [
        (Load(0.5, 0.0, [], 0.7), "others use 0.5 of 4 cores now; load average 0.7", None),
        (Load(0.0, 0.0, [], None), "others use 0.0 of 4 cores now", None),
        (
            Load(2.6, 0.0, [("python", 12, 1.9), ("cc1", 13, 0.7)], 2.2),
            "others use 2.6 of 4 cores now; load average 2.2",
            "others slow a run, and its times mean little: python (process 12, 1.9), cc1 (process 13, 0.7); "
            "wait, or take threads=1",
        ),
        (
            Load(None, None, [], 3.5),
            "load average 3.5",
            "others slow a run, and its times mean little: wait, or take threads=1",
        ),
        (
            Load(0.1, 1.5, [], 0.2),
            "others use 0.1 of 4 cores now; load average 0.2",
            "the machine below this virtual one takes 1.5 cores: timings mean little",
        ),
        (Load(None, None, [], None), "unknown on this system", None),
    ],
)
def test_others(doctor, monkeypatch, found, text, problem):
    monkeypatch.setattr(checkup, "measure", lambda: found)
    assert doctor()["load"] == (text, problem)


def test_caches(doctor, elsewhere, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere / "data"))
    kernels = importlib.import_module("fedsim.models.numba_kernels")
    monkeypatch.setattr(kernels, "cache_place", lambda: elsewhere / "kernels")
    monkeypatch.setattr(kernels, "compiled", lambda cell, dtype: cell in ("gru", "lstm") and dtype == torch.float32)
    found = doctor()
    assert found["data cache"] == (f"{elsewhere}/data (FEDSIM_CACHE_DIR)", None)
    assert found["kernels"] == (f"{elsewhere}/kernels; compiled: float32 lstm, gru", None)
    monkeypatch.setattr(kernels, "compiled", lambda cell, dtype: False)
    assert doctor()["kernels"][0].endswith("; none compiled yet, which takes some seconds once")
    monkeypatch.setattr(checkup, "can_write", lambda place: False)
    found = doctor()
    assert found["data cache"][1].startswith("cannot be written to, so data are converted anew: set FEDSIM_CACHE_DIR")
    assert found["kernels"][1].startswith("cannot be written to, so every start compiles: set NUMBA_CACHE_DIR")
    monkeypatch.setattr(kernels, "cache_place", lambda: None)
    assert doctor()["kernels"][0] == "nowhere"


def test_the_kernels_are_where_numba_says(doctor, elsewhere, monkeypatch):
    """What lies there after a run is what is said to be there."""
    kernels = importlib.import_module("fedsim.models.numba_kernels")
    place = doctor()["kernels"][0].partition(";")[0]
    assert Path(place) == kernels.cache_place()
    names = [path.name for path in Path(place).glob("walk_forward.run_forward*.o")]
    assert names or "none compiled" in doctor()["kernels"][0]


def test_broken_packages_end_nothing(doctor, monkeypatch):
    def fail(name):
        raise ImportError(f"libsomething.so:\n cannot be opened, for {name}")

    monkeypatch.setattr(checkup.importlib, "import_module", fail)
    found = doctor()
    words = "cannot be examined: ImportError: libsomething.so: cannot be opened, for "
    assert found["device"] == ("", f"{words}torch")
    assert found["threads"] == ("", f"{words}torch")
    assert found["caches"] == ("", f"{words}fedsim.data.cache")
    assert found["fedsim"][1] is None


def test_without_torch_at_all(tmp_path):
    """In a process that cannot import torch or Numba."""
    code = "import sys; sys.modules['torch'] = sys.modules['numba'] = None; from fedsim.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "  ! cannot be examined: ModuleNotFoundError: import of torch halted; None in sys.modules" in done.stdout


# ---------------------------------------------------------------------------------------------------------------------


def stat(*rows):
    return (
        "cpu  1 2 3\n" + "".join(f"cpu{n} {' '.join(map(str, row))} 0 0\n" for n, row in enumerate(rows)) + "intr 1\n"
    )


@pytest.fixture
def proc(elsewhere, monkeypatch):
    """A folder like /proc on a machine with three cores, of which this process may use the first two."""
    monkeypatch.setattr(load, "allowed_cores", lambda: [0, 1])
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 9, 9))
    folder = elsewhere / "proc"

    def write(cores, **ticks):
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(stat(*cores))
        for name, (number, used) in ticks.items():
            (folder / str(number)).mkdir(exist_ok=True)
            odd = f"{name}) ("  # a name may have brackets and blanks
            (folder / str(number) / "stat").write_text(f"{number} ({odd}) S 1 2 3 4 5 6 7 8 9 10 {used} 1 0 0\n")
        return folder

    return write


def test_the_load_is_that_of_the_cores_that_this_process_may_use(proc):
    """In 100 ticks, core 0 was at work for 90, 10 of them for others below; core 1 for 5; core 2 does not count."""
    idle = (0, 0, 0, 1000, 0, 0, 0, 0)
    folder = proc([idle] * 3, cc=(7, 100), me=(os.getpid(), 5), gone=(9, 3))

    def wait(seconds):
        assert seconds == 0.5
        (folder / "9" / "stat").unlink()
        proc([(60, 10, 5, 1010, 0, 3, 2, 10), (5, 0, 0, 1085, 10, 0, 0, 0), (100, 0, 0, 1000, 0, 0, 0, 0)],
             cc=(7, 180), me=(os.getpid(), 95), idle=(8, 5), small=(10, 9))  # fmt: skip

    found = load.measure(0.5, folder, wait)
    assert found.cores == pytest.approx(0.95)
    assert found.stolen == pytest.approx(0.1)
    assert found.busiest == [("cc) (", 7, pytest.approx(0.8))]
    assert found.average == 1.25


def test_where_there_is_no_proc(elsewhere, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 9, 9))
    assert load.measure(0.0, elsewhere / "nothing") == Load(None, None, [], 1.25)
    monkeypatch.delattr(os, "getloadavg")
    assert load.measure(0.0, elsewhere / "nothing") == Load(None, None, [], None)


@pytest.mark.parametrize("text", ["", "cpu0 1 2\n", "cpu0 a b c d e f g h\n", "cpu7 1 2 3 4 5 6 7 8\n"])
def test_a_strange_proc(elsewhere, text):
    Path("stat").write_text(text)
    assert load.measure(0.0, elsewhere).cores is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_is_busy_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for _ in range(20):
            found = load.measure(0.3)
            if busy.pid in [number for _, number, _ in found.busiest]:
                break
    finally:
        busy.kill()
        busy.wait()
    assert busy.pid in [number for _, number, _ in found.busiest]
    assert found.cores > 0.1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "what\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(elsewhere, files, expected):
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    assert load.quota(elsewhere) == expected


def test_the_cores_of_this_process():
    assert load.allowed_cores()
    assert len(load.allowed_cores()) <= (os.cpu_count() or 1)
