"""Graphs whose nodes are clients, and the weights with which neighbours average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim import seeding
from fedsim.errors import UserError, did_you_mean
from fedsim.machine import refuse_larger
from fedsim.topology.pairs import read_pairs

if TYPE_CHECKING:
    from torch import Tensor

Edge = tuple[int, int]
"""Two clients, the lower number first."""

GRAPHS = ("ring", "torus", "random_regular", "complete")
"""Graphs that need no file."""

SWITCHES = 10
"""How often each edge of a random graph is switched with another, on average."""

EDGE = 250
"""Bytes of an edge while a random graph is drawn, about."""

TRIES = 100
"""Random graphs that are tried until one is connected."""


def make_graph(graph: str, names: Sequence[str], degree: int, seed: int) -> list[Tensor]:
    """Return the neighbours of every client, ``[degree]`` int64 each, ascending.

    Args:
        graph: one of `GRAPHS`, or a CSV file of edges with the columns ``client`` and ``neighbour``, one edge per line.
        names: of the clients, by which a file calls them.
        degree: neighbours of each client in a random graph.
        seed: the run's seed.

    Raises:
        UserError: if there is no such graph with so many clients, or if it falls apart.
    """
    count = len(names)
    if count < 2:
        raise UserError(f"schedule.graph={graph}: needs two clients or more, and there is {count}")
    if graph == "complete":
        return complete(count)
    if graph == "random_regular":
        edges = random_regular(count, degree, seed)
    elif graph in GRAPHS:
        edges = {"ring": ring, "torus": torus}[graph](count)
    else:
        edges = edges_of_file(graph, names)
    return connected(graph, neighbours(edges, count), names)


def ring(count: int) -> set[Edge]:
    """Return the edges to the next client, the last one's to the first."""
    return {_edge(k, (k + 1) % count) for k in range(count)}


def torus(count: int) -> set[Edge]:
    """Return the edges to the right and down in a grid as near to a square as possible, whose sides are joined.

    Client k stands in row ``k // columns``. In a grid of two rows up and down are the same neighbour.
    """
    rows = next(rows for rows in range(int(count**0.5), 0, -1) if count % rows == 0)
    if rows == 1:
        raise UserError(
            f"schedule.graph=torus: {count} clients make no grid; take a number that is a product, or schedule.graph="
            "ring"
        )
    columns = count // rows
    right = {_edge(k, k // columns * columns + (k + 1) % columns) for k in range(count)}
    return right | {_edge(k, (k + columns) % count) for k in range(count)}


def complete(count: int) -> list[Tensor]:
    """Return all other clients, for every client."""
    refuse_larger(16 * count**2, "num_clients", count, "the neighbours in a complete graph", "take a sparser one")
    every = torch.arange(count)
    return [torch.cat([every[:k], every[k + 1 :]]) for k in range(count)]


def random_regular(count: int, degree: int, seed: int) -> set[Edge]:
    """Return the edges of a random connected graph in which every client has `degree` neighbours.

    Two edges a-b and c-d are drawn and become a-d and c-b, unless one of these is there, many times over: this walk
    among all graphs of the degree visits each equally often in the long run (Cooper, Dyer and Greenhill 2007).
    """
    if degree >= count or degree * count % 2:
        raise UserError(
            f"schedule.degree={degree}: there is no graph of {count} clients with so many neighbours each; it must be "
            f"less than {count}" + (", and even, as the number of clients is odd" if count % 2 else "")
        )
    refuse_larger(EDGE * count * degree // 2, "schedule.degree", degree, "the edges", "take a smaller degree")
    steps = {(k, (k + step) % count) for k in range(count) for step in range(1, degree // 2 + 1)}
    across = {(k, k + count // 2) for k in range(count // 2)} if degree % 2 else set()
    edges = sorted(_edge(*edge) for edge in steps | across)
    present, rng = set(edges), seeding.generator(seed, "schedule.graph")
    for _ in range(TRIES):
        for first, second, turn in rng.integers(len(edges), size=(SWITCHES * len(edges), 3)).tolist():
            (a, b), (c, d) = edges[first], edges[second]
            if turn % 2:
                c, d = d, c
            new = _edge(a, d), _edge(c, b)
            if len({a, b, c, d}) == 4 and not present & set(new):
                present -= {edges[first], edges[second]}
                present |= set(new)
                edges[first], edges[second] = new
        if len(reached(neighbours(present, count))) == count:
            return present
    raise UserError(
        f"schedule.degree={degree}: {TRIES} random graphs of {count} clients fell apart; take a larger degree"
    )


def edges_of_file(path: str, names: Sequence[str]) -> set[Edge]:
    """Read the edges of a CSV with the columns ``client`` and ``neighbour``."""
    places, seen = {name: k for k, name in enumerate(names)}, dict[Edge, int]()
    for line, *both in read_pairs("schedule.graph", path, ("client", "neighbour"), GRAPHS):
        where = f"schedule.graph={path}, line {line}"
        for name in both:
            if name not in places:
                raise UserError(f"{where}: no client {name!r} trains in this run{did_you_mean(name, names)}")
        if both[0] == both[1]:
            raise UserError(f"{where}: {both[0]!r} is no neighbour of itself")
        edge = _edge(places[both[0]], places[both[1]])
        if seen.setdefault(edge, line) != line:
            raise UserError(
                f"{where}: the edge of {both[0]!r} and {both[1]!r} is there already, in line {seen[edge]}; each is "
                "written once and goes both ways"
            )
    return set(seen)


def neighbours(edges: Iterable[Edge], count: int) -> list[Tensor]:
    """Return the neighbours of every client, ascending."""
    found: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        found[a].append(b)
        found[b].append(a)
    return [torch.tensor(sorted(one), dtype=torch.int64) for one in found]


def reached(around: Sequence[Tensor]) -> set[int]:
    """Return the clients to which there is a way from client 0."""
    found, waiting = {0}, [0]
    while waiting:
        new = set(around[waiting.pop()].tolist()) - found
        found |= new
        waiting += new
    return found


def connected(graph: str, around: list[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Return the neighbours, or raise `UserError` if there is no way between two clients."""
    there = reached(around)
    if len(there) < len(names):
        lost = [name for k, name in enumerate(names) if k not in there]
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(
            f"schedule.graph={graph}: falls apart: there is no way from {names[0]!r} to {lost[0]!r}{more}, whose rows "
            "would never meet; add an edge between the parts"
        )
    return around


def metropolis(around: Sequence[Tensor]) -> list[Tensor]:
    """Return the Metropolis-Hastings weights of every client's neighbours, ``[degree]`` float64.

    ``W_ij = 1 / (1 + max(degree_i, degree_j))`` for neighbours, and what is left to 1 for the client itself (Xiao, Boyd
    and Lall 2005): W is symmetric and doubly stochastic, whatever the graph.
    """
    degrees = torch.tensor([len(one) for one in around], dtype=torch.float64)
    return [1 / (1 + torch.maximum(degrees[one], degrees[k])) for k, one in enumerate(around)]


def matrix(around: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return W ``[N, N]`` float64."""
    whole = torch.zeros(len(around), len(around), dtype=torch.float64)
    for k, (one, weight) in enumerate(zip(around, weights, strict=True)):
        whole[k, one] = weight
        whole[k, k] = 1 - weight.sum()
    return whole


def spectral_gap(mixing: Tensor) -> float:
    """Return 1 minus the second largest absolute value among the eigenvalues of W ``[N, N]``.

    1 where one step reaches the mean, near 0 where it takes many.
    """
    values = np.sort(np.abs(np.linalg.eigvalsh(mixing.numpy())))
    return float(1 - values[-2])


def _edge(a: int, b: int) -> Edge:
    return (a, b) if a < b else (b, a)
