"""Tensors that the processes of one machine hold in common: one process lays them down, the others map them."""

from __future__ import annotations

import json
import math
import os
import secrets
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

Place: TypeAlias = "list[Any]"
"""Where a tensor lies, as plain data: its type, its shape and the first byte, and the path and the inode of the file if
it is not in the shared memory."""

_PAGE = 4096
_AT_ONCE = 2**30
"""Bytes of a single write; Linux writes at most 2 GiB."""


class SharedMemory:
    """A file in memory that has no name, so that it is gone when the last process that uses it ends.

    Unlike ``/dev/shm``, which has 64 MB in many containers, it is bounded by the memory of the machine or container
    alone. Only Linux has it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._end = descriptor, 0
        weakref.finalize(self, os.close, descriptor)  # what is mapped stays mapped

    @classmethod
    def make(cls) -> SharedMemory | None:
        """Return an empty one, or None where the system has no such files."""
        if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
            return None
        try:
            return cls(os.memfd_create(f"fedsim-{secrets.token_hex(8)}"))
        except OSError:
            return None

    def offer(self) -> list[str]:
        """What another process of this machine needs for `open`, as plain data."""
        path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return [path, os.readlink(path)]

    @classmethod
    def open(cls, offer: list[str]) -> SharedMemory | None:
        """Return the one that another process offers, or None if it cannot be reached, as on another machine."""
        path, name = offer
        with suppress(OSError):
            if os.readlink(path) == name:
                return cls(os.open(path, os.O_RDWR))
        return None

    def lay(self, tensor: Tensor) -> Place:
        """Copy a tensor on the CPU here; one that is mapped from a file stays where it is.

        Raises:
            OSError: if there is no room.
        """
        described: Place = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        content = tensor.contiguous()
        if (found := _file_below(content)) is not None:
            return [*described, *found]
        first, left = self._end, content.reshape(-1).view(torch.uint8).numpy().data
        self._end += -(-len(left) // _PAGE) * _PAGE
        at = first
        while left:
            written = os.pwrite(self._descriptor, left[:_AT_ONCE], at)
            at, left = at + written, left[written:]
        return [*described, first]

    def at(self, place: Place) -> Tensor:
        """Return the tensor that lies there: the pages are those of all processes until one of them is written to.

        Raises:
            OSError: if the file that it lies in is gone or has been replaced.
        """
        name, shape, first, *elsewhere = place
        dtype = getattr(torch, name)
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        path = f"/proc/self/fd/{self._descriptor}"
        if elsewhere:
            path, inode = elsewhere
            if os.stat(path).st_ino != inode:
                raise OSError(f"{path} has been replaced")
        mapped = np.memmap(path, np.uint8, "c", first, (size,))
        return torch.from_numpy(mapped).view(dtype).view(shape)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Return zeros that all processes see and may write to; they all ask for the same, in the same order.

        Memory is taken for the pages that are written to.

        Returns:
            None if this process cannot map so much. It differs for no other process.
        """
        size, first = math.prod(shape) * dtype.itemsize, self._end
        self._end += (-(-size // _PAGE) + 1) * _PAGE
        if size == 0:
            return None
        try:
            # The page behind it is nobody's. A write lengthens the file, but does not shorten it like a truncation by a
            # process that comes late.
            os.pwrite(self._descriptor, b"\0", self._end - 1)
            mapped = np.memmap(f"/proc/self/fd/{self._descriptor}", np.uint8, "r+", first, (size,))
        except (OSError, ValueError, OverflowError):
            return None
        return torch.from_numpy(mapped).view(dtype).view(shape)

    def lay_text(self, text: Any) -> Place:
        """Lay down plain data, as JSON."""
        return self.lay(torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8))

    def text_at(self, place: Place) -> Any:
        """Return the plain data that lie there."""
        return json.loads(self.at(place).numpy().tobytes())


def _file_below(tensor: Tensor) -> tuple[int, str, int] | None:
    """The first byte, the path and the inode of the file that a tensor is mapped from; None if it is in memory."""
    address, size = tensor.data_ptr(), tensor.nbytes
    with suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            span, _, offset, _, inode, *path = line.rstrip("\n").split(maxsplit=5)
            first, end = (int(bound, 16) for bound in span.split("-"))
            if first <= address < end:
                whole = path and size > 0 and address + size <= end and os.stat(path[0]).st_ino == int(inode)
                return (int(offset, 16) + address - first, path[0], int(inode)) if whole else None
    return None
