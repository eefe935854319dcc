"""The scale of a table's columns: fitted to training rows, or taken from the data of a saved model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedsim.data.fitted import Column, Fitted, Scaling, arrays, columns
from fedsim.data.table_frame import shorten
from fedsim.data.tables import Table
from fedsim.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Scales(NamedTuple):
    """Shift and scale of every column, ``[G, M]``: of all clients together (G = 1), or of each."""

    shift: Floats
    scale: Floats


def fit_scales(table: Table, ends: Ints, how: str, fitted: Fitted | None, notes: list[str]) -> Scales:
    """Fit the scale of a table's columns, or take that of other data.

    Args:
        table: the rows.
        ends: ``[N]``, the row behind each client's last training row.
        how: ``global``, ``client`` or ``none``.
        fitted: the scaling of other data, or None.
        notes: where a line is added for clients of which that knows nothing.

    Raises:
        UserError: if the table has a column of which `fitted` knows nothing.
    """
    clients, width = len(table.sizes), table.values.shape[1]
    if how == "none":
        return Scales(np.zeros((1, width)), np.ones((1, width)))
    if fitted is not None and fitted.scaling.features and how == "global":
        shift, scale = arrays(_in_order(table, fitted.scaling))
        return Scales(shift[None], scale[None])
    owner = np.repeat(np.arange(clients), table.sizes)
    training = np.arange(len(table.values)) < ends[owner]
    scales = Scales(*moments(table.values, owner if how == "client" else np.zeros_like(owner), training))
    if fitted is not None and fitted.clients:
        known = dict(fitted.clients)
        for k, name in enumerate(table.clients):
            if name in known:
                scales.shift[k], scales.scale[k] = arrays(_in_order(table, known[name]))
        if new := [name for name in table.clients if name not in known]:
            notes.append(
                f"{len(new)} of {clients} clients are not among those of the model's data, and are scaled by their own "
                f"training rows (data.scale=client): {shorten(new)}"
            )
    return scales


def scaled(table: Table, scales: Scales, how: str) -> NDArray[np.float32]:
    """Return ``[R, M]``, what the model sees.

    Raises:
        UserError: if a number does not fit 32 bits.
    """
    values = table.values
    with np.errstate(over="ignore"):  # looked for below
        if how != "none":
            owner = np.repeat(np.arange(len(table.sizes)), table.sizes) if len(scales.shift) > 1 else np.zeros(1, int)
            values = (values - scales.shift[owner]) / scales.scale[owner]
        small = values.astype(np.float32)
    if not np.isfinite(small).all():
        name = table.columns[int((~np.isfinite(small)).any(0).argmax())]
        raise UserError(
            f"data.scale={how}: column {name!r} hardly varies in the training rows, and its other rows are too far "
            "from them for 32 bits; leave it out of data.feature_columns"
        )
    return small


def record(table: Table, scales: Scales, kept: Ints, targets: tuple[str, ...], labels: tuple[str, ...]) -> Fitted:
    """Return what another table must be prepared with to meet a model of this one.

    Args:
        table: the rows.
        scales: of its columns.
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
    own = tuple((table.clients[k], scaling(scales.shift[k], scales.scale[k])) for k in kept.tolist())
    width = len(table.columns)
    return Fitted(scaling(np.zeros(width), np.ones(width)), clients=own, labels=labels)


def moments(values: Floats, groups: Ints, training: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each group's columns over its training rows.

    A column that is constant there has deviation 1, and a group without training rows mean 0 and deviation 1.

    Args:
        values: ``[R, M]``.
        groups: ``[R]`` ascending, from 0.
        training: ``[R]``, which rows count.

    Returns:
        Means and deviations, each ``[G, M]``.
    """
    x, owner = values[training], groups[training]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    count = np.diff(np.append(first, len(owner)))[:, None]
    shape = (int(groups[-1]) + 1, values.shape[1])
    mean, deviation = np.zeros(shape), np.ones(shape)
    present = owner[first]
    mean[present] = np.add.reduceat(x, first) / count
    spread = np.sqrt(np.add.reduceat((x - mean[owner]) ** 2, first) / count)
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
