"""Who takes part."""

import importlib.resources
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim import seeding
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.samplers.availability import Availability
from fedsim.samplers.choose import choose_cohort
from fedsim.samplers.min_separation import MinSeparation
from fedsim.samplers.participation import Separated
from fedsim.samplers.poisson import Poisson
from fedsim.samplers.power_of_choice import PowerOfChoice
from fedsim.samplers.round_robin import RoundRobin
from fedsim.samplers.sampler import Sampler
from fedsim.samplers.uniform import Uniform
from fedsim.samplers.weighted import WeightedBySize

ALL = [
    *(Uniform(fraction=0.3), WeightedBySize(), RoundRobin(), PowerOfChoice(fraction=0.2), Poisson(), Availability()),
    MinSeparation(fraction=0.2),
]
named = {"ids": lambda sampler: type(sampler).__name__}


def no_losses(clients):
    raise AssertionError("this sampler does not look at losses")


def draw(sampler, clients, number=1, seed=0, losses=no_losses):
    """The cohort out of so many clients with one sample each, or out of clients with these samples."""
    samples = torch.ones(clients, dtype=torch.int64) if isinstance(clients, int) else torch.tensor(clients)
    return sampler.cohort(samples, number, seed, losses)


def by_number(clients):
    """Losses that grow with a client's number."""
    return clients.double()


@pytest.mark.parametrize("sampler", ALL, **named)
@given(num_clients=st.integers(1, 50), number=st.integers(1, 100), seed=st.integers(0, 100))
def test_a_cohort_is_some_of_the_clients_in_order(sampler, num_clients, number, seed):
    cohort = draw(sampler, num_clients, number, seed, by_number)
    assert cohort.dtype == torch.int64
    assert cohort.tolist() == sorted(set(cohort.tolist()))
    assert all(0 <= client < num_clients for client in cohort.tolist())
    smallest, largest = sampler.limits(num_clients)
    assert smallest <= len(cohort) <= largest <= num_clients
    assert isinstance(sampler, Sampler)


@given(num_clients=st.integers(1, 50), fraction=st.floats(0.001, 1), number=st.integers(1, 100))
def test_the_size_of_a_cohort(num_clients, fraction, number):
    assert len(draw(Uniform(fraction=fraction), num_clients, number)) == max(1, round(fraction * num_clients))


def test_everyone():
    assert draw(Uniform(), 5).tolist() == [0, 1, 2, 3, 4]
    assert draw(Uniform(fraction=None, cohort_size=5), 5, 3, 9).tolist() == [0, 1, 2, 3, 4]
    assert draw(Poisson(probability=1), 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sampler", [sampler for sampler in ALL if not isinstance(sampler, RoundRobin)], **named)
def test_cohorts_depend_on_round_and_seed_only(sampler):
    def cohort(number, seed):
        return tuple(draw(sampler, 1000, number, seed, by_number).tolist())

    assert cohort(1, 0) == cohort(1, 0)
    assert len({cohort(1, 0), cohort(2, 0), cohort(3, 0), cohort(1, 1)}) == 4


def test_all_clients_are_equally_likely():
    """Chi-square of 2000 rounds of 3 out of 10.

    Drawn without replacement, a client's count has variance ``n p (1 - p)`` with p = 0.3, and the sum of
    ``(count - 600)^2 / (n p (1 - p)) * (N - 1) / N`` is chi-square with 9 degrees of freedom: 99.9 % point 27.9.
    """
    sampler, n, p = Uniform(fraction=0.3), 2000, 0.3
    counts = torch.zeros(10)
    for number in range(1, n + 1):
        counts[draw(sampler, 10, number, 4)] += 1
    assert float(((counts - n * p) ** 2 / (n * p * (1 - p))).sum()) * 9 / 10 < 27.9


def test_clients_with_more_samples_are_more_likely():
    """Two of four drawn one after another: {i, j} has probability p_i p_j / (1 - p_i) + p_i p_j / (1 - p_j).

    2000 draws of six pairs: chi-square with 5 degrees of freedom, 99.9 % point 20.5.
    """
    samples, n = [1, 2, 3, 6], 2000
    p = np.array(samples) / 12
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for number in range(n):
        counts[tuple(draw(WeightedBySize(fraction=None, cohort_size=2), samples, number).tolist())] += 1
    chi_square = 0.0
    for (i, j), count in counts.items():
        expected = n * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        chi_square += (count - expected) ** 2 / expected
    assert chi_square < 20.5


def test_round_robin_goes_round():
    sampler = RoundRobin(fraction=None, cohort_size=3)
    assert [draw(sampler, 5, number).tolist() for number in range(1, 5)] == [[0, 1, 2], [0, 3, 4], [1, 2, 3], [0, 1, 4]]


@given(
    num_clients=st.integers(2, 60),
    size=st.integers(1, 30),
    separation=st.integers(1, 60),
    rounds=st.integers(1, 80),
    seed=st.integers(0, 9),
)
def test_a_promise_about_participation_is_kept(num_clients, size, separation, rounds, seed):
    """By every sampler that makes one, as counted; in the turns of all clients it is what somebody does."""
    size = min(size, num_clients - 1)
    separated = MinSeparation(fraction=None, cohort_size=size, separation=min(separation, num_clients // size))
    for sampler in (separated, replace(separated, separation=None), RoundRobin(fraction=None, cohort_size=size)):
        assert isinstance(sampler, Separated)
        sampler.check(num_clients)
        promised = sampler.participation(num_clients, rounds)
        when = {client: [] for client in range(num_clients)}
        for number in range(1, rounds + 1):
            cohort = draw(sampler, num_clients, number, seed).tolist()
            assert len(cohort) == size
            for client in cohort:
                when[client].append(number)
        apart = [b - a for numbers in when.values() for a, b in itertools.pairwise(numbers)]
        assert min(apart, default=promised.separation) >= promised.separation
        assert max(len(numbers) for numbers in when.values()) <= promised.most
        if isinstance(sampler, RoundRobin):
            assert max(len(numbers) for numbers in when.values()) == promised.most
            assert rounds <= 2 * num_clients or min(apart) == promised.separation


def test_separated_clients_are_drawn_from_their_group():
    """12 clients, 2 a round, 3 rounds apart: groups of 4, each the whole of what its rounds draw from."""
    sampler = MinSeparation(fraction=None, cohort_size=2, separation=3)
    cohorts = [set(draw(sampler, 12, number, 5).tolist()) for number in range(1, 91)]
    groups = [set.union(*cohorts[first::3]) for first in range(3)]
    assert [len(group) for group in groups] == [4, 4, 4]
    assert set.union(*groups) == set(range(12))
    counts = [sum(client in cohort for cohort in cohorts) for client in range(12)]
    assert max(abs(count - 15) for count in counts) < 5 * (30 * 0.25) ** 0.5  # binomial, 30 rounds of p = 1/2
    other = set.union(*(set(draw(sampler, 12, number, 6).tolist()) for number in range(1, 91, 3)))
    assert other not in groups


def test_a_separation_needs_enough_clients():
    sampler = MinSeparation(fraction=None, cohort_size=3, separation=4)
    sampler.check(12)
    with pytest.raises(
        UserError, match=r"sampler.separation=4: with 3 of 11 clients in each round, .* at most 3 rounds"
    ):
        sampler.check(11)
    with pytest.raises(FieldError, match="separation"):
        MinSeparation(separation=0)


def test_power_of_choice_takes_the_highest_losses_of_its_candidates():
    asked = []

    def losses(clients):
        asked.append(clients)
        return torch.tensor([5.0, 1.0, 9.0, 7.0, 2.0, 8.0], dtype=torch.float64)[: len(clients)]

    cohort = draw(PowerOfChoice(fraction=None, cohort_size=3, candidates=6), 100, 4, 1, losses)
    (candidates,) = asked
    assert cohort.tolist() == candidates[[2, 3, 5]].tolist()
    same = draw(WeightedBySize(fraction=None, cohort_size=6), 100, 4, 1)
    assert candidates.tolist() == same.tolist()  # drawn by samples


def test_candidates_by_default():
    seen = []

    def losses(clients):
        seen.append(len(clients))
        return by_number(clients)

    for size, clients in ((3, 100), (4, 6)):
        draw(PowerOfChoice(fraction=None, cohort_size=size), clients, losses=losses)
    assert seen == [6, 6]


def test_losses_that_are_equal_or_no_numbers():
    sampler = PowerOfChoice(fraction=None, cohort_size=2, candidates=4)
    assert draw(sampler, 4, losses=torch.zeros_like).tolist() == [0, 1]
    values = torch.tensor([torch.nan, 1.0, torch.nan, 0.5], dtype=torch.float64)
    assert draw(sampler, 4, losses=lambda clients: values).tolist() == [1, 3]


def test_poisson_clients_are_independent():
    """10 clients, 2000 rounds, q = 0.2: size has mean 2 and variance 1.6, 5 standard errors are 0.14; and a round
    is empty with probability 0.8^10 = 0.107, of which 5 standard errors of 2000 rounds are 0.035."""
    sizes = np.array([len(draw(Poisson(probability=0.2), 10, number)) for number in range(1, 2001)])
    assert sizes.mean() == pytest.approx(2, abs=0.14)
    assert sizes.var() == pytest.approx(1.6, abs=0.3)
    assert (sizes == 0).mean() == pytest.approx(0.8**10, abs=0.035)


CHAINS = [(0.3, 0.1), (0.1, 0.3), (0.8, 0.6), (0.5, 0.5), (1.0, 1.0), (0.02, 0.01)]


@pytest.mark.parametrize(("turn_on", "turn_off"), CHAINS)
def test_looking_back_is_going_forward(turn_on, turn_off):
    """The chain written out, with the same uniform numbers."""
    sampler, clients = Availability(turn_on=turn_on, turn_off=turn_off), torch.arange(200)
    on = None
    for number in range(1, 40):
        u = seeding.uniforms(seeding.stream_key(7, "availability", number), clients)
        stationary = u < turn_on / (turn_on + turn_off)
        on = stationary if on is None else torch.where(on, u < 1 - turn_off, u < turn_on)
        assert torch.equal(sampler.on(200, number, 7), on)


@pytest.mark.parametrize(("turn_on", "turn_off"), CHAINS[:4])
def test_clients_turn_on_and_off_as_often_as_they_should(turn_on, turn_off):
    """2000 clients, 30 rounds: the share on is stationary from the first round, and shares of those that turn are
    the probabilities; tolerances are 5 standard errors of 2000 and of the smallest number of chances."""
    states = torch.stack([Availability(turn_on=turn_on, turn_off=turn_off).on(2000, n, 3) for n in range(1, 31)])
    share = turn_on / (turn_on + turn_off)
    assert (states.double().mean(1) - share).abs().max() < 5 * (share * (1 - share) / 2000) ** 0.5
    before, after = states[:-1], states[1:]
    chances = 29 * 2000 * min(share, 1 - share)
    assert after[~before].double().mean().item() == pytest.approx(turn_on, abs=2.5 / chances**0.5)
    assert (~after[before]).double().mean().item() == pytest.approx(turn_off, abs=2.5 / chances**0.5)


def test_a_cohort_of_those_that_are_on():
    sampler = Availability(fraction=None, cohort_size=3, turn_on=0.2, turn_off=0.4)
    for number in range(1, 50):
        on = sampler.on(9, number, 0).nonzero()[:, 0].tolist()
        cohort = draw(sampler, 9, number).tolist()
        assert set(cohort) <= set(on)
        assert len(cohort) == min(3, len(on))
        half = draw(replace(sampler, fraction=0.5, cohort_size=None), 9, number)
        assert len(half) == (max(1, round(len(on) / 2)) if on else 0)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match=r"cohort_size=6: there are only 5"):
        Uniform(fraction=None, cohort_size=6).check(5)
    Uniform(fraction=None, cohort_size=5).check(5)
    for kind in (Uniform, WeightedBySize, RoundRobin, PowerOfChoice, Availability, MinSeparation):
        for values in ({"fraction": 0}, {"fraction": 1.1}, {"fraction": 0.5, "cohort_size": 3}, {"fraction": None}):
            with pytest.raises(FieldError, match="fraction"):
                kind(**values)
        with pytest.raises(FieldError, match="cohort_size"):
            kind(fraction=None, cohort_size=0)
    for kind, values in (
        (PowerOfChoice, {"candidates": 0}),
        (Poisson, {"probability": 0}),
        (Poisson, {"probability": 1.5}),
        (Availability, {"turn_on": 0}),
        (Availability, {"turn_off": 1.1}),
    ):
        with pytest.raises(FieldError, match=next(iter(values))):
            kind(**values)
    for candidates in (5, 11):
        with pytest.raises(UserError, match=rf"candidates={candidates}: must be more than the 5 .* at most all 10"):
            PowerOfChoice(candidates=candidates).check(10)
    PowerOfChoice(candidates=6).check(10)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((WeightedBySize, "weighted"), (RoundRobin, "round_robin"), (PowerOfChoice, "power_of_choice")),
        (MinSeparation, "min_separation"),
    ],
)
def test_a_choice_among_all_is_refused(kind, name):
    with pytest.raises(UserError, match=f"sampler={name}: chooses nothing where all 4 client"):
        kind(fraction=1.0).check(4)
    with pytest.raises(UserError, match=r"sampler.cohort_size=9: there are only 4"):
        kind(fraction=None, cohort_size=9).check(4)
    kind().check(4)


# ---------------------------------------------------------------------------------------------------------------------
# in a run


def options():
    return sorted(path.stem for path in Path(str(importlib.resources.files("fedsim.configs"))).glob("sampler/*.yaml"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", options())
def test_every_sampler_runs_and_is_taken_up_again(tiny, run, name):
    """Five rounds at once, or two and then three more."""
    whole = run(tiny(f"sampler={name}", "rounds=5", "aggregator=fedavgm"))
    first = run(tiny(f"sampler={name}", "rounds=2", "aggregator=fedavgm"))
    again = run(tiny(f"sampler={name}", "rounds=5", "aggregator=fedavgm"), first.state)
    assert first.metrics + again.metrics == whole.metrics
    assert torch.equal(again.state.row, whole.state.row)


@pytest.mark.usefixtures("one_thread")
def test_a_round_without_clients_changes_nothing(tiny, run):
    """With q = 0.2 and five clients, a third of the rounds is empty: momentum does not go on either."""
    result = run(tiny("sampler=poisson", "sampler.probability=0.2", "rounds=12", "aggregator=fedavgm"))
    empty = [metrics["round"] for metrics in result.metrics[1:] if metrics["clients"] == 0]
    assert 1 <= len(empty) < 12
    for number in empty:
        metrics, before = result.metrics[number], result.metrics[number - 1]
        assert metrics["train_loss"] is metrics["delta_norm"] is metrics["client_drift"] is None
        assert metrics["test_loss"] == before["test_loss"]
        assert (metrics["bytes_up"], metrics["bytes_down"]) == (before["bytes_up"], before["bytes_down"])
    moved = [n for n in range(2, 13) if not torch.equal(result.rows[n - 1], result.rows[n - 2])]
    assert moved == [n for n in range(2, 13) if n not in empty]


@pytest.mark.usefixtures("one_thread")
def test_power_of_choice_in_a_run(tiny, run):
    """Of all five clients the two with the highest loss, to whom nothing is sent twice. P = 174, 8 bytes each."""
    overrides = ("sampler=power_of_choice", "sampler.cohort_size=2", "sampler.candidates=5", "rounds=2")
    result = run(tiny(*overrides))
    sim = prepare(tiny(*overrides))
    state = initial_state(sim)
    sums = sim.trainer.score_clients(state.row.expand(5, -1), torch.arange(5), sim.population.train)
    highest = np.sort(np.argsort((sums.loss / sums.count).numpy())[-2:])
    cohort, informed = choose_cohort(sim, state, 1)
    np.testing.assert_array_equal(cohort.numpy(), highest)
    assert informed.tolist() == [0, 1, 2, 3, 4]
    assert [metrics["bytes_down"] for metrics in result.metrics] == [0, 5 * 174 * 8, 10 * 174 * 8]
    assert [metrics["bytes_up"] for metrics in result.metrics] == [0, 2 * 174 * 8, 4 * 174 * 8]
