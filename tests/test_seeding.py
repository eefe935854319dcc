"""Random streams against an independent SplitMix64, and their statistics at fixed seeds."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim import seeding

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


def mix(z):
    """The output function of SplitMix64 on Python's own unbounded integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hashed(key, *counters):
    """What `random_bits` should give: each counter picks the output of a generator that the ones before it seed."""
    for counter in counters:
        key = mix((key + (counter + 1) * GOLDEN) & MASK)
    return key


def unsigned(tensor):
    return [value & MASK for value in tensor.tolist()]


def counters(*values):
    return [torch.tensor(value, dtype=torch.int64) for value in values]


def test_one_counter_gives_the_published_sequence():
    """The first outputs of SplitMix64 from seed 1234567, as printed by Vigna's splitmix64.c."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert unsigned(seeding.random_bits(1234567, torch.arange(4))) == published
    assert [hashed(1234567, i) for i in range(4)] == published


@pytest.mark.parametrize(
    ("key", "numbers", "bits"),
    [
        (0, (0,), 0xE220A8397B1DCDAF),
        (-1, (5, 3), 0x4060A2B86E2C01EE),
        (1 << 62, (7, 0, 123456), 0x8C9660B71E166BE2),
    ],
)
def test_known_values(key, numbers, bits):
    assert hashed(key & MASK, *numbers) == bits
    assert seeding.random_bits(key, *counters(*numbers)).item() & MASK == bits


@given(key=INT64, numbers=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=4))
def test_the_hash_is_splitmix(key, numbers):
    assert seeding.random_bits(key, *counters(*numbers)).item() & MASK == hashed(key & MASK, *numbers)


def test_counters_broadcast():
    clients, positions = torch.tensor([[3], [8]]), torch.arange(5)
    table = seeding.random_bits(42, clients, positions)
    assert table.shape == (2, 5)
    assert [unsigned(row) for row in table] == [[hashed(42, c, p) for p in range(5)] for c in (3, 8)]


@given(key=INT64, numbers=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=4))
def test_every_device_has_the_same_bits(key, numbers):
    assert seeding._hash_on_device(key, tuple(counters(*numbers))).item() & MASK == hashed(key & MASK, *numbers)


def test_every_bit_is_fair():
    """64 bits of n = 40000 draws: a count has deviation sqrt(n)/2, and 5 of them are exceeded once in 27000 tests."""
    n = 40_000
    bits = seeding.random_bits(seeding.stream_key(0, "test"), torch.arange(n))
    ones = torch.stack([(bits >> i) & 1 for i in range(64)]).sum(1)
    assert int((ones - n // 2).abs().max()) < 5 * n**0.5 / 2


def test_keys_and_generators_differ_by_every_part():
    parts = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 1), (0, "a", 1, 0), (0, "a", 11)]
    assert len({seeding.stream_key(*part) for part in parts}) == len(parts)
    assert len({seeding.generator(*part).integers(1 << 62) for part in parts}) == len(parts)
    for part in parts:
        assert seeding.stream_key(*part) == seeding.stream_key(*part)
        assert seeding.generator(*part).random() == seeding.generator(*part).random()


def test_streams_stay_the_same_from_version_to_version():
    """BLAKE2b of ``seed/purpose/number`` and NumPy's PCG64, whose streams NumPy promises to keep (NEP 19)."""
    import hashlib

    digest = hashlib.blake2b(b"7/batches/3", digest_size=16).digest()
    assert seeding.stream_key(7, "batches", 3) == int.from_bytes(digest[:8], "little", signed=True)
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "little"))))
    assert seeding.generator(7, "batches", 3).random() == expected.random()


def test_the_global_generators_are_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seeding.keep_mask(1, 0.5, torch.arange(100))
    seeding.permutations(1, torch.tensor([0]), torch.tensor([9]), torch.tensor([0]))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_rate(rate):
    """The share of n = 100000 draws that is dropped: within 4 standard deviations sqrt(p (1 - p) / n)."""
    n = 100_000
    kept = seeding.keep_mask(seeding.stream_key(3, "dropout"), rate, torch.arange(n))
    assert abs((~kept).double().mean().item() - rate) <= 4 * (rate * (1 - rate) / n) ** 0.5


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), key=INT64)
def test_permutations_hold_every_sample_once(sizes, key):
    clients = torch.arange(len(sizes)) * 7
    orders = seeding.permutations(key, clients, torch.tensor(sizes), torch.zeros(len(sizes), dtype=torch.int64))
    assert orders.shape == (len(sizes), max(sizes))
    for order, size in zip(orders, sizes, strict=True):
        assert sorted(order[:size].tolist()) == list(range(size))
        assert order[size:].tolist() == list(range(size, max(sizes)))


@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=6), key=INT64, data=st.data())
def test_an_order_depends_on_the_client_and_not_on_its_place(sizes, key, data):
    clients = torch.arange(len(sizes)) + 3
    epochs = torch.arange(len(sizes)) % 3
    sizes = torch.tensor(sizes)
    together = seeding.permutations(key, clients, sizes, epochs)
    for place in data.draw(st.permutations(range(len(sizes)))):
        one = slice(place, place + 1)
        alone = seeding.permutations(key, clients[one], sizes[one], epochs[one])[0]
        assert torch.equal(alone, together[place, : len(alone)])


def test_orders_are_uniform():
    """Chi-square over the 24 orders of 4 samples by 4800 clients, 200 expected of each, 23 degrees of freedom.

    The 99.9 % point by Wilson and Hilferty: ``k (1 - 2/(9k) + 3.09 sqrt(2/(9k)))^3 = 49.8`` at ``k = 23``.
    """
    clients = torch.arange(4800)
    for epoch in range(3):
        orders = seeding.permutations(
            seeding.stream_key(0, "batches", 1), clients, torch.full_like(clients, 4), torch.full_like(clients, epoch)
        )
        counts = Counter(map(tuple, orders.tolist()))
        statistic = sum((counts[order] - 200) ** 2 / 200 for order in itertools.permutations(range(4)))
        assert statistic < 49.8


def test_orders_of_consecutive_epochs_are_independent():
    """Of 4000 clients with 5 samples, 1 in 120 repeats its order by chance: 33.3 of them, give or take 4 * 5.75."""
    clients = torch.arange(4000)
    sizes = torch.full_like(clients, 5)
    first, second = (seeding.permutations(99, clients, sizes, torch.full_like(clients, epoch)) for epoch in (0, 1))
    assert abs(int((first == second).all(1).sum()) - 33.3) < 4 * 5.75


def test_uniform_numbers():
    """Of 100000 the mean is 1/2 within 5 standard errors of sqrt(1/12), and each tenth has its share."""
    u = seeding.uniforms(7, torch.arange(1000)[:, None], torch.arange(100))
    assert u.dtype == torch.float64
    assert 0 <= float(u.min()) < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 5 * (1 / 12 / 1e5) ** 0.5
    counts = torch.histc(u, bins=10, min=0, max=1)
    assert float(((counts - 1e4) ** 2 / 1e4).sum()) < 27.9  # chi-square, 9 degrees of freedom, 99.9 % point


def test_normals():
    """Moments of 200,000 draws within 5 standard errors (of the mean 1, variance 2, third 15, fourth moment 96)."""
    clients, place = torch.arange(50), torch.arange(4000)
    draws = seeding.normals(seeding.stream_key(0, "noise", 1), clients[:, None], place)
    assert draws.shape == (50, 4000)
    assert draws.dtype == torch.float64
    flat = draws.flatten().numpy()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((flat**power).mean() - moment) < 5 * (variance / len(flat)) ** 0.5
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 5 / len(flat) ** 0.5
    assert np.abs(np.corrcoef(draws.numpy()) - np.eye(50)).max() < 6 / 4000**0.5


def test_normals_depend_on_key_and_counters_alone():
    key, clients, place = seeding.stream_key(0, "noise", 1), torch.tensor([7, 3, 9]), torch.arange(11)
    whole = seeding.normals(key, clients[:, None], place)
    assert torch.equal(seeding.normals(key, clients[1:2, None], place), whole[1:2])
    assert torch.equal(seeding.normals(key, clients[:, None], place[4:]), whole[:, 4:])
    assert not torch.equal(seeding.normals(key + 1, clients[:, None], place), whole)
