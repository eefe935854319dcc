"""Graphs of clients, the weights on them, and what is wrong with a file of edges."""

from collections import Counter

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.topology.graphs import make_graph, matrix, metropolis, random_regular, reached, spectral_gap

NAMES = [f"c{k}" for k in range(12)]


def around(graph, count, degree=4, seed=0):
    return [one.tolist() for one in make_graph(graph, [f"c{k}" for k in range(count)], degree, seed)]


def test_ring():
    assert around("ring", 5) == [[1, 4], [0, 2], [1, 3], [2, 4], [0, 3]]
    assert around("ring", 2) == [[1], [0]]


def test_torus():
    """Twelve clients are a grid of three rows of four::

    0  1  2  3
    4  5  6  7
    8  9 10 11
    """
    found = around("torus", 12)
    assert found[0] == [1, 3, 4, 8]
    assert found[5] == [1, 4, 6, 9]
    assert found[11] == [3, 7, 8, 10]
    assert around("torus", 6)[0] == [1, 2, 3]  # two rows of three


def test_complete():
    assert around("complete", 4) == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize(("count", "degree"), [(2, 1), (10, 2), (11, 4), (12, 3), (12, 11), (60, 5)])
def test_random_regular(count, degree):
    for seed in range(3):
        found = around("random_regular", count, degree, seed)
        assert all(len(set(one)) == len(one) == degree and k not in one for k, one in enumerate(found))
        assert all(k in found[other] for k, one in enumerate(found) for other in one)
    assert found == around("random_regular", count, degree, 2)
    if degree < count - 1:
        assert found != around("random_regular", count, degree, 1)


def test_random_graphs_are_equally_likely():
    """Of two neighbours each, six clients have 60 rings: 5! orders of the others behind client 0, in two directions.

    Chi squared with 59 degrees of freedom is above 98 once in a thousand.
    """
    draws = 1200
    found = Counter(frozenset(random_regular(6, 2, seed)) for seed in range(draws))
    assert len(found) == 60
    assert sum((count - draws / 60) ** 2 / (draws / 60) for count in found.values()) < 98


@pytest.mark.parametrize("graph", ["ring", "torus", "random_regular", "complete"])
def test_weights_are_symmetric_and_doubly_stochastic(graph):
    nodes = make_graph(graph, NAMES, 3, 0)
    mixing = matrix(nodes, metropolis(nodes))
    assert torch.equal(mixing, mixing.T)
    assert bool((mixing >= 0).all())
    torch.testing.assert_close(mixing.sum(0), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-15)
    assert {one.tolist().count(0.0) for one in mixing} == {12 - 1 - len(nodes[0])}


def test_weights_of_unequal_degrees(tmp_path):
    """A path a-b-c and d at b: the centre has three neighbours, so that each edge counts 1/4 and a keeps 3/4."""
    file = tmp_path / "g.csv"
    file.write_text("client,neighbour\na,b\nc,b\nb,d\n")
    nodes = make_graph(str(file), "abcd", 4, 0)
    want = np.array([[3, 1, 0, 0], [1, 1, 1, 1], [0, 1, 3, 0], [0, 1, 0, 3]]) / 4
    assert matrix(nodes, metropolis(nodes)).numpy() == pytest.approx(want, abs=1e-15)


def test_spectral_gap():
    """A complete graph reaches the mean at once; a ring of N with thirds takes the longer the more clients it has."""
    gaps = {}
    for graph, count in (("complete", 8), ("ring", 8), ("ring", 50)):
        nodes = make_graph(graph, [str(k) for k in range(count)], 4, 0)
        gaps[graph, count] = spectral_gap(matrix(nodes, metropolis(nodes)))
    assert gaps["complete", 8] == pytest.approx(1, abs=1e-12)
    for count in (8, 50):
        assert gaps["ring", count] == pytest.approx(1 - (1 + 2 * np.cos(2 * np.pi / count)) / 3, rel=1e-9)


def test_reached():
    assert reached([torch.tensor([1]), torch.tensor([0]), torch.tensor([3]), torch.tensor([2])]) == {0, 1}


@pytest.mark.parametrize(
    ("graph", "count", "degree", "message"),
    [
        ("torus", 7, 4, "schedule.graph=torus: 7 clients make no grid"),
        ("ring", 1, 4, "schedule.graph=ring: needs two clients or more, and there is 1"),
        ("random_regular", 6, 6, "schedule.degree=6: there is no graph of 6 clients.*it must be less than 6$"),
        ("random_regular", 7, 3, "schedule.degree=3: there is no graph of 7.*and even"),
        ("random_regular", 6, 1, "schedule.degree=1: 100 random graphs of 6 clients fell apart"),
        ("rng", 6, 4, r"schedule.graph=rng: is none of ring, .* \(did you mean 'ring'\?\), and no CSV"),
    ],
)
def test_graphs_that_are_none(graph, count, degree, message):
    with pytest.raises(UserError, match=message):
        around(graph, count, degree)


def test_graphs_that_do_not_fit_are_refused(monkeypatch):
    """Of all neighbours of 100 clients each takes two numbers of 8 bytes; an edge that is drawn takes 250 bytes."""
    for graph, needed in (("complete", 16 * 100**2), ("random_regular", 250 * 100 * 6 // 2)):
        monkeypatch.setattr("fedsim.machine.available_bytes", lambda needed=needed: needed)
        around(graph, 100, 6)
        monkeypatch.setattr("fedsim.machine.available_bytes", lambda needed=needed: needed - 1)
        with pytest.raises(UserError, match="take a "):
            around(graph, 100, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client,neighbour\na,b\nc,d\n", "falls apart: there is no way from 'a' to 'c' and 1 more"),
        ("client,neighbour\na,b\nb,c\n", "falls apart: there is no way from 'a' to 'd', whose"),
        ("client,neighbour\na,b\nb,c\nc,e\n", "line 4: no client 'e' trains in this run"),
        ("client,neighbour\na,b\nb,c\nc,c\n", "line 4: 'c' is no neighbour of itself"),
        ("client,neighbour\na,b\nb,a\n", "line 3: the edge of 'b' and 'a' is there already, in line 2"),
        ("a,b\nb,c\n", "line 1: must name the columns client and neighbour"),
        ("client,neighbour\na,\n", "line 2: must be two names"),
        ('client,neighbour\n"a,b\n', "line 2: "),
        (b"client,neighbour\n\xff,b\n", "is not UTF-8 text"),
    ],
)
def test_files_that_are_no_graph(tmp_path, text, message):
    file = tmp_path / "g.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        make_graph(str(file), "abcd", 4, 0)
