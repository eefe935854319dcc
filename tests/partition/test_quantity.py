"""Sizes by a law, samples at random."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import FieldError, UserError
from fedsim.partition.iid import Iid
from fedsim.partition.quantity import Quantity


@given(
    law=st.sampled_from(["power", "lognormal"]),
    strength=st.sampled_from([0.0, 0.5, 3.0, 100.0]),
    least=st.integers(1, 4),
    clients=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_conserves_samples_and_everyone_gets_enough(make_dataset, check_conserved, law, strength, least, clients, seed):
    dataset = make_dataset(train=60, test=17)
    name = "exponent" if law == "power" else "sigma"
    assignment = Quantity(law, **{name: strength}, min_samples=least).assign(dataset, clients, seed)
    check_conserved(assignment, dataset)
    assert min(len(own) for own in assignment.train) >= least


def test_the_power_law(make_dataset):
    """1 + 1/2 + 1/3 + 1/4 = 25/12: the r-th largest gets one sample and 1200 / r of the other 2500; a tenth to test."""
    assignment = Quantity().assign(make_dataset(train=2504, test=250), 4, 0)
    assert sorted(len(own) for own in assignment.train) == [301, 401, 601, 1201]
    np.testing.assert_allclose(sorted(len(own) for own in assignment.test), [30, 40, 60, 120], atol=1)
    order = np.argsort([len(own) for own in assignment.train])
    assert np.array_equal(order, np.argsort([len(own) for own in assignment.test]))
    others = [np.argmax([len(own) for own in Quantity().assign(make_dataset(), 4, seed).train]) for seed in range(20)]
    assert set(others) == {0, 1, 2, 3}  # missing one has probability 4 (3/4)^20 = 1.3 %; the seeds are fixed


def test_the_log_normal_law(make_dataset):
    """The log of 1000 sizes of 1000 on average has deviation sigma; its own error is sigma / sqrt(2 * 1000) = 2 %."""
    dataset = make_dataset(train=1_000_000)
    sizes = np.array([len(own) for own in Quantity("lognormal", sigma=0.5).assign(dataset, 1000, 0).train])
    assert np.log(sizes).std() == pytest.approx(0.5, rel=0.08)


def test_zero_means_equal_sizes(make_dataset):
    for partition in (Quantity(exponent=0.0), Quantity("lognormal", sigma=0.0)):
        assert [len(own) for own in partition.assign(make_dataset(train=100), 10, 0).train] == [10] * 10


def test_iid_with_a_spread_is_the_log_normal_law(make_dataset, same):
    dataset = make_dataset(train=500)
    assert same(Iid(0.7).assign(dataset, 8, 3), Quantity("lognormal", sigma=0.7).assign(dataset, 8, 3))
    assert not same(Iid().assign(dataset, 8, 3), Iid(0.7).assign(dataset, 8, 3))


def test_the_labels_stay_even(make_dataset):
    """A share of a quarter among 1000 or more samples has a standard deviation of 0.0137 at most; five of them."""
    dataset = make_dataset(train=10_000)
    overall = np.bincount(dataset.train.targets) / 10_000
    for own in Quantity(exponent=0.5).assign(dataset, 5, 0).train:
        assert len(own) > 1000
        np.testing.assert_allclose(np.bincount(dataset.train.targets[own]) / len(own), overall, atol=0.07)


def test_seed_decides(make_dataset, same):
    a, b, c = (Quantity().assign(make_dataset(), 5, seed) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_too_few_samples(make_dataset):
    with pytest.raises(UserError, match=r"num_clients=11: .*min_samples=10 need 110 .* has 100; take at most 10"):
        Quantity(min_samples=10).assign(make_dataset(train=100), 11, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"law": "zipf"},
        {"exponent": -0.1},
        {"exponent": float("nan")},
        {"law": "lognormal", "sigma": float("inf")},
        {"sigma": 1.0},
        {"law": "lognormal", "exponent": 1.0},
        {"min_samples": 0},
    ],
)
def test_refused(values):
    with pytest.raises(FieldError) as error:
        Quantity(**values)
    assert error.value.field == [*values][-1]


@pytest.mark.parametrize("spread", [-1.0, float("nan"), 101.0])
def test_refused_spread(spread):
    with pytest.raises(FieldError, match=r"^spread="):
        Iid(spread)
