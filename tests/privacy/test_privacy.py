"""What is clipped, what noise is added, and with what the mechanisms do not go."""

import math

import numpy as np
import pytest
import torch

from fedsim import seeding
from fedsim.aggregation.rules import combine_chunks
from fedsim.clients.report import Report
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import prepare
from fedsim.privacy.budget import Budget
from fedsim.privacy.central import AdaptiveCentralDP, CentralDP
from fedsim.privacy.local import LocalDP

pytestmark = pytest.mark.usefixtures("one_thread")


def spending(z, expected=10.0):
    return Budget(z, 1e-5, "add or remove one client", expected, lambda rounds: 0.0)


def combined(rule, rows):
    count = torch.ones(len(rows), dtype=torch.int64)
    parts = [
        (rows[which], Report(count[which], count[which], count[which].double()))
        for which in torch.arange(len(rows)).split(3)
    ]
    return combine_chunks(rule, torch.zeros(rows.shape[1], dtype=rows.dtype), parts)[0]


def rows(count, size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, size)))


def test_central_by_hand():
    """Rows clipped to norm 2, their sum over the fixed denominator 10, without noise worth speaking of."""
    deltas = rows(7, 5) * torch.tensor([0.1, 1, 5, 0.2, 3, 0, 1])[:, None]
    found = combined(CentralDP(clip_norm=2.0).private_mean({}, spending(1e-12), 0, 1), deltas)
    norms = np.linalg.norm(deltas, axis=1)
    clipped = deltas.numpy() * np.minimum(1, 2 / np.maximum(norms, 1e-300))[:, None]
    np.testing.assert_allclose(found, clipped.sum(0) / 10, rtol=1e-9, atol=1e-12)


def test_central_noise():
    """Standard deviation ``z S / denominator`` of each number, other in every round, and in rounds without clients."""
    mechanism = CentralDP(clip_norm=3.0)
    first, second = (mechanism.private_mean({}, spending(2.0), 0, number) for number in (1, 2))
    one, two = (combined(rule, rows(4, 20000) * 0) for rule in (first, second))
    assert float(one.std()) == pytest.approx(3 * 2 / 10, rel=0.02)
    assert abs(float(one.mean())) < 0.02
    assert not torch.equal(one, two)
    alone = combine_chunks(first, torch.zeros(20000, dtype=torch.float64), [])[0]
    assert torch.equal(alone, one)


@pytest.mark.parametrize("change", ["add", "replace"])
def test_sensitivity(change):
    """However long a delta, the sum moves by S if it is there or not, and by 2 S if it is another."""
    deltas = rows(6, 8) * 100
    rule = CentralDP(clip_norm=2.0).private_mean({}, spending(1.0), 0, 1)
    other = deltas[:-1] if change == "add" else torch.cat([deltas[:-1], -deltas[-1:]])
    ways = [combined(rule, r) for r in (deltas, other)]
    assert float((ways[0] - ways[1]).norm()) * 10 == pytest.approx(2 if change == "add" else 4)


def test_adaptive_norm_by_hand():
    """Andrew 2021, Algorithm 1: ``S <- S exp(-eta (b - gamma))`` with b the noisy share of deltas within S, and more
    noise on the deltas, ``z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2)``."""
    mechanism = AdaptiveCentralDP(clip_norm=1.0, quantile=0.3, clip_lr=0.5, count_noise=1.5)
    drawer = mechanism.first_bound()
    deltas = torch.cat([torch.zeros(4, 20000), torch.ones(6, 20000)]).double()
    found = combined(mechanism.private_mean(drawer, spending(2.0), 5, 3), deltas * 0)
    z = (2.0**-2 - 3.0**-2) ** -0.5
    assert float(found.std()) == pytest.approx(z / 10, rel=0.02)
    combined(mechanism.private_mean(drawer := mechanism.first_bound(), spending(2.0), 5, 3), deltas)
    noise = 1.5 * float(seeding.generator(5, "count noise", 3).standard_normal())
    share = (4 * 0.5 - 6 * 0.5 + noise) / 10 + 0.5
    assert float(drawer["clip_norm"]) == pytest.approx(math.exp(-0.5 * (share - 0.3)))
    assert mechanism.private_mean(drawer, spending(2.0), 5, 4).clip_norm == float(drawer["clip_norm"])


def test_local_by_hand():
    """Each row clipped, with noise of its client and place."""
    clients, deltas = torch.arange(5) * 3, rows(5, 20000)
    mechanism, key = LocalDP(clip_norm=2.0), seeding.stream_key(0, "local noise", 1)
    found = mechanism.privatise(deltas, clients, key, spending(1.5))
    clipped = deltas * (2 / deltas.norm(dim=1, keepdim=True))
    noise = found - clipped
    assert float(noise.std()) == pytest.approx(3, rel=0.02)
    assert abs(float(np.corrcoef(noise)[0, 1])) < 0.03
    assert torch.equal(mechanism.privatise(deltas[2:3], clients[2:3], key, spending(1.5)), found[2:3])


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("privacy=central_dp",), "which aggregator/combine=weighted is not; take aggregator/combine=mean"),
        (
            ("privacy=central_dp", "aggregator=median"),
            "which aggregator/combine=median is not; take aggregator/combine=mean",
        ),
        (("privacy=central_dp", "aggregator=feddyn"), "aggregator/correction=feddyn tells the server more"),
        (("privacy=central_dp", "aggregator=mean", "aggregator/correction=scaffold"), "correction=scaffold tells"),
        (
            ("privacy=central_dp", "aggregator=mean", "client.keep_optimizer_state=true", "client/optimizer=adam"),
            "the accountant of privacy",
        ),
        (
            ("privacy=central_dp", "aggregator=mean", "link/up=topk"),
            "link.up.error_feedback=true: lets a client's delta depend on rounds",
        ),
        (("privacy=central_dp", "aggregator=mean", "aggregator.blocks=[head]"), "which the accountant"),
        (("privacy=central_dp", "aggregator=mean", "attack=ipm"), "no client's influence is bounded"),
        (("privacy=local_dp",), "asks clients for more than a delta"),
        (("privacy=local_dp", "aggregator=scaffold", "aggregator/combine=mean"), "keeps or sends what the noise"),
        (("privacy=local_dp", "aggregator=local"), "nothing is sent"),
        (
            ("privacy=local_dp", "aggregator=mean", "sampler=power_of_choice", "sampler.cohort_size=2"),
            "asks clients for losses or sizes",
        ),
    ],
)
def test_pairs_that_are_refused(tiny, overrides, text):
    with pytest.raises(UserError, match=text):
        prepare(tiny(*overrides))


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("sampler=round_robin", "sampler.cohort_size=2"), "sampler=round_robin: the accountant"),
        (("privacy=central_dp_adaptive",), "privacy.count_noise=0.25: must be more than half of the noise multiplier"),
    ],
)
def test_samplers_that_are_refused(tiny, overrides, text):
    pytest.importorskip("dp_accounting")
    with pytest.raises(UserError, match=text):
        prepare(tiny("privacy=central_dp", "aggregator=mean", *overrides))


@pytest.mark.parametrize("name", ["central_dp", "central_dp_adaptive", "local_dp"])
def test_whole_runs(tiny, run, name):
    """Chunks change nothing; epsilon grows with the rounds, from zero; a target is met in the last one."""
    pytest.importorskip("dp_accounting")
    more = ("privacy.count_noise=9",) if name == "central_dp_adaptive" else ()
    on = tiny(f"privacy={name}", "privacy.target_epsilon=20", "aggregator=mean", "rounds=4", *more)
    whole, chunked = run(on), run(on, chunk_size=2)
    for a, b in zip(whole.rows, chunked.rows, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm()
    spent = [m["epsilon"] for m in whole.metrics]
    assert spent[0] == 0
    assert spent == sorted(set(spent))
    assert spent[-1] == pytest.approx(20, rel=1e-3)
    assert {m["delta"] for m in whole.metrics} == {1e-5}
    assert ("clip_norm" in whole.metrics[1]) == (name == "central_dp_adaptive")
    assert (whole.rows[-1] - run(tiny("aggregator=mean", "rounds=4")).rows[-1]).norm() > 0.1


def test_rounds_without_clients_are_noise(tiny, run):
    pytest.importorskip("dp_accounting")
    sampled = ("sampler=poisson", "sampler.probability=0.05", "rounds=6")
    result = run(tiny("privacy=central_dp", "aggregator=mean", *sampled))
    empty = [m for m in result.metrics[1:] if m["clients"] == 0]
    assert empty
    assert all(m["delta_norm"] > 0 and m["train_loss"] is None and m["epsilon"] > 0 for m in empty)


def test_local_epsilon_is_that_of_who_took_part_most(tiny, run):
    """Five clients in turn, one a round: nobody has spent twice until round six."""
    pytest.importorskip("dp_accounting")
    turns = ("sampler=round_robin", "sampler.cohort_size=1", "rounds=6")
    spent = [m["epsilon"] for m in run(tiny("privacy=local_dp", "aggregator=mean", *turns)).metrics]
    assert len(set(spent[1:6])) == 1
    assert spent[6] > spent[5]


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        *((cls, {"clip_norm": 0}) for cls in (CentralDP, LocalDP)),
        *((CentralDP, {"delta": value}) for value in (0, 1, float("nan"))),
        (CentralDP, {"noise_multiplier": 0}),
        (CentralDP, {"noise_multiplier": None}),
        (CentralDP, {"target_epsilon": 1.0}),
        (CentralDP, {"noise_multiplier": None, "target_epsilon": -1.0}),
        *((AdaptiveCentralDP, {name: -1.0}) for name in ("quantile", "clip_lr", "count_noise")),
    ],
)
def test_wrong_values(cls, changes):
    with pytest.raises(FieldError):
        cls(**changes)


def test_a_target_depends_on_the_rounds():
    assert CentralDP(noise_multiplier=None, target_epsilon=1.0).depends_on_rounds
    assert not CentralDP().depends_on_rounds


def test_a_base_is_no_option(tiny):
    """It would clip nothing, add no noise, and count what that spends."""
    with pytest.raises(UserError, match="privacy: Clipped is only the base of components, as it has no bind"):
        tiny("privacy._target_=fedsim.privacy.privacy.Clipped")
