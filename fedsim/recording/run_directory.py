"""The files of a run: CSV rows flushed as they are made, and small files that appear whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from fedsim.errors import UserError

FORMAT_VERSION = 1

Cell = int | float | str | None


def refuse_used(directory: Path, key: str) -> None:
    """Raise `UserError` if `directory`, chosen by config key `key`, already holds a run or cannot hold one."""
    for name in ("metrics.csv", "config.yaml"):
        if (directory / name).exists():
            raise UserError(f"{key}={directory}: already holds a run ({name}); choose another directory")
    for parent in (directory, *directory.parents):
        if parent.exists() and not parent.is_dir():
            raise UserError(f"{key}={directory}: {parent} is a file")
        if parent.exists() and not os.access(parent, os.W_OK):
            raise UserError(f"{key}={directory}: {parent} cannot be written to")
        if parent.exists():
            return


def format_cell(value: Cell) -> str:
    """Write integers as integers, floats in full (the shortest text that reads back the same), None as empty."""
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


class CsvWriter:
    """Appends rows to a CSV; each row reaches the operating system before the next is made."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._file: TextIO = path.open("x", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(self._columns)
        self._file.flush()

    def write(self, row: Mapping[str, Cell]) -> None:
        """Write one row; raises `ValueError` if its keys are not the columns."""
        if set(row) != set(self._columns):
            raise ValueError(f"row {sorted(row)} does not have the columns {sorted(self._columns)}")
        self._writer.writerow([format_cell(row[name]) for name in self._columns])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it: a reader sees the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; numbers that are not finite become null, as JSON has none."""
    write_atomically(path, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(child) for key, child in value.items()}
    return [_finite(child) for child in value] if isinstance(value, list | tuple) else value


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a whole CSV atomically; NaN becomes an empty cell."""
    lines = [",".join(columns)]
    for row in rows:
        cells = [format_cell(None if isinstance(value, float) and value != value else value) for value in row]
        lines.append(",".join(f'"{c.replace(chr(34), chr(34) * 2)}"' if set(c) & set(',"\n') else c for c in cells))
    write_atomically(path, ("\n".join(lines) + "\n").encode())
