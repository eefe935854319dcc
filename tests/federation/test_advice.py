"""What is said at the start of a run about sampling, weights and stopping."""

import numpy as np
import pytest
import torch

from fedsim.federation.prepare import prepare
from fedsim.samplers.weighted import WeightedBySize

SAMPLED = ("sampler.cohort_size=2", "client.epochs=1")
UNBIASED = "sampler=weighted with aggregator/combine=mean, or sampler=uniform with aggregator/combine=weighted"


def advice(tiny, *overrides):
    return prepare(tiny(*overrides)).advice


def test_sizes_that_count_twice(tiny):
    for rule in ("fedavg", "geometric_median", "fednova", "norm_clipping"):
        (line,) = advice(tiny, "sampler=weighted", f"aggregator={rule}", *SAMPLED)
        assert line.startswith("sampler=weighted draws clients in proportion to their samples, and aggregator/combine=")
        assert line.endswith(UNBIASED)
    for quiet in (
        ("sampler=weighted", "aggregator=mean"),
        ("sampler=weighted", "aggregator=median"),
        ("sampler=weighted", "aggregator=qffedavg"),
        ("sampler=uniform", "aggregator=fedavg"),
        ("sampler=uniform", "aggregator=mean"),
    ):
        assert advice(tiny, *quiet, *SAMPLED) == ()


def test_the_paper_of_qffl_draws_by_size(tiny):
    (line,) = advice(tiny, "aggregator=qffedavg", *SAMPLED)
    assert line.startswith("aggregator/combine=qffl has no sample counts in its formula")
    assert advice(tiny, "aggregator=qffedavg") == ()  # everybody takes part


def test_what_counts_twice():
    """Five clients, one with a third of the samples, two a round: its mean share of the weight, against 1/3.

    Drawn by size, it is in a round with probability p = 1/3 + 4 * 1/6 * (1/3) / (5/6) = 0.6. The plain mean then
    gives it a half: 0.3, the nearer to 1/3 the smaller the cohort. Weights by samples, of 2 to 1 against any other,
    give it two thirds: 0.4.
    """
    sizes = torch.tensor([10, 5, 5, 5, 5])
    sampler = WeightedBySize(fraction=None, cohort_size=2)
    plain, weighted = [], []
    for number in range(1, 4001):
        cohort = sampler.cohort(sizes, number, 0, None)
        there = bool((cohort == 0).any())
        plain.append(there / 2)
        weighted.append(there * 10 / float(sizes[cohort].sum()))
    # standard errors of 0.004 and 0.005
    assert np.mean(plain) == pytest.approx(0.3, abs=0.02)
    assert np.mean(weighted) == pytest.approx(0.4, abs=0.02)


def test_who_stops_together(tiny):
    (line,) = advice(tiny, "baseline=local", "stop.patience=3")
    assert line.startswith("baseline=local: stop ends all clients together")
    (line,) = advice(tiny, "aggregator=local", "stop.target=0.9")
    assert line.startswith("aggregator.blocks=[]: stop ends")
    assert advice(tiny, "baseline=local") == advice(tiny, "stop.patience=3") == ()
