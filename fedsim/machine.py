"""What this process may use of the machine: its cores, and its memory, beyond which things are refused in one line."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fedsim.errors import UserError

SPINS = 1000
"""How often a waiting thread looks before it sleeps: some microseconds."""


def let_threads_sleep() -> None:
    """Have torch's threads sleep soon when they wait for one another, unless the environment says how they wait.

    GNU OpenMP's own choice is to spin for milliseconds, which costs little on an idle machine and everything on one
    where another process wants the core. It reads the environment when it is loaded, so this comes before torch.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def allowed_cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_bytes() -> int:
    """Return the bytes of memory that this process can have at most: the machine's, or those of its container or limit.

    A huge number where the system does not say.
    """
    found = [2**63]
    if hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # a container's (cgroup 2); "max" without one
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(ImportError):  # there is none on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [limit] if limit != resource.RLIM_INFINITY else []
    return min(found)


def refuse_larger(needed: int, key: str, value: object, what: str, advice: str) -> None:
    """Raise `UserError` if something takes more memory than there is.

    Args:
        needed: bytes.
        key: the full key that asks for them.
        value: its value.
        what: what takes them, in the plural.
        advice: what to do about it.
    """
    there = available_bytes()
    if needed > there:
        raise UserError(
            f"{key}={value}: {what} would take {needed / 2**30:,.1f} GiB, and there are {there / 2**30:,.1f} GiB; "
            f"{advice}"
        )
