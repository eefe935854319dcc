"""Virtual seconds by hand, and who arrives when."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.devices.clock import Clock, Fleet, ending, online, sample_flops, stay, transfer
from fedsim.devices.drawn import Devices
from fedsim.federation.prepare import prepare


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


FLEET = Fleet(numbers(1, 2), numbers(8, 16), numbers(4, 1), numbers(math.inf, 10), numbers(1, 0.5))


def test_seconds():
    """Client 0: 0.5 + 1 MB * 8 / 8 Mbit/s + 3 * 2e9 / 1e9 + 1 MB * 8 / 4 Mbit/s. Client 1: half the way down, ..."""
    clock = Clock(FLEET, 0.5, numbers(2e9, 4e9), torch.arange(2))
    mega, both = torch.tensor(10**6), torch.tensor([0, 1])
    assert clock.seconds(both, torch.tensor([3, 5]), mega, mega).tolist() == [0.5 + 1 + 6 + 2, 0.5 + 0.5 + 10 + 8]
    down = torch.tensor([10**6, 2 * 10**6])
    assert clock.seconds(both.flip(0), torch.tensor([0, 0]), down, torch.tensor(0)).tolist() == [0.5 + 0.5, 0.5 + 2]


def test_samples_in_is_the_inverse_of_work():
    clock = Clock(FLEET, 0.0, numbers(2e9, 4e9), torch.arange(2))  # two seconds a sample each
    both = torch.arange(2)
    assert clock.samples_in(both, numbers(6, 5.9)).tolist() == [3, 2]
    assert clock.samples_in(both, numbers(0, 1.9)).tolist() == [0, 0]
    clock = Clock(FLEET, 0.0, numbers(0.3e9, 0.1e9), both)
    assert clock.samples_in(both, numbers(0.3 * 3, 7 * 0.05)).tolist() == [3, 7]  # as numbers just below 3 and 7


def test_bits_are_eight_to_the_byte_and_megabits_a_million():
    assert float(transfer(torch.tensor(250_000), numbers(2))) == 1.0
    assert float(transfer(torch.tensor(16_777_217), numbers(8))) == 16.777217  # not a number of 32 bits


def test_flops_of_a_sample(tiny):
    """H = 5, D = 3, 3 gates, head [4, 5]: 2 * 3 * (120 * mean length + 20)."""
    task = prepare(tiny()).task
    lengths = task.population.train.lengths.split(task.population.train.sizes.tolist())
    expected = [6 * (120 * float(own.double().mean()) + 20) for own in lengths]
    assert sample_flops(task, 1).tolist() == pytest.approx(expected, rel=1e-14)
    assert sample_flops(task, 2).tolist() == pytest.approx([2 * x for x in expected], rel=1e-14)
    assert len({*expected}) > 2


# ---------------------------------------------------------------------------------------------------------------------
# endings


def ends(seconds, wanted, stays=None, **settings):
    stays = [1.0] * len(seconds) if stays is None else stays
    kept, end = ending(Devices(**settings), numbers(*seconds), numbers(*stays), wanted)
    return kept.tolist(), end


def test_a_round_lasts_until_the_last_of_those_who_are_wanted():
    assert ends([3, 1, 2], 3) == ([True, True, True], 3.0)
    assert ends([3, 1, 2], 2) == ([False, True, True], 2.0)
    assert ends([2, 1, 2], 2) == ([True, True, False], 2.0)  # of equal times the first client's


def test_at_the_deadline_it_is_over():
    assert ends([3, 1, 2], 3, deadline=2.0) == ([False, True, True], 2.0)  # just in time, and one in vain
    assert ends([3, 1, 2], 2, deadline=2.5) == ([False, True, True], 2.0)  # nobody is awaited any more
    assert ends([3, 4], 2, deadline=2.5) == ([False, False], 2.5)


def test_who_is_gone_is_awaited_until_then():
    """The first vanishes after half of its 8 seconds."""
    assert ends([8, 1, 2], 3, [0.5, 1, 1]) == ([False, True, True], 4.0)
    assert ends([8, 1, 5], 3, [0.5, 1, 1]) == ([False, True, True], 5.0)
    assert ends([8, 1, 2], 2, [0.5, 1, 1]) == ([False, True, True], 2.0)
    assert ends([8, 1, 2], 3, [0.5, 1, 1], deadline=3.0) == ([False, True, True], 3.0)
    assert ends([8, 2], 2, [0.5, 0.25], deadline=3.0) == ([False, False], 3.0)


def test_nobody_takes_no_time():
    assert ends([], 0) == ([], 0.0)
    assert ends([], 4, deadline=2.0) == ([], 0.0)


def test_too_few_are_given_up():
    assert ends([3, 1, 2], 3, deadline=2.0, min_clients=2) == ([False, True, True], 2.0)
    assert ends([3, 1, 2], 3, deadline=2.0, min_clients=3) == ([False, False, False], 2.0)


times = st.lists(st.floats(0.2, 100), min_size=1, max_size=8)


@given(times, st.integers(1, 8), st.randoms())
def test_a_deadline_after_the_last_is_none(seconds, wanted, random):
    stays = [random.choice([1.0, random.random()]) for _ in seconds]
    assert ends(seconds, wanted, stays, deadline=max(seconds)) == ends(seconds, wanted, stays)


@given(times, st.integers(1, 8), st.floats(0.2, 100), st.floats(0.2, 100))
def test_a_later_deadline_loses_nobody(seconds, wanted, one, other):
    early, late = sorted((one, other))
    kept, end = ends(seconds, wanted, deadline=early)
    more, later = ends(seconds, wanted, deadline=late)
    assert sum(more) >= sum(kept)
    assert later >= end
    assert all(b for a, b in zip(kept, more, strict=True) if a)


@given(st.floats(0, 0.99), st.floats(0, 0.99), st.integers(1, 1000))
def test_more_dropout_never_brings_more(one, other, number):
    low, high = sorted((one, other))
    clients = torch.arange(50)
    few, many = (stay(p, clients, 0, number) for p in (low, high))
    assert bool((few[many == 1] == 1).all())
    assert float(many.min()) >= 0
    assert float(few.max()) <= 1


def test_dropout_is_as_frequent_as_it_says():
    clients = torch.arange(20_000)
    stays = stay(0.3, clients, 0, 1)
    gone = stays < 1
    assert float(gone.double().mean()) == pytest.approx(0.3, abs=0.01)  # 3 standard deviations: 0.0097
    assert float(stays[gone].mean()) == pytest.approx(0.5, abs=0.012)
    assert not torch.equal(stays, stay(0.3, clients, 0, 2))
    assert torch.equal(stays[5:9], stay(0.3, clients[5:9], 0, 1))


def test_online_by_availability():
    fleet = Fleet(*(torch.ones(20_000, dtype=torch.float64),) * 4, numbers(*[1, 0.25] * 10_000))
    there = online(fleet, torch.arange(20_000), 0, 1)
    assert bool(there[::2].all())
    assert float(there[1::2].double().mean()) == pytest.approx(0.25, abs=0.013)
    assert not torch.equal(there, online(fleet, torch.arange(20_000), 0, 2))
