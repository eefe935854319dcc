"""Shakespeare's speeches in the HDF5 files of TensorFlow Federated, with nothing in them taken on trust."""

from __future__ import annotations

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
    """Return the speeches of each client, each byte a character.

    Links to elsewhere, data in other files, references and filters that HDF5 would load from outside are refused, and
    so is a file that declares more than it can hold.

    Args:
        file: one of the `FILES`.
        path: ``data.path`` as the user wrote it, for messages.

    Raises:
        UserError: if h5py is not installed, or the file is not as TensorFlow Federated writes it.
    """
    try:
        h5py = import_module("h5py")  # by name, because it is optional and has no annotations
    except ImportError:
        raise UserError(f"data.path={path}: {file} needs h5py; {install_hint('hdf5')}") from None
    where = f"data.path={path}: {file}"
    try:
        left = file.stat().st_size
        with h5py.File(file, "r") as opened:
            examples = _own(opened, "examples", h5py.Group, h5py)
            clients: dict[str, list[str]] = {}
            for name in examples:
                snippets = _own(_own(examples, name, h5py.Group, h5py), "snippets", h5py.Dataset, h5py)
                _check(snippets, left, h5py)
                clients[name] = []
                for place in range(len(snippets)):  # one by one: their lengths are known only after reading
                    snippet = bytes(snippets[place])
                    left -= len(snippet)
                    if left < 0:
                        raise ValueError("its snippets are longer than the file")
                    clients[name].append(snippet.decode("latin-1"))
    except _DAMAGED as error:
        reason = str(error).strip("'\"").splitlines() or [type(error).__name__]
        raise UserError(
            f"{where} is not one of TensorFlow Federated's files, with examples/CLIENT/snippets ({reason[0]})"
        ) from error
    if not any(clients.values()):
        raise UserError(f"{where} has no snippets")
    return clients


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


def _check(snippets: Any, size: int, h5py: Any) -> None:
    """Require strings that can be in a file of this size, before any is read."""
    name, dtype = snippets.name, snippets.dtype
    if h5py.check_string_dtype(dtype) is None or snippets.ndim != 1:
        raise ValueError(f"{name} is not one dimension of strings")
    if snippets.is_virtual or snippets.external:
        raise ValueError(f"{name} is stored in another file")
    stored = snippets.id.get_create_plist()
    if any(stored.get_filter(k)[0] not in _BUILT_IN_FILTERS for k in range(stored.get_nfilters())):
        raise ValueError(f"{name} is compressed by a filter that is not part of HDF5")
    declared = max(len(snippets), *(snippets.chunks or (0,)))
    if declared * dtype.itemsize > size:
        raise ValueError(f"{name} declares {declared:,} snippets, which is more than the file can hold")
