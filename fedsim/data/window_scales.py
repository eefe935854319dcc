"""The scale of a table's columns: fitted to training rows, given, or taken from the data of a saved model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from fedsim.data.dataset import Pooled
from fedsim.data.fitted import Column, Fitted, Scaling, arrays, columns
from fedsim.data.table_frame import shorten
from fedsim.data.table_mask import with_means
from fedsim.data.tables import Table
from fedsim.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"
Ints: TypeAlias = "NDArray[np.int64]"
Flags: TypeAlias = "NDArray[np.bool_]"
GivenScales: TypeAlias = tuple[tuple[str, float, float], ...]
"""Columns with what is subtracted from each, and what it is then divided by."""


class Scales(NamedTuple):
    """Shift and scale of every column, ``[G, M]``: of all clients together (G = 1), or of each.

    `borrowed` says whether features without a value yet got a mean over several clients.
    """

    shift: Floats
    scale: Floats
    borrowed: bool = False


def scaled(
    values: Floats,
    owner: Ints,
    training: Flags,
    table: Table,
    clients: Sequence[str],
    how: str,
    given: GivenScales,
    fitted: Fitted | None,
    notes: list[str],
) -> tuple[NDArray[np.float32], Scales]:
    """Bring rows to the scale that the model sees: that of their training rows, one given, or that of other data.

    A value that is still missing, because nothing was seen before it, becomes the mean, or the given shift. Columns of
    zeros and ones (`Table.flags`) stay as they are.

    Args:
        values: ``[R, M]`` rows of the table's columns.
        owner: ``[R]`` ascending, the number of the client of each.
        training: ``[R]``, whether it trains.
        table: what the columns are.
        clients: the names of the clients.
        how: ``global``, ``client``, ``given`` or ``none``.
        given: the columns with shift and scale, for ``given``.
        fitted: how other data were scaled, or None.
        notes: where a line is added for clients of which that knows nothing.

    Returns:
        ``[R, M]``, and shift and scale of each column.

    Raises:
        UserError: if `fitted` or `given` knows nothing of a column, or a number does not fit 32 bits.
    """
    groups = owner if how == "client" else np.zeros(len(owner), np.int8)
    holes = np.isnan(values) if table.flags or len(table.absent) else None
    filled = values if holes is None else with_means(values, training, groups)
    scales = _fit(filled, groups, training, table, clients, how, given, fitted, notes)
    if holes is not None and (how == "given" or (fitted is not None and how != "none")):
        filled = np.where(holes, scales.shift[groups], values)
    elif holes is not None:
        borrowed = _borrows(holes[:, : table.num_features], training, owner, groups, table.natural)
        scales = scales._replace(borrowed=borrowed)
    with np.errstate(over="ignore"):  # looked for below
        if how != "none":
            at = groups if len(scales.shift) > 1 else np.zeros(1, np.int64)
            filled = (filled - scales.shift[at]) / scales.scale[at]
        small = filled.astype(np.float32)
    if not np.isfinite(small).all():
        name = table.columns[int((~np.isfinite(small)).any(0).argmax())]
        raise UserError(
            f"data.scale={how}: column {name!r} hardly varies in the training rows, and its other rows are too far "
            "from them for 32 bits; leave it out of data.feature_columns"
        )
    return small, scales


def _fit(
    values: Floats,
    groups: NDArray[np.integer],
    training: Flags,
    table: Table,
    clients: Sequence[str],
    how: str,
    given: GivenScales,
    fitted: Fitted | None,
    notes: list[str],
) -> Scales:
    """Fit shift and scale to the training rows of each group, or take those of other data."""
    width = values.shape[1]
    if how == "none":
        return Scales(np.zeros((1, width)), np.ones((1, width)))
    if how == "given":
        return Scales(*_as_given(table, given))
    if fitted is not None and fitted.scaling.features and how == "global":
        shift, scale = arrays(_in_order(table, fitted.scaling))
        return Scales(shift[None], scale[None])
    scales = Scales(*moments(values, groups, training, len(clients) if how == "client" else 1))
    flags = [table.columns.index(name) for name in table.flags]
    scales.shift[:, flags], scales.scale[:, flags] = 0, 1
    if fitted is not None and fitted.clients:
        known = dict(fitted.clients)
        for k, name in enumerate(clients):
            if name in known:
                scales.shift[k], scales.scale[k] = arrays(_in_order(table, known[name]))
        if new := [name for name in clients if name not in known]:
            notes.append(
                f"{len(new)} of {len(clients)} clients are not among those of the model's data, and are scaled by "
                f"their own training rows (data.scale=client): {shorten(new)}"
            )
    return scales


def _as_given(table: Table, given: GivenScales) -> tuple[Floats, Floats]:
    """Shift and scale ``[1, M]`` of every column, as `given`; 0 and 1 for columns of zeros and ones."""
    known = {name: (shift, scale) for name, shift, scale in given} | dict.fromkeys(table.flags, (0.0, 1.0))
    if unknown := [name for name in known if name not in table.columns]:
        raise UserError(
            f"data.scales: the table has no column {unknown[0]!r} that is read"
            f"{did_you_mean(unknown[0], table.columns)}; it has {shorten(table.columns)}"
        )
    if missing := [name for name in table.columns if name not in known]:
        raise UserError(f"data.scales: says nothing of {shorten(missing)}; give each column its shift and its scale")
    both = np.array([known[name] for name in table.columns], np.float64).reshape(-1, 2)
    return both[None, :, 0], both[None, :, 1]


def _borrows(holes: Flags, training: Flags, owner: Ints, groups: NDArray[np.integer], natural: bool) -> bool:
    """Whether a mean over several clients may stand in a hole ``[R, F]``: see `with_means`."""
    if not holes.any():
        return False
    if not natural or not np.array_equal(groups, owner):
        return not natural or len(np.unique(owner)) > 1
    seen = np.zeros((int(groups.max()) + 1, holes.shape[1]), np.int64)
    np.add.at(seen, groups[training], ~holes[training])
    return bool((holes & (seen == 0)[groups]).any())


def pooled(table: Table, scales: Scales, how: str, saved: bool, labels: tuple[str, ...]) -> tuple[Pooled, ...]:
    """Return what was learnt from the samples of all clients together.

    Args:
        table: what the columns are.
        scales: of the columns.
        how: ``global``, ``client``, ``given`` or ``none``.
        saved: whether scale and labels are those of a saved model's data.
        labels: of the classes, if labels are predicted.
    """
    found = []
    alone = "data.scale=none, or data.scale=given with data.scales"
    if how == "global" and saved:
        found.append(Pooled("the scale of the columns (that of the saved model)"))
    elif how == "global":
        way_out = f"take data.scale=client, {alone}" if table.natural else f"take {alone}"
        found.append(Pooled("the scale of the columns (data.scale=global)", way_out))
    elif how == "client" and not table.natural:
        found.append(Pooled("the scale of the columns (data.scale=client, of one series)", f"take {alone}"))
    if scales.borrowed:
        what = "the mean that stands for values before the first one that was seen (data.missing=mask)"
        found.append(Pooled(what, "take data.scale=given with data.scales, whose shifts stand for them"))
    if labels and not saved:
        found.append(Pooled("the list of classes"))
    return tuple(found)


def record(
    table: Table,
    clients: Sequence[str],
    scales: Scales,
    kept: Ints,
    targets: tuple[str, ...],
    labels: tuple[str, ...],
) -> Fitted:
    """Return what another table must be prepared with to meet a model of this one.

    Args:
        table: what the columns are.
        clients: the names of the clients.
        scales: of the columns.
        kept: numbers of the clients that take part.
        targets: the columns to predict, if they are numbers.
        labels: else their labels, in the order of their numbers.
    """
    at = [table.columns.index(name) for name in targets]

    def scaling(shift: Floats, scale: Floats) -> Scaling:
        every = columns(table.columns, shift, scale)
        return Scaling(every[: table.num_features], tuple(every[k] for k in at))

    if len(scales.shift) == 1:
        return Fitted(scaling(scales.shift[0], scales.scale[0]), labels=labels)
    own = tuple((clients[k], scaling(scales.shift[k], scales.scale[k])) for k in kept.tolist())
    width = len(table.columns)
    return Fitted(scaling(np.zeros(width), np.ones(width)), clients=own, labels=labels)


def moments(values: Floats, groups: NDArray[np.integer], training: Flags, count: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each group's columns over its training rows.

    A column that is constant there has deviation 1, and a group without training rows mean 0 and deviation 1.

    Args:
        values: ``[R, M]``.
        groups: ``[R]`` ascending, from 0.
        training: ``[R]``, which rows count.
        count: G, how many groups there are.

    Returns:
        Means and deviations, each ``[G, M]``.
    """
    x, owner = values[training], groups[training]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    number = np.diff(np.append(first, len(owner)))[:, None]
    shape = (count, values.shape[1])
    mean, deviation = np.zeros(shape), np.ones(shape)
    present = owner[first]
    mean[present] = np.add.reduceat(x, first) / number
    spread = np.sqrt(np.add.reduceat((x - mean[owner]) ** 2, first) / number)
    constant = np.maximum.reduceat(x, first) == np.minimum.reduceat(x, first)
    deviation[present] = np.where(constant | (spread == 0), 1, spread)
    return mean, deviation


def _in_order(table: Table, scaling: Scaling) -> list[Column]:
    """The columns of another table's scaling in the order of this one's."""
    features, targets = ({c.name: c for c in part} for part in (scaling.features, scaling.targets))
    try:
        return [features[name] if k < table.num_features else targets[name] for k, name in enumerate(table.columns)]
    except KeyError as error:
        raise UserError(
            f"data.feature_columns: column {error} is not among those that the model's data had: {shorten(features)}"
        ) from None
