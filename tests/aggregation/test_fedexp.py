"""FedExP."""

import numpy as np
import pytest
import torch

from fedsim.aggregation.fedexp import FedExP
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.weighted import Weighted
from fedsim.core.facts import Fact, facts_of
from fedsim.errors import FieldError

RNG = np.random.default_rng(11)
DELTAS, SIZES = RNG.normal(size=(9, 4)), RNG.integers(1, 20, 9)


@pytest.mark.parametrize("chunk", [1, 4, 9])
@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_algorithm_1(combined, chunk, epsilon):
    """Jhunjhunwala 2023, lines 11 to 14, in its own letters: Delta_i = w - w_i, and w moves by - eta_g * Delta."""
    w = RNG.normal(size=4)
    delta_i = w - (w + DELTAS)
    delta = sum(delta_i) / 9
    eta_g = max(1, sum(np.linalg.norm(d) ** 2 for d in delta_i) / (2 * 9 * (np.linalg.norm(delta) ** 2 + epsilon)))
    assert eta_g > 2  # it matters here
    found = combined(FedExP(epsilon=epsilon, by="equal"), DELTAS, chunk, samples=SIZES)
    np.testing.assert_allclose(found, -eta_g * delta, rtol=1e-12)


def test_weights_by_samples(combined):
    """As in the authors' code, with shares of samples for 1 / M in both sums."""
    p = SIZES / SIZES.sum()
    mean = p @ DELTAS
    factor = max(1, p @ (DELTAS**2).sum(1) / (2 * (mean @ mean + 0.001)))
    np.testing.assert_allclose(combined(FedExP(), DELTAS, samples=SIZES), factor * mean, rtol=1e-12)


def test_orthogonal_deltas_of_one_length(combined):
    """C of length a: their mean has the square a^2 / C, so that the factor tends to C / 2."""
    found = combined(FedExP(epsilon=1e-12), 3 * np.eye(8))
    np.testing.assert_allclose(found, 8 / 2 * np.full(8, 3 / 8), rtol=1e-9)


def test_deltas_that_agree_are_averaged(combined):
    """The ratio is at most 1/2 then, and 1 is taken."""
    alike = DELTAS[:1] + 1e-3 * DELTAS
    np.testing.assert_allclose(
        combined(FedExP(), alike, samples=SIZES), combined(Weighted(), alike, samples=SIZES), rtol=1e-14
    )
    np.testing.assert_allclose(combined(FedExP(by="equal"), alike), combined(Mean(), alike), rtol=1e-14)


def test_a_large_epsilon_is_fedavg(tiny, run):
    ours, theirs = run(tiny("aggregator=fedexp", "aggregator.combine.epsilon=1e9")), run(tiny("aggregator=fedavg"))
    torch.testing.assert_close(ours.state.row, theirs.state.row, rtol=1e-13, atol=1e-14)


def test_a_run_lengthens_the_step(tiny, run):
    """The deltas of a round, put together by the equation, are what the global model moves by."""
    found = run(tiny("aggregator=fedexp", "aggregator.combine.epsilon=1e-6", "client.optimizer.lr=1", "rounds=6"))
    factors = []
    for number in range(1, 6):
        rows, n = found.deltas[number].numpy(), found.reports[number].num_samples.numpy()
        p = n / n.sum()
        mean = p @ rows
        factors.append(max(1, p @ (rows**2).sum(1) / (2 * (mean @ mean + 1e-6))))
        moved = (found.rows[number] - found.rows[number - 1]).numpy()
        np.testing.assert_allclose(moved, factors[-1] * mean, rtol=1e-9, atol=1e-12)
    assert max(factors) > 1.1


def test_what_it_reads():
    assert Fact.READS_REPORT in facts_of("aggregator/combine", FedExP())
    assert set(facts_of("aggregator/combine", FedExP(by="equal"))) == {Fact.READS_ROWS, Fact.COMPARES}


@pytest.mark.parametrize(("field", "value"), [("epsilon", 0.0), ("by", "loss")])
def test_bad_values(field, value):
    with pytest.raises(FieldError, match=field):
        FedExP(**{field: value})
