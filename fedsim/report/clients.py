"""How differently the clients fared at the last evaluation, from ``clients.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.compare.clients import ABOUT_THE_CLIENT, read_clients
from fedsim.compare.groups import FINISHED, Group
from fedsim.compare.metric import unseen_column, way
from fedsim.compare.output import number
from fedsim.compare.reading import Run
from fedsim.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

HEADER = ("clients", "worst", "worst 10%", "median", "best 10%", "best")


@dataclass(frozen=True)
class Spread:
    """A table of the clients' scores.

    Attributes:
        header: of the columns.
        rows: a text per column, the first naming the group or the score.
        notes: sentences that are needed to read it.
    """

    header: tuple[str, ...]
    rows: list[list[str]]
    notes: list[str]


def spread(groups: Sequence[Group], labels: Sequence[str], metric: str, mode: str) -> Spread | None:
    """Return the table, or None if no run has a ``clients.csv`` with scores.

    A single group has a row for each score; several have one each, with the score that they are compared by, or the
    loss where clients have no such score, and another for clients that never train. Each number is a quantile over the
    clients of one run, averaged over seeds. Runs that have not come to their end do not count, unless there is only
    one.
    """
    alone = len(groups) == len(groups[0].runs) == 1
    read = [[_scores(run) if alone or run.status in FINISHED else None for run in group.runs] for group in groups]
    known = dict.fromkeys(name for tables in read for table in tables if table is not None for name in table.columns)
    if not known:
        return None
    if len(groups) == 1:
        ways = {name: low for name in known if (low := _better(groups[0].runs, name, metric, mode))}
        found = [(name, read[0], name, low) for name, low in ways.items()]
    else:
        score = metric if metric in known else "test_loss" if "test_loss" in known else next(iter(known))
        low = _better([run for group in groups for run in group.runs], score, metric, mode)
        unseen = unseen_column([run for group in groups for run in group.runs], score)
        found = [
            (label + (", unseen" if name == unseen else ""), tables, name, low)
            for label, tables in zip(labels, read, strict=True)
            for name in (score, *([unseen] if unseen else []))
            if low and (name == score or any(table is not None and name in table for table in tables))
        ]
    if not found:
        return None
    first = "score" if len(groups) == 1 else "setting"
    notes = [
        "of each client at the last evaluation, on its own test data",
        *(["unseen: clients that never train"] if any("unseen" in name for _, _, name, _ in found) else []),
        "a tenth of the clients are worse than “worst 10%”, and a tenth better than “best 10%”",
    ]
    if len(groups) > 1:
        notes.insert(0, found[0][2])
    if any(len(group.runs) > 1 for group in groups):
        notes.append("each number is the mean over seeds of one run's quantile over clients")
    rows = [[label, *_row(tables, score, low)] for label, tables, score, low in found]
    return Spread((first, *HEADER), rows, notes)


def _better(runs: Sequence[Run], name: str, metric: str, mode: str) -> str:
    """Which values of a score are better, ``min`` or ``max``; empty if that is not known."""
    if name == metric:
        return mode
    if name == unseen_column(runs, metric):
        return mode
    try:
        return way(runs, name, name)
    except UserError:
        return ""


def _scores(run: Run) -> pd.DataFrame | None:
    """The scores in a run's ``clients.csv``, a column each; None if it has none or cannot be read."""
    import pandas as pd

    try:
        table = read_clients(run)
    except UserError:
        return None
    kept = [
        name
        for name in table.columns
        if name not in ABOUT_THE_CLIENT and pd.api.types.is_numeric_dtype(table[name]) and table[name].notna().any()
    ]
    return table[kept] if kept else None


def _row(tables: Sequence[pd.DataFrame | None], score: str, mode: str) -> list[str]:
    """The number of clients that have a score, and quantiles from the worst to the best."""
    import pandas as pd

    columns = [table[score].dropna() for table in tables if table is not None and score in table.columns]
    if not columns:
        return ["-"] * len(HEADER)
    places = [0.0, 0.1, 0.5, 0.9, 1.0] if mode == "max" else [1.0, 0.9, 0.5, 0.1, 0.0]
    with np.errstate(invalid="ignore"):  # infinite scores
        means = pd.concat([values.quantile(places) for values in columns], axis=1).mean(axis=1)
    counts = sorted({len(values) for values in columns})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    missing = f" ({len(columns)} of {len(tables)} seeds)" if len(columns) < len(tables) else ""
    values = [float(means.loc[at]) for at in places]
    fractions = max(map(abs, values)) < 10 and not all(value.is_integer() for value in values)
    return [count + missing, *(number(value, 4 if fractions else None) for value in values)]
