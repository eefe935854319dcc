"""The completed rounds of a run, read back from its CSV files."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fedsim.core import stopping
from fedsim.core.results import Metrics
from fedsim.errors import UserError
from fedsim.recording.run_directory import digest_of

# Longer ones are beyond any float.
_WHOLE = re.compile(r"-?[0-9]{1,300}")


def marked_content(path: Path, mark: object) -> bytes:
    """Return the part of ``metrics.csv`` that had been written when a checkpoint was saved.

    Args:
        path: the CSV file, which may have more rows by now.
        mark: what `CsvWriter.mark` returned.

    Raises:
        UserError: if the file does not begin with that part.
    """
    size, digest = (mark.get("size"), mark.get("digest")) if isinstance(mark, dict) else (None, None)
    if type(size) is not int or size < 1 or not path.is_file():
        raise UserError("it does not say to which metrics.csv it belongs" if path.is_file() else f"there is no {path}")
    with path.open("rb") as file:
        there = os.fstat(file.fileno()).st_size
        content = file.read(size) if size <= there else b""  # never as much memory as a stranger's number asks for
    if len(content) != size or digest_of(content).hexdigest() != digest:
        raise UserError(f"it belongs to another run, or {path} has changed")
    return content


def parse_rows(content: bytes, columns: Sequence[str], path: Path) -> list[Metrics]:
    """Return the rows of a ``metrics.csv``.

    Args:
        content: of the file, or a part of it.
        columns: those that it must have.
        path: the file, for messages.

    Raises:
        UserError: if it has other columns, or the same in another order, or is not what `read_rows` reads.
    """
    header = next(_lines(content, path), [])
    if header != list(columns):
        differing = sorted(set(header).symmetric_difference(columns)) or ["in another order"]
        raise UserError(f"metrics.csv would have other columns ({', '.join(differing)})")
    return read_rows(content, path)


def read_rows(content: bytes, path: Path) -> list[Metrics]:
    """Return the rows of a ``metrics.csv``, whatever its columns: one for each round from 0 on.

    Raises:
        UserError: if a cell is no number, or the rounds are others.
    """
    lines = _lines(content, path)
    header = next(lines, [])
    if "round" not in header or len(set(header)) < len(header):
        raise UserError(f"{path}: has no column of rounds, or two columns of one name")
    rows: list[Metrics] = []
    for line in lines:
        if len(line) != len(header):
            raise UserError(f"{path}, line {len(rows) + 2}: has {len(line)} cells, and there are {len(header)} columns")
        row = {
            name: _number(cell, f"{path}, line {len(rows) + 2}, {name}")
            for name, cell in zip(header, line, strict=True)
        }
        if row["round"] != len(rows) or not isinstance(row["round"], int):
            raise UserError(f"{path}, line {len(rows) + 2}: is of round {line[header.index('round')]}, not {len(rows)}")
        rows.append(row)
    return rows


def _lines(content: bytes, path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(content.decode().splitlines(), strict=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a CSV file ({error})") from None


def _number(cell: str, where: str) -> int | float | None:
    if not cell:
        return None
    if _WHOLE.fullmatch(cell):
        return int(cell)  # whole numbers stay whole
    with suppress(ValueError):
        if cell.isascii() and "_" not in cell:
            return float(cell)
    raise UserError(f"{where}: {cell[:40]!r} is not a number")


def replay(progress: stopping.Progress, stop: stopping.Stop, rows: Sequence[Metrics]) -> stopping.Progress:
    """Update `progress` with `rows` and return it; its `reason` is set if the run should stop.

    The rows determine the best round, so that `stop` may change from one resume to the next.
    """
    for row in rows:
        value = row[progress.metric]
        if value is not None and not progress.reason:
            progress.update(stop, int(row["round"] or 0), float(value))
    return progress


def timing_size(path: Path, columns: Sequence[str], rounds: int) -> tuple[int | None, float]:
    """Return how many bytes of a ``timing.csv`` cover the rounds up to `rounds`, and how many seconds these took.

    The number of bytes is None if there is no file, and 0 if its columns are not `columns`.
    """
    if not path.is_file():
        return None, 0.0
    size, seconds = 0, 0.0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            cells = line.decode(errors="replace").rstrip("\n").split(",")
            whole = line.endswith(b"\n") and len(cells) == len(columns)
            if not whole or (number == 0 and cells != list(columns)):
                break
            if number > 0:
                if not _WHOLE.fullmatch(cells[0]) or int(cells[0]) > rounds:
                    break
                try:
                    elapsed = float(cells[-1])
                except ValueError:
                    break
                if not 0 <= elapsed < float("inf"):
                    break
                seconds = elapsed
            size += len(line)
    return size, seconds
