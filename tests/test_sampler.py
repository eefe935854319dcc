"""Who takes part."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import FieldError, UserError
from fedsim.sampler import Uniform


@given(num_clients=st.integers(1, 50), fraction=st.floats(0.001, 1), number=st.integers(1, 100))
def test_a_cohort_is_some_of_the_clients_in_order(num_clients, fraction, number):
    cohort = Uniform(fraction=fraction).cohort(num_clients, number, 0)
    assert cohort.dtype == torch.int64
    assert len(cohort) == max(1, round(fraction * num_clients))
    assert cohort.tolist() == sorted(set(cohort.tolist()))
    assert 0 <= int(cohort[0]) <= int(cohort[-1]) < num_clients


def test_everyone():
    assert Uniform().cohort(5, 1, 0).tolist() == [0, 1, 2, 3, 4]
    assert Uniform(fraction=None, cohort_size=5).cohort(5, 3, 9).tolist() == [0, 1, 2, 3, 4]


def test_cohorts_depend_on_round_and_seed_only():
    sampler = Uniform(fraction=None, cohort_size=10)

    def draw(number, seed):
        return tuple(sampler.cohort(1000, number, seed).tolist())

    assert draw(1, 0) == draw(1, 0)
    assert len({draw(1, 0), draw(2, 0), draw(3, 0), draw(1, 1)}) == 4


def test_all_clients_are_equally_likely():
    """Chi-square of 2000 rounds of 3 out of 10.

    Drawn without replacement, a client's count has variance ``n p (1 - p)`` with p = 0.3, and the sum of
    ``(count - 600)^2 / (n p (1 - p)) * (N - 1) / N`` is chi-square with 9 degrees of freedom: 99.9 % point 27.9.
    """
    sampler, n, p = Uniform(fraction=0.3), 2000, 0.3
    counts = torch.zeros(10)
    for number in range(1, n + 1):
        counts[sampler.cohort(10, number, 4)] += 1
    assert float(((counts - n * p) ** 2 / (n * p * (1 - p))).sum()) * 9 / 10 < 27.9


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match=r"cohort_size=6: there are only 5"):
        Uniform(fraction=None, cohort_size=6).check(5)
    Uniform(fraction=None, cohort_size=5).check(5)
    for values in ({"fraction": 0}, {"fraction": 1.1}, {"fraction": 0.5, "cohort_size": 3}, {"fraction": None}):
        with pytest.raises(FieldError, match="fraction"):
            Uniform(**values)
    with pytest.raises(FieldError, match="cohort_size"):
        Uniform(fraction=None, cohort_size=0)
