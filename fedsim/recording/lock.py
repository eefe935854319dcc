"""One process per run directory: a lock that the kernel releases when its process ends, even if it was killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fedsim.errors import UserError

NAME = ".lock"
_NOT_FOLLOWED = os.O_NOFOLLOW | os.O_NONBLOCK  # neither to another file, nor until somebody writes to a pipe
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # some network file systems


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory while the context lasts.

    Raises:
        UserError: if a living process holds it.
    """
    path = directory / NAME
    descriptor = _acquire(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # while it is held: see `_acquire`
        os.close(descriptor)


def holder(directory: Path) -> str | None:
    """Describe the process that holds a run directory; None if none does."""
    path = directory / NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | _NOT_FOLLOWED)
    except OSError:
        return None
    try:
        return _describe(_read(path)) if _is_held(descriptor, path, fcntl.LOCK_SH) else None
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOT_FOLLOWED, 0o644)
        try:
            if _is_held(descriptor, path, fcntl.LOCK_EX):
                raise UserError(f"{path.parent}: in use by {_describe(_read(path))}")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):  # not one that its holder just deleted
                    me = {"pid": os.getpid(), "host": platform.node(), "process": _process_started(os.getpid())}
                    me["since"] = datetime.now().isoformat(sep=" ", timespec="seconds")
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, (json.dumps(me) + "\n").encode())
                    return descriptor
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                error.filename = str(path)  # a full disk does not say where
            raise
        os.close(descriptor)


def _is_held(descriptor: int, path: Path, kind: int) -> bool:
    """Try to take the lock; without locks in the file system, see whether the process that wrote the file is alive."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return _is_alive(_read(path))
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process still runs; one on another host cannot be checked and is taken to."""
    if not owner:
        return False
    if owner.get("host") != platform.node():
        return True
    return _process_started(owner.get("pid")) == owner.get("process") != None  # noqa: E711


def _process_started(pid: Any) -> str | None:
    """When a process started, in the kernel's clock ticks, so that a later process with its id is not taken for it."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError, TypeError, ValueError):
        pass
    try:  # no /proc here
        os.kill(int(pid), 0)
    except (OSError, TypeError, ValueError, OverflowError):
        return None
    return "unknown"


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    where = f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"
    if owner.get("host") == platform.node():
        return where
    return f"{where}; if that process no longer runs, delete {NAME} in the directory"
