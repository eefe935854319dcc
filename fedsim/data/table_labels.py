"""A table of labels: a row for each sequence, which names its label, and perhaps its client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedsim.data.table_clients import file_names
from fedsim.data.table_columns import Layout, as_texts
from fedsim.data.table_files import SUFFIXES, read_file
from fedsim.data.table_frame import Done, File, shorten
from fedsim.data.table_text import TextFormat
from fedsim.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Labels:
    """The table of labels.

    Attributes:
        file: its content, all columns as words.
        rows: the row of each sequence.
        by_file: whether each file is a sequence, named like it; else a column of the files names them.
        names: with `by_file`, what the files are called.
    """

    file: File
    rows: dict[str, int]
    by_file: bool
    names: dict[Path, str]


def read_labels(layout: Layout, files: Sequence[Path], first: File) -> Labels:
    """Read the table of labels.

    Args:
        layout: of the tables of rows.
        files: the tables of rows.
        first: the content of one of them.

    Raises:
        UserError: if it cannot be read, or names a sequence twice or none at all.
    """
    assert layout.label_table is not None
    path, (column,) = layout.label_table, layout.sequence
    text = TextFormat(separator=layout.text.separator, encoding=layout.text.encoding)
    file = read_file(Path(path).expanduser(), path, text, None, key="labels")
    if column not in file.frame.columns:
        raise UserError(
            f"data.sequence_column={column}: data.labels={path} has no such column"
            f"{did_you_mean(column, file.frame.columns)}; it has {shorten(file.frame.columns)}{file.hint}"
        )
    by_file = column not in first.frame.columns
    names = {path: without_suffix(name) for path, name in zip(files, file_names(files), strict=True)}
    known = {*names.values()}
    rows: dict[str, int] = {}
    for row, cell in enumerate(as_texts(file.frame[column])):
        if cell is None:
            raise UserError(f"data.labels={path}: {file.place(row)}, column {column!r}: the sequence is missing")
        name = _file_of(cell, known) if by_file else cell
        if name in rows:
            raise UserError(f"data.labels={path}: {file.place(row)} names {cell!r} again, as {file.place(rows[name])}")
        rows[name] = row
    if by_file and not known & {*rows}:
        raise UserError(
            f"data.labels={path}: no file of data.path={layout.path} is named in column {column!r}, nor do the files "
            f"have such a column; the files are {shorten(sorted(known), 3)}, the names {shorten(rows, 3)}"
        )
    return Labels(file, rows, by_file, names)


def without_suffix(name: str) -> str:
    """A file's name without the ending of a table, if it has one."""
    ending = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(ending)]


def _file_of(cell: str, known: set[str]) -> str:
    """The file that a cell names: with or without its ending, and the folders that it lies in."""
    place = without_suffix(cell.replace("\\", "/").removeprefix("./"))
    while place not in known and "/" in place:
        place = place.partition("/")[2]
    return place


def labelled(file: File, path: Path, labels: Labels, layout: Layout) -> File:
    """Give each row of a file what the table of labels says of its sequence; leave out sequences that it lacks.

    Only columns are taken that the settings name and the file does not have.
    """
    import pandas as pd

    column = layout.sequence[0]
    frame, table = file.frame, labels.file.frame
    if labels.by_file:
        frame = frame.assign(**{column: labels.names[path]})
    elif column not in frame.columns:
        return file  # refused later, as any column that is not there
    codes, distinct = pd.factorize(as_texts(frame[column]))  # -1 where it is missing
    at = np.array([labels.rows.get(str(name), -1) for name in distinct] + [-1], np.int64)[codes]
    wanted = [name for names in layout.keyed.values() for name in names] + [name for name, _ in layout.where]
    for name in dict.fromkeys(wanted):
        if name in table.columns and name not in frame.columns:
            frame = frame.assign(**{name: table[name].to_numpy(object)[at]})
    file = replace(file, frame=frame, sequence=labels.by_file)
    if (at >= 0).all():
        return file
    lost = len({*codes[at < 0]})
    text = f"COUNT sequences of FILES have no row in data.labels={layout.label_table}, and are left out"
    return file.only(np.flatnonzero(at >= 0), notes=(Done(text, file.name, lost),))
