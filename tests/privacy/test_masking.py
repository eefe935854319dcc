"""Masks hide every row and every incomplete sum, and come off whoever drops out."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from fedsim import seeding
from fedsim.privacy.masking import CELLS, agree, partners_of, shares_needed

pytestmark = pytest.mark.usefixtures("one_thread")

CLIENTS = torch.tensor([3, 4, 8, 11, 20, 21, 30])


def whole_numbers(count, length, bits, seed=0):
    """Rows whose sum fits into k bits with its sign, ``[count, length]`` int64."""
    bound = ((1 << (bits - 1)) - 1) // count
    return torch.from_numpy(np.random.default_rng(seed).integers(-bound, bound + 1, (count, length)))


def test_masked_rows_by_hand():
    """Bonawitz 2017, Figure 4, round 2: ``x_u + p_u + sum_{v > u} p_uv - sum_{v < u} p_uv mod R``."""
    bits, seed, number, place = 20, 7, 5, torch.arange(6)
    pair_key = seeding.stream_key(seed, "secure aggregation", number)
    self_key = seeding.stream_key(seed, "secure aggregation, alone", number)
    values = whole_numbers(3, 6, bits)
    p = {(u, v): seeding.random_bits(pair_key, torch.tensor(u), torch.tensor(v), place) for u, v in ((3, 4), (3, 8))}
    p[4, 8] = seeding.random_bits(pair_key, torch.tensor(4), torch.tensor(8), place)
    own = {u: seeding.random_bits(self_key, torch.tensor(u), place) for u in (3, 4, 8)}
    expected = [
        values[0] + own[3] + p[3, 4] + p[3, 8],
        values[1] + own[4] - p[3, 4] + p[4, 8],
        values[2] + own[8] - p[3, 8] - p[4, 8],
    ]
    found = agree(CLIENTS[:3], None, bits, seed, number).masked(values, torch.arange(3))
    assert torch.equal(found, torch.stack(expected) % 2**bits)


@given(
    count=st.integers(1, 7),
    bits=st.sampled_from([4, 17, 32, 53]),
    neighbours=st.sampled_from([None, 2, 4]),
    data=st.data(),
)
def test_sums_come_out_bit_for_bit_whoever_drops_out(count, bits, neighbours, data):
    there = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    values, masking = whole_numbers(count, 5, bits, count), agree(CLIENTS[:count], neighbours, bits, 0, 1)
    positions = there.nonzero()[:, 0]
    total = masking.masked(values[positions], positions).sum(0)
    assert torch.equal(masking.unmasked(total, there), values[positions].sum(0))


def test_rows_of_many_numbers(monkeypatch):
    """More numbers than masks are drawn at a time, and more partners."""
    values, everybody = whole_numbers(7, 1000, 32), torch.ones(7, dtype=torch.bool)
    masking = agree(CLIENTS, None, 32, 0, 1)
    whole = masking.masked(values, torch.arange(7))
    for cells in (300, 2500):
        monkeypatch.setattr("fedsim.privacy.masking.CELLS", cells)
        assert torch.equal(masking.masked(values, torch.arange(7)), whole)
        assert torch.equal(masking.unmasked(whole.sum(0), everybody), values.sum(0))
    assert CELLS > 2500


def test_a_row_depends_on_client_and_round_and_not_on_its_place():
    values = whole_numbers(7, 50, 32)
    masking, reverse = agree(CLIENTS, 4, 32, 0, 1), agree(CLIENTS.flip(0), 4, 32, 0, 1)
    whole = masking.masked(values, torch.arange(7))
    assert torch.equal(masking.masked(values[2:4], torch.tensor([2, 3])), whole[2:4])
    assert torch.equal(reverse.masked(values.flip(0), torch.arange(7)).flip(0), whole)
    for other in (agree(CLIENTS, 4, 32, 0, 2), agree(CLIENTS, 4, 32, 1, 1)):
        assert float((other.masked(values, torch.arange(7)) == whole).double().mean()) < 0.01


@pytest.mark.parametrize("neighbours", [None, 2])
def test_what_the_server_sees_looks_like_noise(neighbours):
    """A row of equal numbers, the sum of all rows but one, and the sum of all without the last step.

    If masked numbers are uniform, the counts in 16 equal bins of n numbers give
    ``sum (count - n/16)^2 / (n/16)``, which has the chi-square distribution with 15 degrees of freedom: more than its
    quantile at 1 - 1e-6 in one of 12 looks in a hundred thousand. The plain numbers fill one bin: 15 n.
    """
    bits, n = 32, 20000
    values = torch.full((7, n), 12345)
    masked = agree(CLIENTS, neighbours, bits, 0, 1).masked(values, torch.arange(7))
    assert int(masked.min()) >= 0
    assert int(masked.max()) < 2**bits
    sums = [masked[:-1].sum(0) % 2**bits, masked.sum(0) % 2**bits]
    for seen in (*masked[:4], *sums):
        for digits in (seen >> (bits - 4), seen & 15):
            counts = torch.bincount(digits, minlength=16).double()
            assert float(((counts - n / 16) ** 2).sum() / (n / 16)) < chi2.isf(1e-6, 15)


def test_a_row_cannot_be_told_from_another():
    """Bits of two clients' masked rows agree in half of the places: 20000 * 8 fair coins, 5 standard deviations."""
    masked = agree(CLIENTS, None, 8, 0, 1).masked(torch.zeros((7, 20000), dtype=torch.int64), torch.arange(7))
    for a, b in itertools.combinations(masked, 2):
        agreeing = sum(int(((a ^ b) >> bit & 1).logical_not().sum()) for bit in range(8))
        assert abs(agreeing - 80000) < 5 * math.sqrt(160000 / 4)


@given(count=st.integers(1, 30), neighbours=st.sampled_from([None, 2, 4, 10]))
def test_who_is_whose_partner(count, neighbours):
    """Everybody has as many, all different; the one is the other's; who is whose does not depend on the order."""
    asked = torch.arange(count) * 5
    partners = partners_of(asked, neighbours, 99)
    degree = count - 1 if neighbours is None else min(neighbours, count - 1)
    assert partners.shape == (count, degree)
    pairs = {(u, v) for u in range(count) for v in partners[u].tolist()}
    assert len(pairs) == count * degree
    assert all(u != v and (v, u) in pairs for u, v in pairs)
    backwards = partners_of(asked.flip(0), neighbours, 99)
    assert {(count - 1 - u, count - 1 - v) for u in range(count) for v in backwards[u].tolist()} == pairs


def test_rings_are_drawn_anew():
    asked = torch.arange(12)
    assert not torch.equal(partners_of(asked, 2, 1), partners_of(asked, 2, 2))


@pytest.mark.parametrize(("threshold", "needed"), [(0.5, 4), (0.66, 5), (0.9, 7), (0.1, 2)])
def test_enough_must_be_left(threshold, needed):
    """Of seven, ``floor(7 * threshold) + 1``, and more than one whatever the threshold."""
    masking = agree(CLIENTS, None, 32, 0, 1)
    for left in range(8):
        arrived = torch.zeros(7, dtype=torch.bool)
        arrived[torch.randperm(7, generator=torch.Generator().manual_seed(left))[:left]] = True
        assert masking.recoverable(arrived, threshold) == (left >= needed)


def test_enough_must_be_left_of_every_neighbourhood():
    """On a ring with one partner on each side two of three shares are needed: two in a row that drop out are too many,
    and so are two with one between. Two with more between leave enough shares, but cut the ring into two parts."""
    masking = agree(CLIENTS, 2, 32, 0, 1)
    for some in itertools.product([True, False], repeat=7):
        arrived = torch.tensor(some)
        left = [sum(some[v] for v in [u, *masking.partners[u].tolist()]) for u in range(7)]
        assert masking.recoverable(arrived, 0.5) == (min(left) >= 2 and sum(some) >= 6)


def test_rows_that_fall_apart_are_not_unmasked():
    """On a ring of twelve with two partners on each side, two and two that drop out leave four rows that share no pair
    with the other four: by what the server learns anyway it has the sum of the four, to the bit."""
    asked = torch.arange(12)
    masking = agree(asked, 4, 32, 0, 1)
    ring = [0]
    while len(ring) < 12:  # the nearest on one side is the first partner
        ring.append(int(masking.partners[ring[-1], 0]))
    assert sorted(ring) == list(range(12))
    gone = torch.tensor([ring[4], ring[5], ring[10], ring[11]])
    arrived = torch.ones(12, dtype=torch.bool)
    arrived[gone] = False
    values = torch.arange(12 * 3).view(12, 3)
    four = torch.zeros(12, dtype=torch.bool)
    four[ring[:4]] = True
    sent = masking.masked(values[four], four.nonzero()[:, 0]).sum(0)
    assert torch.equal(masking.unmasked(sent, four), values[four].sum(0))
    assert int((arrived[masking.partners].sum(1) + arrived.long())[arrived].min()) >= 3  # of five shares each
    assert not masking.recoverable(arrived, 0.2)
    assert not masking.recoverable(four | ~four & arrived & (asked != ring[6]), 0.2)
    arrived[ring[4]] = True  # which ties the two parts together: to two on either side
    assert masking.recoverable(arrived, 0.2)


@pytest.mark.parametrize(
    ("threshold", "holders", "needed"),
    [(0.5, 7, 4), (0.5, 2, 2), (0.1, 5, 2), (0.1, 10, 2), (0.1, 20, 3), (0.99, 1, 2)],
)
def test_shares(threshold, holders, needed):
    assert shares_needed(threshold, holders) == needed


def test_one_client_alone_is_not_enough():
    assert not agree(CLIENTS[:1], None, 32, 0, 1).recoverable(torch.ones(1, dtype=torch.bool), 0.1)
