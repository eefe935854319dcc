"""Columns of words as features: one for each word, 1 in the rows that have it and 0 in the others."""

from __future__ import annotations

import numpy as np

from fedsim.data.table_columns import Floats, Layout, refuse
from fedsim.data.table_frame import shorten
from fedsim.data.table_rows import Rows

MOST = 1000
"""Words that a column may have at most: one with more holds names or texts, not categories."""


def find_words(parts: list[Rows], layout: Layout) -> dict[str, list[str]]:
    """The words of each column of categories in all files, or those that a model knows; an empty cell is none.

    Raises:
        UserError: if a column has too many words, or none.
    """
    found = {}
    for k, column in enumerate(layout.categories):
        if layout.model:
            known = [name.removeprefix(f"{column}=") for name in layout.model if name.startswith(f"{column}=")]
            found[column] = known
            continue
        words = sorted({word for part in parts for word in {*part.words[k]} if word is not None})
        if not 0 < len(words) <= MOST:
            refuse(layout, f"column {column!r} of data.categories has {len(words):,} words, not 1 to {MOST:,}")
        found[column] = words
    names = [*parts[0].names, *category_names(found)]
    if len({*names}) < len(names):
        refuse(layout, f"data.categories would make a column {max(names, key=names.count)!r}, which there is already")
    return found


def category_names(words: dict[str, list[str]]) -> list[str]:
    """The names of the features that words become."""
    return [f"{column}={word}" for column in words for word in words[column]]


def with_categories(parts: list[Rows], words: dict[str, list[str]]) -> Floats:
    """The numbers of all files, with the features of words behind the others; missing where a cell is empty.

    Args:
        parts: what each file gives.
        words: of each column of categories.

    Returns:
        ``[R, M]`` the features, those of words last, then targets that are none.
    """
    values = np.concatenate([part.values for part in parts])
    if not words:
        return values
    numbers = len(parts[0].names)
    found = []
    for k, known in enumerate(words.values()):
        cells = np.concatenate([part.words[k] for part in parts])
        missing = np.array([cell is None for cell in cells], bool)
        found += [np.where(missing, np.nan, cells == word) for word in known]
    return np.column_stack([values[:, :numbers], *found, values[:, numbers:]])


def category_notes(words: dict[str, list[str]], parts: list[Rows]) -> list[str]:
    """What the words of each column have become, and how many cells have none of them."""
    notes = []
    for k, (column, found) in enumerate(words.items()):
        note = f"column {column!r}: a feature for each of its {len(found)} words (data.categories): {shorten(found, 5)}"
        cells = [word for part in parts for word in part.words[k] if word is not None]
        if new := [word for word in cells if word not in {*found}]:
            note += f"; {len(new):,} cells hold words that the model does not know: {shorten(dict.fromkeys(new), 5)}"
        notes.append(note)
    return notes
