"""Rows of malicious clients that are not finite are rejected before any rule: against NumPy on the rows that remain."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.aggregation.bulyan import Bulyan
from fedsim.aggregation.krum import Krum
from fedsim.aggregation.median import Median
from fedsim.aggregation.multi_krum import MultiKrum
from fedsim.aggregation.rules import combine_chunks
from fedsim.aggregation.weighted import Weighted
from fedsim.clients.report import Report
from fedsim.core.cohort import Update
from fedsim.errors import Diverged
from fedsim.federation.prepare import initial_state, prepare
from fedsim.privacy.secure import FixedPoint

pytestmark = pytest.mark.usefixtures("one_thread")

ATTACK = ("attack=scale", "attack.fraction=null", "attack.clients=[1,2]", "attack.factor=1e308")
FAR = (*ATTACK, "client.optimizer.lr=200", "rounds=1")
"""Clients 1 and 2 of five send rows with infinite values, in float64."""
RULES = {
    **{name: (f"aggregator={name}",) for name in ("mean", "fedavg", "median", "geometric_median", "centered_clipping")},
    **{name: (f"aggregator={name}",) for name in ("norm_clipping", "feddyn", "scaffold", "fednova", "qffedavg")},
    "trimmed_mean": ("aggregator=trimmed_mean", "aggregator.combine.beta=0.2"),
    **{name: (f"aggregator={name}", "aggregator.combine.f=1") for name in ("krum", "multi_krum")},
    "local_dp": ("aggregator=mean", "privacy=local_dp"),
    "quantize": ("aggregator=mean", "link/up=quantize"),
    "topk": ("aggregator=mean", "link/up=topk", "link.up.error_feedback=true"),
}


def report(sizes, finite=None):
    sizes = torch.tensor(sizes)
    return Report(sizes, sizes, torch.ones(len(sizes)), finite=finite)


@pytest.mark.parametrize("name", RULES)
def test_the_run_goes_on(tiny, run, name):
    kept = run(tiny(*FAR, *RULES[name]))
    first = kept.metrics[1]
    assert first["rejected"] == first["malicious"] == 2
    assert 0 < first["client_drift"] < math.inf
    assert first["delta_norm"] > 0
    assert kept.metrics[0]["rejected"] == 0


def test_a_weighted_mean_and_its_drift_are_those_of_the_rest(tiny, run):
    kept = run(tiny(*FAR, "aggregator=fedavg"), chunk_size=2)
    deltas = torch.cat(kept.deltas).numpy()
    assert (abs(deltas[[1, 2]]) > 1.8).any(1).all()  # so that 1e308 times it is infinite
    honest, sizes = deltas[[0, 3, 4]], np.array([2, 1, 9])
    mean = sizes @ honest / sizes.sum()
    start = initial_state(kept.simulation).row.numpy()
    np.testing.assert_allclose(kept.rows[0].numpy() - start, mean, rtol=1e-9)
    assert kept.metrics[1]["delta_norm"] == pytest.approx(np.linalg.norm(mean))
    drift = np.sqrt(((honest - mean) ** 2).sum(1).mean())
    assert kept.metrics[1]["client_drift"] == pytest.approx(drift)


def test_nothing_left_changes_nothing(tiny, run):
    for rule in ("fedavg", "median", "scaffold"):
        kept = run(tiny(*FAR, f"aggregator={rule}", "attack.clients=null", "attack.fraction=1"))
        assert kept.metrics[1]["rejected"] == 5
        assert kept.metrics[1]["delta_norm"] is kept.metrics[1]["client_drift"] is None
        assert kept.metrics[1]["train_loss"] > 0
        assert torch.equal(kept.rows[0], initial_state(kept.simulation).row)


def test_central_privacy_goes_on_with_noise_alone(tiny, run):
    """The denominator stays that of the expected cohort: rows that are rejected add nothing to the sum."""
    pytest.importorskip("dp_accounting")
    private = ("aggregator=mean", "privacy=central_dp", "privacy.noise_multiplier=1e-12", "privacy.clip_norm=1")
    kept = run(tiny(*FAR, *private))
    deltas = torch.cat(kept.deltas).numpy()[[0, 3, 4]]
    clipped = deltas / np.maximum(1, np.linalg.norm(deltas, axis=1, keepdims=True))
    moved = kept.rows[0] - initial_state(kept.simulation).row
    np.testing.assert_allclose(moved.numpy(), clipped.sum(0) / 5, atol=1e-9)
    everyone = run(tiny(*FAR, *private, "attack.clients=null", "attack.fraction=1"))
    assert 0 < everyone.metrics[1]["delta_norm"] < 1e-9
    assert everyone.metrics[1]["client_drift"] is None


def test_an_honest_row_that_is_not_finite_is_no_attack(tiny):
    simulation = prepare(tiny(*FAR))
    state = initial_state(simulation)
    round = simulation.begin(state, 1, simulation.schedule.next_cohort(simulation, state, 1))
    screening = next(part for part in simulation.parts if part.group == "screening")
    rows = torch.zeros(5, 4, dtype=torch.float64)
    rows[1, 0], rows[2, 3] = math.nan, math.inf
    update = Update(round.cohort.clients, rows, report([1] * 5), None)
    (passed,) = screening.pass_on(iter([update]), round)
    assert passed.report.finite.tolist() == [True, False, False, True, True]
    assert torch.equal(passed.rows, torch.zeros(5, 4, dtype=torch.float64))
    assert screening.measure(round) == {"rejected": 2}
    rows[4, 1] = -math.inf
    with pytest.raises(Diverged, match="round 1: the update of client 'client_4' is not finite when it arrives"):
        list(screening.pass_on(iter([update]), round))


def test_sums_of_large_rows_are_not_mistaken_for_infinite_ones(tiny):
    """Two rows of 1e308 are finite, though their sum is not."""
    simulation = prepare(tiny(*FAR))
    state = initial_state(simulation)
    round = simulation.begin(state, 1, simulation.schedule.next_cohort(simulation, state, 1))
    screening = next(part for part in simulation.parts if part.group == "screening")
    update = Update(torch.arange(2), torch.full((2, 3), 1e308, dtype=torch.float64), report([1, 1]), None)
    (passed,) = screening.pass_on(iter([update]), round)
    assert passed.report.finite.all()


def test_only_where_rows_can_be_forged(tiny):
    def names(*overrides):
        return [column.name for column in prepare(tiny(*overrides)).columns]

    assert names(*FAR)[-1] == "rejected"
    for without in ((), ("attack=label_flip",), (*FAR, "aggregator=mean", "privacy=secure_aggregation")):
        assert "rejected" not in names(*without)


def test_the_message_names_the_attack(tiny, run):
    """Rows of 1e308 are finite, and so is their mean; the losses of the model that it makes are not."""
    loud = tiny("attack=scale", "attack.factor=1e308", "attack.start_round=2", "rounds=4", "aggregator=fedavg")
    with pytest.raises(Diverged, match=r"^round \d: .*no longer finite.* \(under attack=scale, since round 2\)$"):
        run(loud)
    quiet = tiny("client.optimizer.lr=1e300", "client.optimizer.weight_decay=1e10", "attack=scale", "rounds=9")
    with pytest.raises(Diverged, match=r"finite$"):
        run(replace(quiet, attack=replace(quiet.attack, start_round=9)))


def test_masked_rows_are_clipped_by_their_own_clients():
    """Under secure aggregation nobody can look: 3 levels for 1, so that infinity is 3, and what is no number is 0."""
    rows = torch.tensor([[math.inf, -math.inf, math.nan, 0.5, 9.0]], dtype=torch.float64)
    assert FixedPoint(1.0, 3, None).encode(rows, None).tolist() == [[3, -3, 0, 2, 3]]
    assert FixedPoint(1.0, 4, 2.0).encode(rows, torch.tensor([1])).tolist() == [[2, -2, 0, 1, 2, 2]]


def test_secure_aggregation_goes_on(tiny, run):
    kept = run(tiny(*FAR, "aggregator=mean", "privacy=secure_aggregation", "privacy.clip=0.5"))
    deltas = torch.cat(kept.deltas).numpy()
    deltas[[1, 2]] = np.sign(deltas[[1, 2]]) * np.minimum(abs(deltas[[1, 2]]), 1) * 1e300
    moved = kept.rows[0] - initial_state(kept.simulation).row
    step = 0.5 / ((2**31 - 1) // 5)
    np.testing.assert_allclose(moved.numpy(), np.clip(deltas, -0.5, 0.5).mean(0), atol=step)
    assert kept.metrics[1]["client_drift"] == math.inf


ROWS = np.random.default_rng(5).normal(size=(7, 3)).round(2)


def krum_choice(rows, neighbours):
    distances = np.sort(((rows[:, None] - rows) ** 2).sum(2), axis=1)[:, 1 : neighbours + 1]
    return np.argsort(distances.sum(1), kind="stable")


@pytest.mark.parametrize("left", [1, 2, 3, 4, 6])
def test_rules_make_do_with_fewer_rows(left):
    """Krum with f = 2 wants seven rows and scores three neighbours, which it keeps to as long as there are so many."""
    finite = torch.arange(7) < left
    rows = torch.from_numpy(ROWS).where(finite[:, None], torch.zeros(()).double())

    def combined(rule):
        return combine_chunks(rule, rows[0], [(rows, report([1, 2, 3, 4, 5, 6, 7], finite))]).delta.numpy()

    rest, order = ROWS[:left], krum_choice(ROWS[:left], 3)
    np.testing.assert_allclose(combined(Krum(f=2)), rest[order[0]])
    np.testing.assert_allclose(combined(MultiKrum(f=2)), rest[order[: max(1, left - 2)]].mean(0))
    np.testing.assert_allclose(combined(MultiKrum(f=2, m=4)), rest[order[:4]].mean(0))
    np.testing.assert_allclose(combined(Median()), np.median(rest, axis=0))
    weights = np.arange(1, 8)[:left]
    np.testing.assert_allclose(combined(Weighted()), weights @ rest / weights.sum())
    one = combined(Bulyan(f=1))  # of less than six rows, the value nearest to the median of those that Krum chooses
    assert all(np.isclose(one[p], rest[:, p]).any() or left == 6 for p in range(3))
