"""Correlated noise, exactly: it is linear in the draws, so that a unit vector for each draw gives the whole matrix."""

import itertools

import numpy as np
import pytest

from fedsim.privacy import streams, toeplitz

ROUNDS = 21


def units(size=ROUNDS):
    """Draws of which each is a unit vector: that of round t is row t of the identity."""

    def draw(number):
        row = np.zeros(size)
        row[number - 1] = 1
        return row

    return draw


def first(stream, count=ROUNDS):
    return np.array([row.copy() for row in itertools.islice(stream, count)])


def matrix(column):
    padded = np.pad(column, (0, ROUNDS - len(column)))
    return np.array([[padded[i - j] if i >= j else 0.0 for j in range(ROUNDS)] for i in range(ROUNDS)])


@pytest.mark.parametrize("column", [[1.0], [1.0, 0.5], [1.0, 0.6, 0.4, 0.1], toeplitz.root(ROUNDS).tolist()])
def test_banded_noise(column):
    """C times what comes out is what went in, so that its covariance is ``(C^T C)^-1``."""
    np.testing.assert_allclose(matrix(column) @ first(streams.banded(column, units())), np.eye(ROUNDS), atol=1e-12)


@pytest.mark.parametrize("buffers", [([0.9], [0.4]), ([0.99, 0.7, 0.2], [0.1, 0.3, 0.2])])
def test_buffered_noise(buffers):
    decays, scales = buffers
    column = toeplitz.buffered(np.array(decays), np.array(scales), ROUNDS)
    np.testing.assert_allclose(
        matrix(column) @ first(streams.buffered(decays, scales, units())), np.eye(ROUNDS), atol=1e-12
    )


def trees(restart_every):
    """For unit draws: what each round adds to the noise of the sum, by node, and the rounds that each node sums."""
    places, tree = {}, restart_every or ROUNDS
    for number, start in enumerate(range(0, ROUNDS, tree)):
        count = min(tree, ROUNDS - start)
        for height in range(count.bit_length()):
            for index in range(count >> height):
                low = start + (index << height)
                places[(number, height, index)] = range(low, low + (1 << height))

    def draw(*key):
        row = np.zeros(len(places))
        row[list(places).index(key)] = 1
        return row

    sums = np.array([[float(t in node) for t in range(ROUNDS)] for node in places.values()])
    return np.cumsum(first(streams.tree(restart_every, draw)), axis=0), sums


@pytest.mark.parametrize("restart_every", [None, 1, 4, 6, 8])
def test_noisy_trees(restart_every):
    """Without bias: weighed in the same way, the nodes' own sums give the running sums, also over several trees."""
    weights, sums = trees(restart_every)
    np.testing.assert_allclose(weights @ sums, np.tril(np.ones((ROUNDS, ROUNDS))), atol=1e-12)


def test_the_variance_of_a_sum():
    """Honaker 2015, "from below", by hand: a node of 2 rounds has variance 1 / (1 + 1/2) = 2/3, one of 4 rounds has
    1 / (1 + 3/4) = 4/7; seven rounds are 4 + 2 + 1. Of all unbiased weights of the nodes so far, these are the best."""
    weights, sums = trees(None)
    variances = (weights**2).sum(axis=1)
    np.testing.assert_allclose(variances[[0, 1, 3, 6]], [1, 2 / 3, 4 / 7, 4 / 7 + 2 / 3 + 1])
    for number in range(1, ROUNDS + 1):
        there = sums[:, number:].sum(axis=1) == 0
        pseudo = np.linalg.pinv(
            sums[there][:, :number]
        )  # the least squares solution: best without bias (Gauss, Markov)
        assert variances[number - 1] == pytest.approx((pseudo.sum(axis=0) ** 2).sum())


def test_restarts_by_hand():
    """Trees of one round are independent noise: variance t."""
    weights, _ = trees(1)
    np.testing.assert_allclose((weights**2).sum(axis=1), np.arange(1, ROUNDS + 1))


class Counted:
    """A stream of random walks, and how often it has begun."""

    def __init__(self):
        self.begun = 0

    def begin(self, size):
        self.begun += 1
        draws = np.random.default_rng(size)
        row = np.zeros(size)
        while True:
            row = row + draws.normal(size=size)
            yield row


def test_any_round_at_any_time():
    """In order nothing is drawn twice; an earlier round, or a late one that is asked for first, comes out the same."""
    counted = Counted()
    replay = streams.Replay(counted.begin)
    rows = [replay.row(number, 5).copy() for number in range(1, 10)]
    assert np.array_equal(replay.row(9, 5), rows[8])
    assert counted.begun == 1
    assert np.array_equal(replay.row(3, 5), rows[2])
    assert counted.begun == 2
    assert np.array_equal(streams.Replay(counted.begin).row(7, 5), rows[6])
    assert replay.row(7, 4).shape == (4,)
    assert not np.array_equal(replay.row(7, 4), rows[6][:4])


@pytest.mark.parametrize("kind", ["banded", "buffered", "tree"])
def test_the_same_bits_from_any_round(kind):
    """With real draws, in the middle of the run and again from the beginning."""

    def begin(size):
        def draw(*key):
            return np.random.default_rng([size, *key]).standard_normal(size)

        if kind == "banded":
            return streams.banded([1.0, 0.5, 0.3, 0.1], draw)
        return streams.buffered([0.9, 0.3], [0.2, 0.3], draw) if kind == "buffered" else streams.tree(8, draw)

    whole = streams.Replay(begin)
    rows = [whole.row(number, 33).tobytes() for number in range(1, 20)]
    for number in (1, 8, 9, 19):
        assert streams.Replay(begin).row(number, 33).tobytes() == rows[number - 1]
    assert len(set(rows)) == 19
