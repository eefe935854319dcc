"""The columns of one file that a layout names: numbers, labels, clients and times, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedsim.data.table_columns import Floats, Layout, as_numbers, as_texts, loose_cells
from fedsim.data.table_frame import Done, File, shorten
from fedsim.data.table_looks import moments
from fedsim.data.table_time import Times, as_times
from fedsim.errors import UserError, did_you_mean


@dataclass
class Rows:
    """What one file gives, row by row in its order."""

    file: File
    names: tuple[str, ...]  # of the features
    values: Floats
    labels: NDArray[np.object_] | None
    clients: list[NDArray[np.object_]]
    times: Times | None
    aside: dict[str, tuple[Times, bool]]  # columns that are left out but read as times
    notes: list[Done] = field(default_factory=list)


def words_of(layout: Layout) -> set[str]:
    """Columns read as words, not as numbers: client 007 is not client 7, and 0105 may be a fifth of January."""
    texts = layout.time if layout.time_format or len(layout.time) > 1 else ()
    return {*layout.client, *(layout.targets if layout.labels else ()), *texts}


def numeric_columns(features: Sequence[str], layout: Layout) -> list[str]:
    """All columns that are numbers: the features, then the targets that are none."""
    return [*features, *(name for name in layout.targets if not layout.labels and name not in features)]


def names_but_targets(columns: Sequence[str], layout: Layout) -> list[str]:
    """The features that are no targets."""
    return [name for name in columns if name not in layout.targets]


def places_but_targets(columns: Sequence[str], layout: Layout) -> list[int]:
    """Where those are among the columns."""
    return [k for k, name in enumerate(columns) if name not in layout.targets]


def extract(file: File, layout: Layout) -> Rows:
    """Take the columns that the layout names out of a file."""
    frame = file.frame
    wanted = {"client_column": layout.client, "time_column": layout.time, "target_column": layout.targets}
    for key, keyed in (wanted | {"feature_columns": layout.features or ()}).items():
        for name in keyed:
            if name not in frame.columns:
                raise UserError(
                    f"data.{key}={name}: {file.name} has no such column{_near(name, frame.columns)}; it has "
                    f"{shorten(frame.columns)}{file.hint}"
                )
    notes = [*file.notes]
    numbers: dict[str, Floats] = {}
    if layout.features is None:
        aside = {*layout.client, *layout.time, *(() if layout.keep_targets else layout.targets)}
        texts = []
        for name in frame.columns:
            if name not in aside:
                column = as_numbers(file, name, layout, or_text=True)
                texts.extend([name] if column is None else [])
                numbers |= {} if column is None else {name: column}
        if texts:
            text = f"columns without a number are left out (data.feature_columns): {shorten(texts)}"
            notes.append(Done(text, file.name))
        if not numbers:
            raise UserError(f"data.path={layout.path}: {file.name} has no numeric column to take as a feature")
    names = layout.features or tuple(numbers)
    for name in numeric_columns(names, layout):
        if name not in numbers:
            column = as_numbers(file, name, layout)
            assert column is not None
            numbers[name] = column
    words = [*layout.client, *(layout.targets if layout.labels else ())]
    for name in words:
        if loose := loose_cells(frame[name]):
            text = f"blanks at the ends of COUNT cells of column {name!r} are left out, so 'A ' is 'A'"
            notes.append(Done(text, file.name, loose))
    found = {
        str(name): moments(frame[name])
        for name in frame.columns
        if not layout.time and name not in {*numbers, *words} and frame[name].dtype.kind not in "biufc"
    }
    return Rows(
        file=replace(file, frame=frame.iloc[:0]),  # all that is needed of it is copied
        names=names,
        values=np.column_stack([numbers[name] for name in numeric_columns(names, layout)]),
        labels=as_texts(frame[layout.targets[0]]) if layout.labels else None,
        clients=[as_texts(frame[name]) for name in layout.client],
        times=as_times(file, layout) if layout.time else None,
        aside={name: times for name, times in found.items() if times is not None},
        notes=notes,
    )


def _near(name: str, columns: Iterable[str]) -> str:
    """A hint at the column that was probably meant."""
    same = [column for column in columns if column.casefold() == name.casefold()]
    return did_you_mean(same[0], same) if same else did_you_mean(name, columns)
