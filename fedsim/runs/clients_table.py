"""``clients.csv``, every client's size and scores, and how they spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.core.results import Evaluation
from fedsim.data.population import Population

if TYPE_CHECKING:
    from numpy.typing import NDArray


def clients_table(population: Population, evaluation: Evaluation) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """Return the header and the rows: the clients that train, then those that never do.

    With unseen clients, the column ``seen`` is 1 for those that train, and no row has scores of the other kind. Where
    the data know to which group of alike clients each belongs, the column ``group`` says it.
    """
    unseen = population.unseen
    scores = list(dict.fromkeys([*evaluation.clients, *evaluation.unseen]))
    grouped = all(part.groups is not None for part in (population, unseen) if part is not None)
    about = ("client", "name", *(() if unseen is None else ("seen",)), "train_samples", "test_samples")
    header = (*about, *(("group",) if grouped else ()), *scores)
    kinds = [(1, population, evaluation.clients)]
    if unseen is not None:
        kinds.append((0, unseen, evaluation.unseen))

    def rows() -> Iterator[tuple[Any, ...]]:
        number = 0
        for seen, clients, found in kinds:
            columns: list[list[float | int | None]] = [_cells(name, found, clients.num_clients) for name in scores]
            if grouped and clients.groups is not None:
                columns.insert(0, clients.groups.tolist())
            sizes = zip(clients.client_names, clients.train.sizes.tolist(), clients.test.sizes.tolist(), strict=True)
            for (name, train, test), cells in zip(sizes, zip(*columns, strict=True), strict=True):
                yield (number, name, *(() if unseen is None else (seen,)), train, test, *cells)
                number += 1

    return header, rows()


WHOLE = ("test_items", "participations")
"""Columns of whole numbers."""


def _cells(name: str, found: Mapping[str, NDArray[np.float64]], clients: int) -> list[float | int | None]:
    if name not in found:
        return [None] * clients
    return [int(value) for value in found[name]] if name in WHOLE else found[name].tolist()


BINS = 10
"""Bars of a histogram."""


def spread(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """How the clients' scores are distributed, by column of ``clients.csv``: percentiles and a histogram.

    Infinite scores and those of clients without samples are not counted; a column without scores is left out.
    """
    found = {}
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that is about to diverge
        for name, values in (evaluation.clients | evaluation.unseen).items():
            scores = values[np.isfinite(values)]
            if name == "test_items" or not len(scores):
                continue
            low, p10, p25, middle, p75, p90, high = np.percentile(scores, (0, 10, 25, 50, 75, 90, 100)).tolist()
            edges, counts = _histogram(scores)
            found[name] = {
                "clients": len(scores),
                **{"min": low, "p10": p10, "p25": p25, "median": middle, "p75": p75, "p90": p90, "max": high},
                "histogram": {"edges": edges, "clients": counts},
            }
    return found


def _histogram(scores: NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """Edges and counts of `BINS` equal bars, or of one where so many do not fit between the lowest and the highest."""
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high, BINS + 1)
    if not (np.diff(edges) > 0).all():  # equal scores, or scores near the ends of what a float can hold
        return [low, high], [len(scores)]
    return edges.tolist(), np.histogram(scores, edges)[0].tolist()
