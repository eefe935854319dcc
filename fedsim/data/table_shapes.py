"""Other shapes of tables, made into rows of time steps: a series per column, a series per row; and rows left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedsim.data.table_columns import Layout, refuse, strings
from fedsim.data.table_frame import Done, File
from fedsim.data.table_rows import Rows, extract, require
from fedsim.data.table_time import Times


def series_name(shared: tuple[str, ...]) -> str:
    """What the values of a series are called where no column names them: ``value``, if that is not taken."""
    name = "value"
    while name in shared:
        name += "_"
    return name


def chosen(file: File, layout: Layout) -> File:
    """Leave out the rows that do not have one of the wanted cells in each column of `layout.where`.

    Cells are compared as text without blanks at their ends, and as numbers where both are.
    """
    import pandas as pd

    keep = np.ones(len(file.frame), bool)
    for name, wanted in layout.where:
        require(file, "where", [name], layout)
        codes, distinct = pd.factorize(strings(file.frame[name]))
        numbers = {number for word in wanted if (number := _number(word)) is not None}
        fits = [text.strip() in wanted or _number(text) in numbers for text in distinct]
        keep &= np.array(fits, bool)[codes]
    if keep.all():
        return file
    text = "COUNT rows of FILES are left out (data.where)"
    return file.only(np.flatnonzero(keep), notes=(Done(text, file.name, int((~keep).sum())),))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def series_of_columns(file: File, layout: Layout) -> Rows:
    """Take each numeric column that is not shared as the series of one client.

    Returns:
        rows of ``value`` and the shared columns: the first series from its first row to its last, then the next.
    """
    features = None if layout.features is None else (*layout.features, *layout.shared)
    rows = extract(file, replace(layout, targets=(), features=features))
    shared = [rows.names.index(name) for name in layout.shared]
    series = [k for k in range(len(rows.names)) if k not in shared]
    if not series:
        refuse(layout, f"{file.name} has no numeric column but those of data.shared_columns")
    count, length = len(series), len(rows.values)
    values = np.empty((count * length, 1 + len(shared)))
    values[:, 0] = rows.values[:, series].T.reshape(-1)
    for k, column in enumerate(shared, 1):
        values[:, k] = np.tile(rows.values[:, column], count)
    names = np.repeat(np.array([rows.names[k] for k in series], object), length)

    def again(times: Times) -> Times:
        return np.tile(times, count)

    return replace(
        rows,
        file=rows.file.only(np.tile(np.arange(length), count), rows.file.frame),
        names=(series_name(layout.shared), *layout.shared),
        values=values,
        clients=[*(np.tile(words, count) for words in rows.clients), names],
        times=None if rows.times is None else again(rows.times),
        words=[np.tile(words, count) for words in rows.words],
        aside={name: (again(times), iso) for name, (times, iso) in rows.aside.items()},
        named=True,
    )


def series_of_rows(file: File, layout: Layout, before: set[tuple[object, ...]]) -> Rows:
    """Take each row as one series: its numeric columns, but for client and target, are the time steps.

    Empty cells at the end of a row are the end of its series.

    Args:
        file: a row per series.
        layout: of the table.
        before: the clients of earlier files, to which those of this one are added if the task is forecast.
    """
    forecast = layout.keep_targets
    rows = extract(file, replace(layout, targets=() if forecast else layout.targets, keep_targets=False))
    steps = len(rows.names)
    present = ~np.isnan(rows.values[:, :steps])
    lengths = np.where(present.any(1), steps - present[:, ::-1].argmax(1), 0)
    inside = np.arange(steps) < lengths[:, None]
    of = np.repeat(np.arange(len(lengths)), lengths)  # the row of each value
    values = np.column_stack([rows.values[:, :steps][inside], rows.values[of, steps:]])
    notes = [*rows.notes]
    if short := int((lengths < steps).sum()):
        notes.append(Done("COUNT rows of FILES end early: empty cells at their ends are no values", file.name, short))
    places = np.array([file.place(k) for k in range(len(lengths))], object)
    clients = [words[of] for words in rows.clients]
    if not forecast or not layout.client:
        clients.append(places[of])
    else:
        for k, client in enumerate(zip(*rows.clients, strict=True)):
            if client in before:
                name = "/".join(map(str, client))
                refuse(layout, f"{places[k]}: client {name!r} has a row already, and each row is a series of its own")
            before.add(client)
    return replace(
        rows,
        file=rows.file.only(of, rows.file.frame),
        names=(series_name(()),),
        values=values,
        labels=None if rows.labels is None else rows.labels[of],
        clients=clients,
        words=[words[of] for words in rows.words],
        aside={},
        notes=notes,
        named=forecast,
        sequences=not forecast,
    )
