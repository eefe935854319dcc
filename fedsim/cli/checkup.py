"""``fedsim doctor``: what this installation and this machine are like, and what is wrong with them.

Nothing is imported before it is needed, and whatever cannot be imported is shown instead of ending the command: it is
for the day on which something does not work. Of the environment only the variables in `VARIABLES` are read.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import fedsim
from fedsim import extras
from fedsim.caches import can_write
from fedsim.cli.load import Load, measure, quota
from fedsim.errors import printable
from fedsim.machine import allowed_cores

PACKAGES = ("torch", "numba", "numpy", "pandas", "scipy", "hydra-core", "omegaconf", "safetensors", "typer")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "SLURM_CPUS_PER_TASK", "OMP_PROC_BIND")
VARIABLES = (
    *THREADS,
    *("KMP_AFFINITY", "CUDA_VISIBLE_DEVICES", "FEDSIM_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"),
    "NUMBA_DISABLE_JIT",
)
DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))
BUSY = 0.2
"""The share of the cores from which on others are said to slow a run."""

Lines = Iterator[tuple[str, str, str]]
"""A label, what is found, and what is wrong with it and how to mend that (empty: nothing)."""


def show() -> None:
    """Print what is found; lines with a ``!`` are what should be mended."""
    problems = 0
    for part in (_versions, _extras, _device, _threads, _load, _caches):
        for label, text, problem in _guarded(part):
            print(f"{label:18}{_safe(text)}".rstrip())
            if problem:
                print(f"  ! {_safe(problem)}")
                problems += 1
    print(f"{problems} problem{'s' if problems > 1 else ''}, marked with !" if problems else "no problems found")


def _guarded(part: Callable[[], Lines]) -> Lines:
    """The lines of a part; if something in it is broken, a line that says so."""
    try:
        yield from part()
    except Exception as error:  # whatever a broken installation makes of itself
        name = getattr(part, "__name__", "").strip("_")
        yield name, "", f"cannot be examined: {type(error).__name__}: {' '.join(str(error).split())}"


def _safe(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def _versions() -> Lines:
    yield "fedsim", f"{fedsim.__version__} in {Path(fedsim.__file__).parent}", ""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "python", f"{platform.python_version()} in {sys.prefix}, on {system}", ""
    wanted = extras.dependencies()
    problem = ""
    if not wanted:
        problem = "fedsim is on the path but not installed, so that what it needs is not known: see its README"
    elif absent := extras.missing(wanted):
        found = ", ".join(f"{name} (found: {extras.version(name) or 'nothing'})" for name in absent)
        problem = f"fedsim needs {found}: {extras.pip_install(absent)}"
    versions = ((name, extras.version(name)) for name in PACKAGES)
    yield "packages", ", ".join(f"{name} {version}" for name, version in versions if version), problem


def _extras() -> Lines:
    """Those that are complete in one line, and one line for each other."""
    found = extras.extras()
    absent = {name: extras.missing(wanted) for name, wanted in found.items()}
    yield "extras", ", ".join(name for name in found if not absent[name]) or "none", ""
    for name, wanted in absent.items():
        if wanted:
            old = [f"{one} (found: {there})" for one in wanted if (there := extras.version(one)) is not None]
            hint = extras.pip_install(found[name])
            yield f"  no {name}", hint, f"{name} needs {', '.join(old)}: {hint}" if old else ""


def _device() -> Lines:
    torch = importlib.import_module("torch")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_properties(number) for number in range(count)]
    shown = ", ".join(f"cuda:{n} {one.name}, {one.total_memory / 2**30:.0f} GiB" for n, one in enumerate(names))
    problem = ""
    if not count and any(path.exists() for path in DRIVERS):
        why = "torch was built without CUDA" if torch.version.cuda is None else "torch cannot use it"
        more = f" ({' '.join(str(said[-1].message).split())})" if said else ""
        problem = f"there is an NVIDIA driver, but {why}{more}: see pytorch.org/get-started for the build to install"
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            problem = "CUDA_VISIBLE_DEVICES hides all devices: unset it"
    yield "device", shown or "cpu", problem


def _threads() -> Lines:
    torch = importlib.import_module("torch")
    threads, cores, limit = torch.get_num_threads(), len(allowed_cores()), quota()
    there = os.cpu_count() or cores
    text = f"torch uses {threads}; this process may use {cores} of {there} cores"
    text += "" if limit is None else f", and the time of {limit:.2g} of them"
    most = cores if limit is None else max(1, min(cores, int(limit)))
    limits = [f"{name}={os.environ[name]}" for name in THREADS[:3] if os.environ.get(name, "").isdecimal()]
    problem = ""
    if threads > most:
        problem = f"more threads than cores wait for each other: fedsim run ... threads={most}"
    elif threads < most and limits:
        problem = f"{' and '.join(limits)} leaves cores unused: unset it, or fedsim run ... threads={most}"
    yield "threads", text, problem
    known = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    off = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    yield (
        "environment",
        ", ".join(known) or "nothing set",
        "NUMBA_DISABLE_JIT breaks the kernels: unset it" if off else "",
    )


def _load() -> Lines:
    yield from _told(measure(), len(allowed_cores()))


def _told(load: Load, cores: int) -> Lines:
    """What a load means.

    Args:
        load: as measured.
        cores: that this process may use.
    """
    used = load.average if load.cores is None else load.cores
    if used is None:
        yield "load", "unknown on this system", ""
        return
    now = "" if load.cores is None else f"others use {max(0.0, load.cores):.1f} of {cores} cores now; "
    average = "" if load.average is None else f"load average {load.average:.1f}"
    problem = ""
    if used > BUSY * cores:
        who = ", ".join(f"{name} (process {number}, {share:.1f})" for name, number, share in load.busiest)
        free = max(1, int(cores - used + 0.5))
        problem = (
            f"others slow a run, and its times mean little: {who + '; ' if who else ''}wait, or take threads={free}"
        )
    elif (load.stolen or 0.0) > BUSY * cores:
        problem = f"the machine below this virtual one takes {load.stolen:.1f} cores: timings mean little"
    yield "load", f"{now}{average}".removesuffix("; "), problem


def _caches() -> Lines:
    yield from _data_cache()
    kernels = importlib.import_module("fedsim.models.numba_kernels")
    torch = importlib.import_module("torch")
    place = kernels.cache_place()
    if place is None:
        yield "kernels", "nowhere", "no folder can be written to, so every start compiles: set NUMBA_CACHE_DIR to one"
        return
    kept = [
        f"{str(dtype).removeprefix('torch.')} {', '.join(cells)}"
        for dtype in (torch.float32, torch.float64)
        if (cells := [cell for cell in kernels.CELLS if kernels.compiled(cell, dtype)])
    ]
    state = f"compiled: {'; '.join(kept)}" if kept else "none compiled yet, which takes some seconds once"
    problem = (
        "" if can_write(place) else "cannot be written to, so every start compiles: set NUMBA_CACHE_DIR to a folder"
    )
    yield "kernels", f"{place}; {state}", problem


def _data_cache() -> Lines:
    cache = importlib.import_module("fedsim.data.cache")
    places = cache.cache_directories()
    named = "FEDSIM_CACHE_DIR" if os.environ.get("FEDSIM_CACHE_DIR") else "FEDSIM_CACHE_DIR is not set"
    if not places:
        yield "data cache", f"nowhere ({named})", "no folder can be written to: set FEDSIM_CACHE_DIR to one"
        return
    problem = "" if can_write(places[-1]) else "cannot be written to, so data are converted anew: set FEDSIM_CACHE_DIR"
    yield "data cache", f"{places[-1]} ({named})", problem
