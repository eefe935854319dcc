"""Whose rows are whose: the series of a table, their names, and the clients that own them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.table_columns import Layout, refuse
from fedsim.data.table_rows import Rows

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Ints: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True)
class Series:
    """The series of all files.

    Attributes:
        codes: ``[R]`` number of each row's series.
        names: N names of the series, in the order of their first appearance.
        owners: for each series, the name of its client; equal to `names` unless sequences are samples.
        natural: whether the files say which rows are whose.
    """

    codes: Ints
    names: list[str]
    owners: list[str]
    natural: bool


def find_series(parts: list[Rows], paths: Sequence[Path], layout: Layout, place: Callable[[int], str]) -> Series:
    """Number the series of all rows.

    Raises:
        UserError: if a cell that names a client or a sequence is empty.
    """
    import pandas as pd

    count = len(parts[0].clients)
    keys = [np.concatenate([part.clients[k] for part in parts]) for k in range(count)]
    columns = [*layout.client, *layout.sequence][:count]
    for name, key in zip(columns, keys, strict=False):  # the names of series in columns and rows are never missing
        if (missing := pd.isna(key)).any():
            what = "client" if name in layout.client else "sequence"
            refuse(layout, f"{place(int(missing.argmax()))}, column {name!r}: the {what} is missing")
    sequences = count - len(layout.client) if parts[0].sequences else 0
    if not layout.client and not parts[0].named:  # each of several files is a client
        names, sizes = file_names(paths), [len(part.values) for part in parts]
        if not keys:
            return Series(np.repeat(np.arange(len(parts)), sizes), names, names, len(parts) > 1)
        if len(parts) > 1:
            keys = [np.repeat(np.array(names, object), sizes), *keys]
    frame = pd.DataFrame(dict(enumerate(keys)))
    codes = np.asarray(frame.groupby([*frame.columns], sort=False).ngroup(), np.int64)
    found = frame.drop_duplicates()
    own = len(keys) - sequences
    return Series(codes, _joined(found), _joined(found.iloc[:, :own]) if own else ["all"] * len(found), own > 0)


def _joined(frame: pd.DataFrame) -> list[str]:
    """A name for each row of a frame of words: the same for equal rows, another for others."""
    rows = [*frame.itertuples(index=False, name=None)]
    names = {row: "/".join(map(str, row)) for row in rows}
    unique = len({*names.values()}) == len(names)
    return [names[row] if unique else str(row) for row in rows]


def file_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, or its place below their common folder where stems are not unique."""
    stems = [stem(path.name) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return [path.absolute().relative_to(common).as_posix() for path in paths]


def stem(name: str) -> str:
    """A file's name without ``.gz`` and its ending."""
    name = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    return name.rpartition(".")[0] or name
