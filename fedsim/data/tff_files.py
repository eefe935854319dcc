"""The HDF5 files of TensorFlow Federated, with nothing in them taken on trust."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fedsim.errors import UserError
from fedsim.extras import install_hint

FILES = ("shakespeare_train.h5", "shakespeare_test.h5")
"""``examples/CLIENT/snippets`` in each: one dimension of strings, the speeches of a role in the order of the play."""

_BUILT_IN_FILTERS = range(1, 7)
_DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)
"""What h5py raises on files that are none, or damaged."""


def read_snippets(file: Path, path: str) -> dict[str, list[str]]:
    """Return the speeches of each client, each byte a character; see `read_strings`.

    Raises:
        UserError: if h5py is not installed, or the file is not as TensorFlow Federated writes it.
    """
    clients = {name: [one.decode("latin-1") for one in own] for name, own in read_strings(file, path, "snippets")}
    if not any(clients.values()):
        raise UserError(f"data.path={path}: {file} has no snippets")
    return clients


def count_clients(file: Path, path: str) -> int:
    """Return how many clients a file has.

    Raises:
        UserError: as `read_strings`.
    """
    with _opened(file, path, "tokens") as (h5py, opened):
        return len(_own(opened, "examples", h5py.Group, h5py))


def read_strings(
    file: Path, path: str, field: str, step: int = 1, most: int | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the name of each client and its strings, ``examples/CLIENT/FIELD``.

    Links to elsewhere, data in other files, references and filters that HDF5 would load from outside are refused, and
    so is a file that declares more than it can hold.

    Args:
        file: of TensorFlow Federated.
        path: ``data.path`` as the user wrote it, for messages.
        field: the name of the strings.
        step: how many strings are read at a time. Their lengths are known only after reading, so a damaged file may
            take as many times its own size of memory before it is refused.
        most: how many strings of a client are read, the first of them; None means all.

    Raises:
        UserError: if h5py is not installed, or the file is not as TensorFlow Federated writes it.
    """
    left = _size(file)
    with _opened(file, path, field) as (h5py, opened):
        examples = _own(opened, "examples", h5py.Group, h5py)
        for name in examples:
            strings = _own(_own(examples, name, h5py.Group, h5py), field, h5py.Dataset, h5py)
            _check(strings, left, h5py)
            found: list[bytes] = []
            stop = len(strings) if most is None else min(most, len(strings))
            for first in range(0, stop, step):
                found += map(bytes, strings[first : min(first + step, stop)])
                left -= sum(map(len, found[first:]))
                if left < 0:
                    raise ValueError(f"its {field} are longer than the file")
            yield name, found


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # which opening it reports


@contextmanager
def _opened(file: Path, path: str, field: str) -> Iterator[tuple[Any, Any]]:
    """Give h5py and the open file; what either raises becomes a line about the file."""
    try:
        h5py = import_module("h5py")  # by name, because it is optional and has no annotations
    except ImportError:
        raise UserError(f"data.path={path}: {file} needs h5py; {install_hint('hdf5')}") from None
    try:
        with h5py.File(file, "r") as opened:
            yield h5py, opened
    except _DAMAGED as error:
        reason = str(error).strip("'\"").splitlines() or [type(error).__name__]
        raise UserError(
            f"data.path={path}: {file} is not one of TensorFlow Federated's files, with examples/CLIENT/{field} "
            f"({reason[0]})"
        ) from error


def _own(group: Any, name: str, kind: type, h5py: Any) -> Any:
    """Return a member of a group that is really in this file."""
    link = group.get(name, getlink=True)
    if link is None:
        raise KeyError(f"{group.name} has no {name}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} in {group.name} is a link to elsewhere")
    found = group[name]
    if not isinstance(found, kind):
        raise ValueError(f"{name} in {group.name} is not a {kind.__name__.lower()}")
    return found


def _check(strings: Any, size: int, h5py: Any) -> None:
    """Require strings that can be in a file of this size, before any is read."""
    name, dtype = strings.name, strings.dtype
    if h5py.check_string_dtype(dtype) is None or strings.ndim != 1:
        raise ValueError(f"{name} is not one dimension of strings")
    if strings.is_virtual or strings.external:
        raise ValueError(f"{name} is stored in another file")
    stored = strings.id.get_create_plist()
    if any(stored.get_filter(k)[0] not in _BUILT_IN_FILTERS for k in range(stored.get_nfilters())):
        raise ValueError(f"{name} is compressed by a filter that is not part of HDF5")
    declared = max(len(strings), *(strings.chunks or (0,)))
    if declared * dtype.itemsize > size:
        raise ValueError(f"{name} declares {declared:,} strings, which is more than the file can hold")
