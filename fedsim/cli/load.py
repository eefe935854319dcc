"""How many cores this process may use, and who else uses them; Linux says more than other systems."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fedsim.machine import allowed_cores

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


class Load(NamedTuple):
    """What others do on the cores that this process may use.

    Attributes:
        cores: how many of these cores were at work, on average over the time of looking; None if unknown.
        stolen: cores' worth of time that the machine below a virtual one kept for others; None if unknown.
        busiest: name, number and cores used of the processes that used most, at least a tenth of a core each.
        average: processes that ran or waited in the last minute, of the whole machine; None if unknown.
    """

    cores: float | None
    stolen: float | None
    busiest: list[tuple[str, int, float]]
    average: float | None


def quota(cgroup: Path = CGROUP) -> float | None:
    """The cores' worth of time that a container may use, or None if it has no such limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # control groups, version 2
        most, period = (cgroup / "cpu.max").read_text().split()
        return None if most == "max" else int(most) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):  # version 1
        most, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if int(most) <= 0 else int(most) / int(period)
    return None


def measure(seconds: float = 0.5, proc: Path = PROC, wait: Callable[[float], None] = time.sleep) -> Load:
    """Look twice at what the cores do, and sleep in between so that this process counts for nothing."""
    cores = allowed_cores()
    before, tasks = _ticks(proc, cores), _processes(proc)
    wait(seconds)
    after, later = _ticks(proc, cores), _processes(proc)
    average = None
    with suppress(OSError, AttributeError):  # unknown on Windows
        average = os.getloadavg()[0]
    if before is None or after is None or after[0] <= before[0]:
        return Load(None, None, [], average)
    per_core = (after[0] - before[0]) / len(cores)
    used = [
        (name, number, (ticks - tasks[number][1]) / per_core)
        for number, (name, ticks) in later.items()
        if number in tasks and number != os.getpid()
    ]
    busiest = sorted((one for one in used if one[2] >= 0.1), key=lambda one: -one[2])
    return Load((after[1] - before[1]) / per_core, (after[2] - before[2]) / per_core, busiest[:3], average)


def _ticks(proc: Path, cores: list[int]) -> tuple[int, int, int] | None:
    """The ticks of some cores since the start: all, those at work, and those stolen; None if the system has no such."""
    try:
        lines = (proc / "stat").read_text().splitlines()
        rows = [line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
        numbers = [[int(text) for text in row[1:9]] for row in rows if int(row[0][3:]) in cores]
    except (OSError, ValueError):
        return None
    if not numbers or any(len(row) < 8 for row in numbers):
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal
    total, stolen = sum(map(sum, numbers)), sum(row[7] for row in numbers)
    return total, total - sum(row[3] + row[4] for row in numbers), stolen


def _processes(proc: Path) -> Mapping[int, tuple[str, int]]:
    """The name of each process, and the ticks that it has used."""
    found = {}
    for file in proc.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # it may be gone
            name, _, rest = file.read_text(errors="replace").partition("(")[2].rpartition(") ")
            fields = rest.split()
            found[int(file.parent.name)] = (name, int(fields[11]) + int(fields[12]))
    return found
