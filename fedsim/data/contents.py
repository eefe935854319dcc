"""A user's file read whole: never one without an end, and no more from a packed one than it may hold."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zipfile
from pathlib import Path

FREE = 64 * 2**20
"""Bytes that any packed file may unpack to."""
RATIO = 200
"""How many times its own size a packed file may unpack to, if nothing else is said; a zip bomb reaches a thousand."""


class NotAFile(OSError):
    """A pipe, a device or a folder, which may have no end."""

    def __init__(self, file: Path) -> None:
        super().__init__(None, "it is no regular file", str(file))


class Bomb(ValueError):
    """A packed file that holds more than it may."""


def read_whole(file: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        NotAFile: for a pipe, a device or a folder, without waiting for it.
        OSError: if it cannot be read.
    """
    # A pipe without a writer would wait for one at open; what was opened, not what the name meant before, is looked at.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(file)
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            return opened.read()
    finally:
        os.close(descriptor)


def unpacked(data: bytes, ratio: int = RATIO) -> bytes:
    """Return the content of gzip data.

    Args:
        data: packed.
        ratio: how many times their size they may unpack to, once that is more than `FREE`.

    Raises:
        Bomb: if they hold more.
        gzip.BadGzipFile, EOFError, zlib.error: if they are damaged.
    """
    most = max(FREE, ratio * len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise Bomb(f"unpacks to more than {ratio} times its size")
    return content


def check_zip(archive: zipfile.ZipFile) -> None:
    """Raise `Bomb` if a member says that it unpacks to more than it may; more than it says is never read."""
    for member in archive.infolist():
        if member.file_size > max(FREE, RATIO * member.compress_size):
            raise Bomb(f"{member.filename} unpacks to more than {RATIO} times its size")
