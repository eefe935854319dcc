"""Missing values as inputs: what was seen, and how long ago (Che et al. 2018, GRU-simple)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.table_columns import Floats, Layout, refuse
from fedsim.data.table_frame import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ints: TypeAlias = "NDArray[np.int64]"
Flags: TypeAlias = "NDArray[np.bool_]"


@dataclass(frozen=True)
class Masked:
    """A table whose missing features are filled.

    Attributes:
        values: ``[R, M + 2 G]``: the features, two more for each of the G that have a missing value, and the other
            columns. Before a series' first value it is still NaN.
        columns: their names.
        num_features: how many of them are features.
        flags: the names of those that say whether a value was seen.
        notes: what was done.
    """

    values: Floats
    columns: list[str]
    num_features: int
    flags: list[str]
    notes: list[str]


def masked(values: Floats, columns: list[str], num_features: int, codes: Ints, clock: Floats, layout: Layout) -> Masked:
    """Carry each feature's last value on within its series, and say which values were seen.

    For a feature x with a missing value anywhere, or in a saved model's data, ``x_seen`` is 1 in the rows that have it,
    else 0, and ``x_since`` the time since the last earlier row that had it, or since the series began: the m and delta
    of Che et al. (2018), "Recurrent neural networks for multivariate time series with missing values", equation 2.

    Args:
        values: ``[R, M]``, NaN where missing, the features first.
        columns: their names.
        num_features: how many of them are features.
        codes: ``[R]`` ascending, the series of each row.
        clock: ``[R]`` its time, or its number.
        layout: of the table, for messages.
    """
    rows = np.arange(len(values))
    starts = np.diff(codes, prepend=-1) != 0
    begin = np.maximum.accumulate(np.where(starts, rows, 0))
    previous = np.where(starts, rows, rows - 1)
    features = values[:, :num_features].copy()
    added, names, flags, filled, notes = [], [], [], 0, []
    known = np.array([f"{name}_seen" in layout.model for name in columns[:num_features]], bool)
    for k in np.flatnonzero(np.isnan(features).any(0) | known):
        name, seen = columns[k], ~np.isnan(features[:, k])
        last = np.maximum.accumulate(np.where(seen, rows, begin))
        if layout.model and not known[k]:
            notes.append(
                f"{int((~seen).sum()):,} missing values of {name!r}, of which the model's data had none, are the last "
                "ones before them"
            )
            features[:, k] = features[last, k]
            continue
        added += [seen.astype(np.float64), clock - clock[last[previous]]]
        names += [f"{name}_seen", f"{name}_since"]
        flags.append(names[-2])
        filled += int((~seen).sum())
        features[:, k] = features[last, k]
    if clash := [name for name in names if name in columns]:
        refuse(layout, f"data.missing=mask would add a column {clash[0]!r}, which the files have already")
    if filled:
        notes.append(
            f"{filled:,} missing values are the last ones before them, else the training mean, as NAME_seen and "
            f"NAME_since say (data.missing=mask): {shorten([name.removesuffix('_seen') for name in flags])}"
        )
    return Masked(
        values=np.column_stack([features, *added, values[:, num_features:]]),
        columns=[*columns[:num_features], *names, *columns[num_features:]],
        num_features=num_features + len(names),
        flags=flags,
        notes=notes,
    )


def with_means(values: Floats, training: Flags, groups: NDArray[np.integer]) -> Floats:
    """Put the mean of the training rows, of their group if it has any, where a series has no value yet.

    Args:
        values: ``[R, M]``, NaN there.
        training: ``[R]``, the rows that training sees.
        groups: ``[R]``, numbers of rows that are scaled together.

    Returns:
        a copy; a column without any training value is 0 there.
    """
    values = np.array(values)
    for k in range(values.shape[1]):
        column = values[:, k]
        hole = np.isnan(column)
        known = training & ~hole
        if not hole.any():
            continue
        mean = float(column[known].mean()) if known.any() else 0.0
        count = np.bincount(groups[known], minlength=int(groups.max()) + 1)
        total = np.bincount(groups[known], column[known], minlength=len(count))
        means = np.where(count > 0, total / np.maximum(count, 1), mean)
        column[hole] = means[groups[hole]]
    return values


def target_known(absent: Flags, rows: Ints, first: int, last: int) -> Flags:
    """Which samples have all their targets.

    Args:
        absent: ``[R]``, rows without a target, or ``[0]`` if there are none.
        rows: ``[S]`` first row of each sample.
        first: how many rows after it its first target is.
        last: how many rows after it its last target is.
    """
    if not len(absent):
        return np.ones(len(rows), bool)
    before = np.concatenate([[0], np.cumsum(absent)])
    known: Flags = before[rows + last + 1] == before[rows + first]
    return known
