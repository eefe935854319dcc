"""The scores of the clients at the last evaluation, from ``clients.csv``."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.compare.measures import DIVERGED, stopped_short
from fedsim.compare.reading import DAMAGED, Run
from fedsim.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FILE = "clients.csv"
ABOUT_THE_CLIENT = (
    *("client", "name", "seen", "train_samples", "test_samples", "group", "test_items", "participations", "cluster"),
)
"""Columns that are no scores."""
_LARGEST = 64 * 2**20  # bytes: a million clients


@dataclass(frozen=True, eq=False)
class Scores:
    """One score of a run's clients.

    Attributes:
        names: ``[K]``, which client each is: its number and its name.
        items: ``[K]``, how many predictions stand behind its score.
        values: ``[K]``, the scores.
    """

    names: tuple[tuple[str, str], ...]
    items: NDArray[np.float64]
    values: NDArray[np.float64]


def read_clients(run: Run) -> pd.DataFrame:
    """Return a run's ``clients.csv`` as it is.

    Raises:
        UserError: if it has none, or one that cannot be used; the message does not name the run.
    """
    import pandas as pd

    path = run.path / FILE
    if run.status == DAMAGED:
        raise UserError(stopped_short(run))
    try:
        if not path.is_file():
            raise UserError(f"no {FILE}")
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{FILE}: larger than {_LARGEST >> 20} MiB")
        return pd.read_csv(io.StringIO(path.read_text(encoding="utf-8")), low_memory=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{FILE}: not a readable CSV") from error


def scores_of(run: Run, metric: str) -> Scores:
    """Return the clients' scores whose pooled value is the last one of `metric` in ``metrics.csv``.

    Raises:
        UserError: if there are none, or they do not give that value: then the metric is no mean over predictions, or
            the weights are not those of the file.
    """
    import pandas as pd

    if run.status == DIVERGED:
        raise UserError(stopped_short(run))
    table = read_clients(run)
    weight = "test_items" if "test_items" in table else "test_samples"
    for name in (metric, "client", weight):
        if name not in table or (name == metric and name in ABOUT_THE_CLIENT):
            scores = ", ".join(one for one in map(str, table) if one not in ABOUT_THE_CLIENT)
            more = f"; it has {scores}" if name == metric and scores else ""
            raise UserError(f"{FILE}: no column {name}{more}")
    numbers = table[[weight, metric]].apply(pd.to_numeric, errors="coerce")
    there = (numbers[metric].notna() & (numbers[weight] > 0)).to_numpy()
    items, values = (numbers[name].to_numpy(float)[there] for name in (weight, metric))
    names = table["name"] if "name" in table else table["client"]
    labels = tuple((str(a), str(b)) for a, b, use in zip(table["client"], names, there, strict=True) if use)
    if not (np.isfinite(items).all() and np.isfinite(values).all()):
        raise UserError(f"{FILE}: {metric} is not finite for every client")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        why = f"fewer than two clients have {metric}" if len(labels) < 2 else "a client is there twice"
        raise UserError(f"{FILE}: {why}")
    found = Scores(labels, items, values)
    last = run.columns.get(metric)
    if last is None or last.empty:
        raise UserError(f"no {metric} in metrics.csv")
    pooled, expected = pool(metric, items, values), float(last.iloc[-1])
    if not math.isclose(pooled, expected, rel_tol=1e-5, abs_tol=1e-9):
        raise UserError(
            f"{FILE}: {metric}, weighted by {weight}, is {pooled:.6g} over the clients, and metrics.csv "
            f"ends with {expected:.6g}: it is no mean over these"
        )
    return found


def is_root(metric: str) -> bool:
    """Whether a score is the root of a mean of squares, which are then what is pooled."""
    return "rmse" in metric.split("_")


def pool(metric: str, items: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """A score over all predictions of all clients: the mean of the clients', weighted by their predictions."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.average(values**2 if is_root(metric) else values, weights=items))
    return math.sqrt(mean) if is_root(metric) else mean
