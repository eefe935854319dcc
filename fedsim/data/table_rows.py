"""The columns of one file that a layout names: numbers, labels, clients and times, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.table_columns import Floats, Layout, as_numbers, as_texts, loose_cells
from fedsim.data.table_frame import Done, File, shorten
from fedsim.data.table_looks import moments
from fedsim.data.table_time import Times, as_times, is_elapsed
from fedsim.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    words: list[NDArray[np.object_]] = field(default_factory=list)  # of each column of categories
    named: bool = False  # whether `clients` names all series, so that files do not
    sequences: bool = False  # whether the last of `clients` names sequences, which are samples


def words_of(layout: Layout) -> set[str]:
    """Columns read as words, not as numbers: client 007 is not client 7, and 0105 may be a fifth of January."""
    texts = layout.time if layout.time_format or len(layout.time) > 1 else ()
    more = (*layout.sequence, *layout.measurements[:1], *layout.categories)
    return {*layout.client, *more, *(layout.targets if layout.labels else ()), *texts}


def numeric_columns(features: Sequence[str], layout: Layout) -> list[str]:
    """All columns that are numbers: the features, then the targets that are none."""
    return [*features, *(name for name in layout.targets if not layout.labels and name not in features)]


def targets_of(layout: Layout) -> list[str]:
    """The targets that are numbers."""
    return [] if layout.labels else [*layout.targets]


def names_but_targets(columns: Sequence[str], layout: Layout) -> list[str]:
    """The features that are no targets."""
    return [name for name in columns if name not in layout.targets]


def places_but_targets(columns: Sequence[str], layout: Layout) -> list[int]:
    """Where those are among the columns."""
    return [k for k, name in enumerate(columns) if name not in layout.targets]


def own_columns(names: Sequence[str], categories: Sequence[str], mask: bool) -> tuple[str, ...]:
    """Those of a model's features that stand in files, not made of words (``column=word``) or of what is missing.

    Args:
        names: of the features.
        categories: columns of words.
        mask: whether ``x_seen`` and ``x_since`` were made for missing values of x.
    """
    made = {name for name in names for column in categories if name.startswith(f"{column}=")}
    if mask:
        made |= {name for name in names for end in ("_seen", "_since") if name.removesuffix(end) in {*names} - {name}}
    return tuple(name for name in names if name not in made)


def extract(file: File, layout: Layout) -> Rows:
    """Take the columns that the layout names out of a file."""
    frame = file.frame
    for key, keyed in layout.keyed.items():
        require(file, key, keyed, layout)
    notes = [*file.notes]
    numbers: dict[str, Floats] = {}
    names_of_rows = (*layout.client, *layout.sequence)
    if layout.features is None:
        aside = {*names_of_rows, *layout.time, *layout.categories}
        aside |= {*(() if layout.keep_targets else layout.targets)}
        texts = []
        for name in frame.columns:
            if name not in aside:
                column = as_numbers(file, name, layout, or_text=True)
                texts.extend([name] if column is None else [])
                numbers |= {} if column is None else {name: column}
        if texts:
            text = f"columns without a number are left out (data.feature_columns): {shorten(texts)}"
            notes.append(Done(text, file.name))
        for name in layout.shared:
            as_numbers(file, name, layout)  # refuses one without a number
        if not numbers and not layout.categories:
            raise UserError(f"data.path={layout.path}: {file.name} has no numeric column to take as a feature")
    names = tuple(numbers) if layout.features is None else layout.features
    for name in numeric_columns(names, layout):
        if name not in numbers:
            column = as_numbers(file, name, layout)
            assert column is not None
            numbers[name] = column
    words = [*names_of_rows, *layout.categories, *(layout.targets if layout.labels else ())]
    for name in words:
        if loose := loose_cells(frame[name]):
            text = f"blanks at the ends of COUNT cells of column {name!r} are left out, so 'A ' is 'A'"
            notes.append(Done(text, file.name, loose))
    found = {
        str(name): moments(frame[name])
        for name in frame.columns
        if not layout.time
        and name not in {*numbers, *words}
        and layout.series_in != "rows"
        and frame[name].dtype.kind not in "biufc"
    }
    times = as_times(file, layout) if layout.time else None
    if times is not None and len(layout.time) == 1 and is_elapsed(frame[layout.time[0]], times):
        text = (
            f"{layout.time[0]!r} of FILES is read as elapsed hours:minutes (for times of day, data.time_format=%H:%M)"
        )
        notes.append(Done(text, file.name))
    return Rows(
        file=replace(file, frame=frame.iloc[:0]),  # all that is needed of it is copied
        names=names,
        values=np.column_stack([np.zeros((len(frame), 0)), *(numbers[n] for n in numeric_columns(names, layout))]),
        labels=as_texts(frame[layout.targets[0]]) if layout.labels and layout.targets else None,
        clients=[as_texts(frame[name]) for name in names_of_rows],
        times=times,
        aside={name: times for name, times in found.items() if times is not None},
        notes=notes,
        words=[as_texts(frame[name]) for name in layout.categories],
        named=file.sequence,
        sequences=bool(layout.sequence),
    )


def require(file: File, key: str, names: Iterable[str], layout: Layout) -> None:
    """Raise `UserError` for the first of the columns that a file does not have."""
    columns = file.frame.columns
    for name in names:
        if name not in columns:
            extra = f", nor has data.labels={layout.label_table}" if layout.label_table else ""
            raise UserError(
                f"data.{key}={name}: {file.name} has no such column{extra}{_near(name, columns)}; it has "
                f"{shorten(columns)}{file.hint}"
            )


def _near(name: str, columns: Iterable[str]) -> str:
    """A hint at the column that was probably meant."""
    same = [column for column in columns if column.casefold() == name.casefold()]
    return did_you_mean(same[0], same) if same else did_you_mean(name, columns)
