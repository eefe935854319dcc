"""Means from masked rows: how exact, what they cost, and with what they do not go."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.aggregation.rules import combine_chunks
from fedsim.aggregation.weighted import Weighted
from fedsim.clients.report import Report
from fedsim.core.cohort import Cohort, Traffic
from fedsim.core.facts import Fact
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.traffic import Books
from fedsim.models.blocks import Blocks
from fedsim.privacy.secure import FixedPoint, SecureAggregation, SecureMean

pytestmark = pytest.mark.usefixtures("one_thread")

SECURE = "privacy=secure_aggregation"
MEAN = (SECURE, "aggregator=mean")


def combined(rule, deltas, samples=None, size=3):
    """The rule's mean ``[P]`` of rows that come `size` at a time."""
    samples = torch.ones(len(deltas), dtype=torch.int64) if samples is None else samples
    parts = [
        (deltas[which], Report(samples[which], samples[which], samples[which].double()))
        for which in torch.arange(len(deltas)).split(size)
    ]
    return combine_chunks(rule, torch.zeros(deltas.shape[1], dtype=torch.float64), parts)[0]


def cohort(sim, arriving):
    """A round in which all five clients are asked, and these arrive."""
    clients = torch.tensor(list(arriving))
    return Cohort(clients, sim.task.steps(clients), torch.arange(5))


def secure_mean(privacy, arriving, largest, samples=None, asked=9):
    """The rule of a round in which clients `arriving` of 0 to `asked` - 1 send rows."""
    weigh = None if samples is None else Weighted().weights
    numbers = FixedPoint(
        privacy.clip,
        ((1 << (privacy.bits - 1)) - 1) // largest,
        None if samples is None else float(samples.max()),
    )
    places = torch.tensor(arriving)
    return SecureMean(privacy.masking(torch.arange(asked), 0, 1), places, places, numbers, weigh, {})


@given(
    arriving=st.lists(st.integers(0, 8), min_size=2, max_size=9, unique=True),
    bits=st.integers(6, 53),
    clip=st.sampled_from([0.01, 1.0, 40.0]),
    neighbours=st.sampled_from([None, 2]),
    seed=st.integers(0, 99),
)
def test_a_plain_mean_is_exact_to_half_a_step(arriving, bits, clip, neighbours, seed):
    """Each of C rounded numbers is off by half a step at most, ``|sum / C - mean| <= C * step / 2 / C``; the float64
    arithmetic around it by some units in the last place of `clip`."""
    privacy = SecureAggregation(bits=bits, clip=clip, neighbours=neighbours)
    deltas = torch.from_numpy(np.random.default_rng(seed).uniform(-clip, clip, (len(arriving), 4)))
    rule = secure_mean(privacy, arriving, largest=9)
    step = clip / rule.numbers.levels
    error = (combined(rule, deltas) - deltas.mean(0)).abs().max()
    assert error <= step / 2 + 1e-14 * clip


@given(
    samples=st.lists(st.integers(1, 500), min_size=2, max_size=9),
    bits=st.integers(24, 53),
    seed=st.integers(0, 99),
)
def test_a_weighted_mean_is_exact_to_some_steps(samples, bits, seed):
    """With ``u_k = U_k / Q`` for ``w_k = n_k / max n``: rounding the rows moves the sum by ``C * step / 2`` at most.
    Rounding the weights, each by ``1 / (2 Q)``, moves the mean m by
    ``|sum (u_k - w_k) (delta_k - m)| / sum u <= C / (2 Q) * 2 clip / sum u = C * step / sum u``."""
    clip, samples = 2.0, torch.tensor(samples)
    deltas = torch.from_numpy(np.random.default_rng(seed).uniform(-clip, clip, (len(samples), 4)))
    rule = secure_mean(SecureAggregation(bits=bits, clip=clip), list(range(len(samples))), 9, samples)
    step, shares = clip / rule.numbers.levels, samples.double() / samples.max()
    expected = (samples.double() @ deltas) / samples.sum()
    error = (combined(rule, deltas, samples) - expected).abs().max()
    count = len(samples)
    assert error <= 1.5 * count * step / (float(shares.sum()) - count / (2 * rule.numbers.levels)) + 1e-13 * clip


@pytest.mark.parametrize("bits", [5, 8, 32, 53])
@pytest.mark.parametrize("weights", [None, torch.full((9,), 7)])
def test_the_largest_sums_do_not_wrap(bits, weights):
    """Every number of the largest cohort at an end of the range, or beyond it."""
    deltas = torch.tensor([[1.0, -1.0, 100.0, -math.inf]]).double().repeat(9, 1)
    rule = secure_mean(SecureAggregation(bits=bits, clip=1.0), list(range(9)), 9, weights)
    found = combined(rule, deltas, weights)
    np.testing.assert_allclose(found, [1, -1, 1, -1], rtol=1e-12)
    assert rule.notes["privacy.clipped"] == 18


def test_parameters_that_stay_with_clients_are_not_sent():
    deltas = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 6)))
    blocks = Blocks(6, shared=torch.tensor([1, 4]), private=torch.tensor([0, 2, 3, 5]))
    rule = secure_mean(SecureAggregation(), list(range(5)), 9)
    assert rule.start(blocks.cut(deltas[0])).total.shape == (2,)
    expected = torch.zeros(6, dtype=torch.float64)
    expected[[1, 4]] = deltas.mean(0)[[1, 4]]
    torch.testing.assert_close(blocks.scatter(combined(rule, blocks.cut(deltas))), expected, rtol=1e-6, atol=1e-7)


def test_the_server_adds_masked_rows():
    """What it has after one client is that client's row under all its masks, and nothing like the row."""
    deltas, ones = torch.zeros((2, 5), dtype=torch.float64), torch.ones(1, dtype=torch.int64)
    rule = secure_mean(SecureAggregation(), [0, 1], 9)
    state = rule.start(deltas[0])
    rule.add(state, deltas[:1], Report(ones, ones, ones.double()))
    zeros = torch.zeros((1, 5), dtype=torch.int64)
    assert torch.equal(state.total, rule.masking.masked(zeros, torch.tensor([0]))[0])
    assert int(state.total.min()) > 2**20


def test_bytes_of_keys_and_shares(tiny):
    """Bonawitz 2017, section 7.1: ``2 n a_K + (5 n - 4) a_S + m k`` bits to and from a client, of 256-bit keys and
    shares; with d neighbours, n = d + 1."""
    plain, weighted = (prepare(tiny(*more)).bound for more in (MEAN, (SECURE,)))
    privacy = SecureAggregation(bits=20).bind(replace(plain, blocks=Blocks(1001)))

    def each(privacy, asked):
        down, *rest = privacy.add_bytes(Traffic(torch.zeros(asked, dtype=torch.int64)), torch.arange(asked), None, 1)
        assert len(down) == asked
        (down,) = {*down.tolist()}
        return Traffic(down, *rest)

    for asked, n in ((2, 2), (10, 10), (100, 100)):
        t = each(privacy, asked)
        assert t.down + t.before + t.after == 2 * n * 32 + (5 * n - 4) * 32
    sparse = replace(privacy, settings=SecureAggregation(neighbours=6))
    assert each(sparse, 100) == each(privacy, 7)
    assert each(sparse, 3) == each(privacy, 3)
    assert each(privacy, 2).row == 2503  # 1001 * 20 / 8 = 2502.5
    assert SecureAggregation(bits=20).bind(replace(weighted, blocks=Blocks(1001))).row_bytes == 2505


# ---------------------------------------------------------------------------------------------------------------------
# whole runs


@pytest.mark.parametrize("aggregator", ["fedavg", "mean", "fedadam", "fedprox", "fedsam"])
def test_runs_are_as_without_it(tiny, run, aggregator):
    """But for rounding to steps of 4 / (2^31 / 5) = 9e-9; chunks change nothing."""
    plain = run(tiny(f"aggregator={aggregator}", "rounds=3"))
    on = tiny(SECURE, f"aggregator={aggregator}", "rounds=3")
    secure = run(on)
    assert not torch.equal(secure.rows[0], plain.rows[0])
    tolerance = 1e-2 if aggregator == "fedadam" else 1e-6  # its first step divides by deltas that may be near zero
    assert (secure.rows[-1] - plain.rows[-1]).norm() < tolerance * plain.rows[-1].norm()
    for size in (1, 2):
        assert (run(on, chunk_size=size).rows[-1] - secure.rows[-1]).norm() < 1e-7
    assert [m["aborted"] for m in secure.metrics] == [0, 0, 0, 0]
    assert [m["clipped_values"] for m in secure.metrics] == [0, 0, 0, 0]
    assert secure.state.drawers.keys() == plain.state.drawers.keys()


def test_a_ring_gives_the_same_sums_for_fewer_bytes(tiny, run):
    """Masks cancel bit for bit, whoever shares them."""
    ring, all_pairs = run(tiny(*MEAN, "privacy.neighbours=2")), run(tiny(*MEAN))
    assert torch.equal(ring.rows[-1], all_pairs.rows[-1])
    assert ring.metrics[1]["bytes_up"] < all_pairs.metrics[1]["bytes_up"]


@pytest.mark.parametrize("attack", ["sign_flip", "min_max"])
def test_with_private_blocks_attacks_and_a_link_down(tiny, run, attack):
    others = (f"attack={attack}", "attack.clients=[1]", "link/down=quantize", "aggregator.blocks=[recurrent]")
    plain, secure = run(tiny(*others, "rounds=3")), run(tiny(SECURE, *others, "rounds=3"))
    assert secure.metrics[-1]["malicious"] == 1
    assert (secure.rows[-1] - plain.rows[-1]).norm() < 1e-4 * plain.rows[-1].norm()


def test_bytes_of_a_run(tiny, run):
    """174 numbers of 24 bits and the weight; 5 clients of which each has 4 partners."""
    metrics = run(tiny(SECURE, "privacy.bits=24", "rounds=2")).metrics
    up, down = 175 * 3 + (2 + 3 * 5 - 2) * 32, 174 * 8 + 4 * 4 * 32
    assert [m["bytes_up"] for m in metrics] == [0, 5 * up, 10 * up]
    assert [m["bytes_down"] for m in metrics] == [0, 5 * down, 10 * down]


def test_who_drops_out_has_sent_keys_and_shares(tiny):
    """Two keys and two shares for each of four partners."""
    sim = prepare(tiny(*MEAN))
    books = []
    for senders in (5, 3):
        state = initial_state(sim)
        Books().close(sim.begin(state, 1, cohort(sim, range(senders))))
        books.append(tuple(int(state.drawers["traffic"][way]) for way in ("up", "down")))
    row, before, after = 174 * 4, (2 + 2 * 4) * 32, 5 * 32
    assert [up for up, _ in books] == [5 * (row + before + after), 3 * (row + before + after) + 2 * before]
    assert books[0][1] == books[1][1]


def test_the_step_is_told(tiny):
    """``clip / floor((2^(k-1) - 1) / C)``: 1 / floor(511 / 5) = 1 / 102."""
    sim = prepare(tiny(*MEAN, "privacy.bits=10", "privacy.clip=1"))
    assert sim.privacy.introduce() == ["secure aggregation: sums modulo 2^10 of numbers in steps of 0.0098"]


def test_clipped_values_are_counted(tiny, run):
    metrics = run(tiny(*MEAN, "privacy.clip=0.001", "rounds=2")).metrics
    assert metrics[0]["clipped_values"] == 0
    assert all(0 < m["clipped_values"] <= 5 * 174 for m in metrics[1:])


@pytest.mark.parametrize("aggregator", ["mean", "fedavg"])
def test_rows_that_do_not_arrive(tiny, aggregator):
    """The mean of those that do, however many were asked; None where they are too few."""
    sim = prepare(tiny(SECURE, f"aggregator={aggregator}"))
    state = initial_state(sim)
    deltas = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 174)))
    for arriving in ([0, 1, 2, 3, 4], [0, 2, 3], [4, 1, 3, 2]):
        rule = sim.privacy.rule(sim.bound.combine, sim.begin(state, 1, cohort(sim, arriving)))
        samples = sim.population.train.sizes[arriving]
        weights = samples.double() if aggregator == "fedavg" else torch.ones(len(arriving)).double()
        expected = weights @ deltas[arriving] / weights.sum()
        torch.testing.assert_close(combined(rule, deltas[arriving], samples, size=2), expected, rtol=0, atol=1e-7)
    round = sim.begin(state, 1, cohort(sim, [0, 3]))
    assert sim.privacy.rule(sim.bound.combine, round) is None
    assert sim.privacy.measure(round)["aborted"] == 1


def test_a_round_of_too_few_is_aborted(tiny, run):
    """Cohorts of one: the client trains, the model stays, momentum too; the sum of one row would be that row."""
    options = ("aggregator=fedavgm", "sampler=poisson", "sampler.probability=0.3", "rounds=9")
    result = run(tiny(SECURE, *options))
    rows = [initial_state(result.simulation).row, *result.rows]
    clients = [m["clients"] for m in result.metrics]
    assert {0, 1} < set(clients[1:])
    for before, after, m in zip(rows, rows[1:], result.metrics[1:], strict=False):
        assert m["aborted"] == (m["clients"] == 1)
        assert torch.equal(before, after) == (m["clients"] < 2)
        assert (m["delta_norm"] is None) == (m["clients"] < 2)
        assert (m["train_loss"] is None) == (m["clients"] == 0)


def test_devices_that_drop_out_in_mid_round(tiny, run):
    """As without masks while enough are left; else the round is aborted."""
    devices = ("system=devices", "system.dropout=0.4", "rounds=9", "aggregator=mean")
    plain, secure = run(tiny(*devices)), run(tiny(SECURE, *devices))
    rows = [initial_state(secure.simulation).row, *secure.rows]
    aborted = [m["aborted"] for m in secure.metrics[1:]]
    assert set(aborted) == {0, 1}
    for before, after, m, n in zip(rows, rows[1:], secure.metrics[1:], plain.metrics[1:], strict=False):
        assert m["clients"] + m["dropped"] == 5
        assert m["aborted"] == (m["clients"] < 3)  # more than half of the five who hold a share of its seeds
        assert torch.equal(before, after) == bool(m["aborted"])
        assert (m["clients"], m["dropped"]) == (n["clients"], n["dropped"])
    first = aborted.index(1)
    if first > 0:
        assert (rows[first] - plain.rows[first - 1]).norm() < 1e-6 * rows[first].norm()
    # Everybody sent keys and shares; those who stayed a row, and shares to take the masks off.
    row, before, after = 174 * 4, (2 + 2 * 4) * 32, 5 * 32
    sent = sum(5 * before + m["clients"] * (row + after) for m in secure.metrics[1:])
    assert secure.metrics[-1]["bytes_up"] == sent


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("aggregator=median",), "a sum of the rows and no single one, from which aggregator/combine=median"),
        (("aggregator=geometric_median",), "combine=geometric_median cannot be made"),
        (("aggregator=norm_clipping",), "combine=norm_clipped_mean cannot"),
        (("aggregator=fednova",), "combine=fednova has none"),
        (("aggregator=qffedavg",), "combine=qffl cannot"),
        (("aggregator=scaffold",), "correction=scaffold needs more"),
        (("aggregator=feddyn",), "correction=feddyn needs more"),
        (("link/up=quantize",), "would lose something and save nothing"),
        (("sampler=power_of_choice", "sampler.cohort_size=2"), "asks clients for losses or sizes"),
        (("sampler=weighted", "sampler.cohort_size=2"), "asks clients for losses or sizes"),
        (("sampler.cohort_size=1",), "the sum of one client's rows is that row"),
        (("privacy.neighbours=4",), "privacy.neighbours=4: in cohorts of 5 each client shares masks with all others"),
        (
            ("privacy.threshold=0.19",),
            "privacy.threshold=0.19: each secret has 5 shares, and a single one of them would open it; take at least "
            "0.2$",
        ),
        (
            ("privacy.neighbours=2", "privacy.threshold=0.3"),
            r"privacy.threshold=0.3: each secret has 3 shares, and .*; take at least 0.334$",
        ),
        (("aggregator=local",), "nothing is sent"),
        (("privacy.bits=3", "aggregator=mean"), "privacy.bits=3: too few for sums of 5 clients; take at least 4"),
        (("privacy.bits=6",), "of which one weighs 13 times another; take at least 8"),
    ],
)
def test_what_is_refused(tiny, overrides, text):
    with pytest.raises(UserError, match=text):
        prepare(tiny(SECURE, *overrides))


def test_the_bits_that_a_refusal_asks_for_are_enough(tiny, run):
    assert run(tiny(*MEAN, "privacy.bits=4", "rounds=1")).metrics[1]["delta_norm"] is not None
    assert run(tiny(SECURE, "privacy.bits=8", "rounds=1")).metrics[1]["delta_norm"] is not None
    with pytest.raises(UserError, match=r"privacy\.bits=7"):
        prepare(tiny(SECURE, "privacy.bits=7"))


@pytest.mark.parametrize("overrides", [("privacy.threshold=0.2",), ("privacy.neighbours=2", "privacy.threshold=0.334")])
def test_the_thresholds_that_a_refusal_asks_for_are_enough(tiny, overrides):
    prepare(tiny(SECURE, *overrides))


def test_a_round_that_falls_apart_is_aborted(tiny, run, compose):
    """Twelve clients on a ring, each with one partner on either side, and a threshold so low that its own share and
    one more are enough: rounds in which two or more gaps are on the ring count as aborted, and change nothing."""
    some = ("partition=quantity", "num_clients=12", "data.clients=12", "system=devices", "system.dropout=0.15")
    low = ("privacy.neighbours=2", "privacy.threshold=0.4", "rounds=12", "aggregator=mean")
    experiment = replace(tiny(SECURE, *low, *some), partition=compose(*some[:2]).partition)
    kept = run(experiment)
    for number, row in enumerate(kept.metrics[1:], 1):
        asked = kept.simulation.schedule.next_cohort(kept.simulation, kept.state, number)
        masking = kept.simulation.privacy.settings.masking(asked.informed, kept.simulation.bound.seed, number)
        there, ring = set(asked.clients.tolist()), [0]
        while len(ring) < 12:
            ring.append(int(masking.partners[ring[-1], 0]))
        on = [int(asked.informed[place]) in there for place in ring]
        gaps = sum(not on[k] and on[k - 1] for k in range(12))
        lonely = any(sum((on[k - 1], on[k], on[(k + 1) % 12])) < 2 for k in range(12))
        assert row["aborted"] == int(gaps > 1 or lonely)
    assert {row["aborted"] for row in kept.metrics[1:]} == {0, 1}


@pytest.mark.parametrize(
    "changes",
    [
        *({"bits": bits} for bits in (1, 54)),
        *({"clip": clip} for clip in (0.0, -1.0, math.nan, math.inf)),
        *({"neighbours": neighbours} for neighbours in (0, 1, 3)),
        *({"threshold": threshold} for threshold in (0.0, 1.0, math.nan)),
    ],
)
def test_wrong_values(changes):
    with pytest.raises(FieldError):
        SecureAggregation(**changes)


def test_it_is_neither_of_the_other_two():
    assert Fact.HIDES_ROWS in SecureAggregation().facts
    assert not SecureAggregation().facts & {Fact.PRIVATE_MEAN, Fact.NOISE_ON_CLIENTS}
