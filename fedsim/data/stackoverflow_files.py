"""StackOverflow's sentences in the files of TensorFlow Federated and FedJAX."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from fedsim.data.binary_messages import BadMessageError, Extension, example_bytes, inflate, unpack
from fedsim.data.contents import Bomb
from fedsim.data.tff_files import count_clients, read_strings
from fedsim.errors import UserError

PARTS = ("train", "test")
_BYTES_ARRAY = 4
"""The extension type of FedJAX for arrays of bytes (``fedjax/core/serialization.py``)."""
_AT_A_TIME = 64

Clients = Iterator[tuple[str, list[bytes]]]


@dataclass(frozen=True)
class Source:
    """Files of one form.

    Attributes:
        form: what the files are, in words.
        files: that of training and that of testing, which may be the same.
        clients: yields the name of each client of a part of a file and its sentences, words separated by spaces; only
            the first so many sentences if a number is given.
        count: how many clients a part has.
    """

    form: str
    files: tuple[Path, Path]
    clients: Callable[[Path, str, str, int | None], Clients]
    count: Callable[[Path, str, str], int]


def find_source(path: str) -> Source:
    """Find the files that a path names.

    Args:
        path: ``stackoverflow.sqlite`` of TensorFlow Federated; or a folder that holds it, ``stackoverflow_train.h5``
            and ``stackoverflow_test.h5`` of TensorFlow Federated, or ``stackoverflow_train.sqlite`` and
            ``stackoverflow_test.sqlite`` of FedJAX.

    Raises:
        UserError: if there are none, or files of several forms.
    """
    place = Path(path).expanduser()
    if place.is_file():
        if place.suffix == ".lzma":
            raise UserError(f"data.path={path}: is packed; unpack it by xz --decompress --format=lzma {place.name}")
        if place.suffix == ".h5" or place.stem.endswith("_train"):
            raise UserError(f"data.path={path}: name the folder, which has the file of the other part, too")
        return Source("TensorFlow Federated's SQLite", (place, place), _tff_clients, _tff_count)
    whole = place / "stackoverflow.sqlite"
    pairs = {ending: tuple(place / f"stackoverflow_{part}.{ending}" for part in PARTS) for ending in ("h5", "sqlite")}
    found = [ending for ending, files in pairs.items() if all(file.is_file() for file in files)]
    found += ["whole"] if whole.is_file() else []
    if not found:
        raise UserError(
            f"data.path={path}: there is no file or folder of this name with stackoverflow.sqlite, or with "
            "stackoverflow_train and stackoverflow_test as .h5 (TensorFlow Federated) or .sqlite (FedJAX)"
        )
    if len(found) > 1:
        names = " and ".join({"h5": ".h5 files", "sqlite": "FedJAX' files", "whole": whole.name}[one] for one in found)
        raise UserError(f"data.path={path}: the folder has {names}; move what is not to be read elsewhere")
    train, test = pairs.get(found[0], (whole, whole))
    if found[0] == "h5":
        return Source("TensorFlow Federated's HDF5", (train, test), _hdf5_clients, _hdf5_count)
    if found[0] == "sqlite":
        return Source("FedJAX' SQLite", (train, test), _fedjax_clients, _fedjax_count)
    return Source("TensorFlow Federated's SQLite", (train, test), _tff_clients, _tff_count)


def _hdf5_clients(file: Path, part: str, path: str, most: int | None) -> Clients:
    return read_strings(file, path, "tokens", _AT_A_TIME, most)


def _hdf5_count(file: Path, part: str, path: str) -> int:
    return count_clients(file, path)


# ---------------------------------------------------------------------------------------------------------------------
# SQLite


@contextmanager
def _database(file: Path, path: str, tables: tuple[str, ...]) -> Iterator[sqlite3.Connection]:
    """Open a database to be read, and nothing else; texts come as bytes.

    Raises:
        UserError: if it is none, is damaged, or has no such tables, as what is called so may be a program.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.text_factory = bytes
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if missing := [table for table in tables if (table.encode(),) not in rows]:
                raise UserError(f"data.path={path}: {file} has no table {missing[0]!r}")
            yield connection
    except (sqlite3.Error, UnicodeError) as error:
        raise UserError(f"data.path={path}: {file} is no SQLite file of this kind, or is damaged ({error})") from None


def _name(value: Any, file: Path, path: str) -> str:
    try:
        return str(value, "utf-8")
    except (TypeError, UnicodeError):
        raise UserError(f"data.path={path}: {file}: the client {str(value)[:40]} is not a text") from None


def _tff_count(file: Path, part: str, path: str) -> int:
    with _database(file, path, ("client_metadata",)) as connection:
        query = "SELECT COUNT(*) FROM client_metadata WHERE split_name = ?"
        return int(connection.execute(query, (part,)).fetchone()[0])


def _tff_clients(file: Path, part: str, path: str, most: int | None) -> Clients:
    """A row per sentence: split, client, and a ``tf.train.Example`` with ``tokens`` among its features."""
    query = (
        "SELECT client_id, serialized_example_proto FROM examples WHERE split_name = ? "
        "ORDER BY client_id, rowid"  # in the order of the index that the file has
    )
    with _database(file, path, ("examples",)) as connection:
        for client, rows in groupby(connection.execute(query, (part,)), key=lambda row: row[0]):
            name = _name(client, file, path)
            own = islice(rows, most)
            yield name, [_read(example_bytes, row[1], "tokens", where=(path, file, name)) for row in own]


def _fedjax_count(file: Path, part: str, path: str) -> int:
    with _database(file, path, ("federated_data",)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM federated_data").fetchone()[0])


def _fedjax_clients(file: Path, part: str, path: str, most: int | None) -> Clients:
    """A row per client: its name, and a mapping in MessagePack, packed by zlib, of which ``tokens`` are an array."""
    with _database(file, path, ("federated_data",)) as connection:
        for client, data in connection.execute("SELECT client_id, data FROM federated_data ORDER BY rowid"):
            name = _name(client, file, path)
            yield name, _read(_fedjax_tokens, data, where=(path, file, name))[:most]


def _fedjax_tokens(data: bytes) -> list[bytes]:
    examples = unpack(inflate(data))
    tokens = examples.get(b"tokens") if isinstance(examples, dict) else None
    if not isinstance(tokens, Extension) or tokens.kind != _BYTES_ARRAY:
        raise BadMessageError("has no array of bytes called 'tokens'")
    array = unpack(tokens)
    if not isinstance(array, list) or len(array) != 2 or not isinstance(array[1], list):
        raise BadMessageError("has 'tokens' that are no array")
    shape: Any = array[0]
    values: list[bytes] = array[1]
    if shape != [len(values)] or not all(isinstance(value, bytes) for value in values):
        raise BadMessageError("has 'tokens' that are not one dimension of bytes")
    return values


def _read(reader: Callable[..., Any], data: Any, *arguments: str, where: tuple[str, Path, str]) -> Any:
    path, file, client = where
    try:
        if not isinstance(data, bytes):
            raise BadMessageError("is not bytes")
        return reader(data, *arguments)
    except (BadMessageError, Bomb) as error:
        raise UserError(f"data.path={path}: {file}: a record of the client {client!r} {error}") from None
