"""Applying a rule to a cohort in chunks, and the spread of its deltas."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fedsim.aggregation.mean import Mean
from fedsim.aggregation.rules import WeightedSum, combine_chunks, concatenate_reports
from fedsim.clients.report import Report
from fedsim.core.cohort import BLOCK

DELTAS = np.random.default_rng(2).normal(size=(9, 6)) + 0.3


def report_of(clients, validation=True):
    numbers = torch.as_tensor(clients)
    loss = numbers.double() / 10 if validation else None
    return Report(numbers + 1, numbers * 2, numbers.double(), loss, None)


def chunks_of(deltas, size):
    rows = torch.tensor(deltas)
    return [
        (part, report_of(range(start, start + len(part))))
        for start, part in zip(range(0, len(rows), size), rows.split(size), strict=True)
    ]


@dataclass(frozen=True)
class Median:
    """A rule that needs the whole cohort."""

    def combine(self, deltas, report):
        assert report.num_samples.tolist() == list(range(1, len(deltas) + 1))
        return deltas.median(0).values


@pytest.mark.parametrize("size", [1, 4, 9])
def test_a_cohort_rule_sees_every_row_at_once(size):
    delta, _ = combine_chunks(Median(), torch.zeros(6, dtype=torch.float64), chunks_of(DELTAS, size))
    np.testing.assert_array_equal(delta, np.median(DELTAS, 0))


@pytest.mark.parametrize("rule", [Mean(), Median()])
@pytest.mark.parametrize("size", [1, 4, 9])
def test_client_drift(rule, size):
    """Directly: the root of the mean squared distance of the deltas from the combined one."""
    delta, spread = combine_chunks(rule, torch.zeros(6, dtype=torch.float64), chunks_of(DELTAS, size))
    direct = np.sqrt(np.mean(np.sum((DELTAS - delta.numpy()) ** 2, 1)))
    assert spread.drift(delta) == pytest.approx(direct, rel=1e-12)


def test_equal_deltas_do_not_drift():
    """The squares cancel to rounding: sqrt(1e-16) of their size is what can be left."""
    delta, spread = combine_chunks(
        Mean(), torch.zeros(6, dtype=torch.float64), chunks_of(np.tile(DELTAS[:1], (5, 1)), 2)
    )
    assert spread.drift(delta) == 0


def test_the_delta_has_the_dtype_of_the_row():
    delta, _ = combine_chunks(Mean(), torch.zeros(6), chunks_of(DELTAS.astype(np.float32), 4))
    assert delta.dtype == torch.float32


def test_a_sum_of_many_blocks():
    rows = np.random.default_rng(3).normal(size=(2 * BLOCK + 5, 3)).astype(np.float32)
    weights = np.arange(1.0, len(rows) + 1)
    total = WeightedSum(torch.zeros(3, dtype=torch.float64))
    total.add(torch.tensor(rows), torch.tensor(weights))
    np.testing.assert_allclose(total.total, weights @ rows.astype(np.float64), rtol=1e-12)
    assert total.weight == weights.sum()


def test_reports_are_joined_in_order():
    joined = concatenate_reports([report_of([0, 1]), report_of([2])])
    assert joined.num_samples.tolist() == [1, 2, 3]
    assert joined.local_steps.tolist() == [0, 2, 4]
    assert joined.validation_loss.tolist() == pytest.approx([0, 0.1, 0.2])
    assert joined.validation_accuracy is None
