"""Correlated noise in runs: what is added, what is promised and checked, and what is refused."""

import copy
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedsim import seeding
from fedsim.aggregation.rules import combine_chunks
from fedsim.clients.report import Report
from fedsim.config import compose as config
from fedsim.core.cohort import Cohort
from fedsim.core.origin import Spending
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.privacy.budget import epsilon_of, make_budget
from fedsim.privacy.correlated import Mechanism, noise_for
from fedsim.privacy.dp_ftrl import DPFTRL, Trees
from fedsim.privacy.matrix_factorisation import Banded, Buffered, MatrixFactorisation
from fedsim.privacy.trees import Forest
from fedsim.runs import run as runner
from fedsim.samplers.min_separation import MinSeparation
from fedsim.samplers.participation import ZERO_OUT, Participation
from fedsim.samplers.sampler import ADD_OR_REMOVE, Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {
    "trees": ("privacy=dp_ftrl",),
    "trees with restarts": ("privacy=dp_ftrl", "privacy.restart_every=4"),
    "bands": ("privacy=matrix_factorisation", "privacy.bands=2"),
    "buffers": ("privacy=matrix_factorisation", "privacy.matrix=blt", "privacy.buffers=2"),
}
APART = ("aggregator=mean", "sampler=min_separation", "sampler.cohort_size=1", "rounds=9")
"""Of five clients, one in each round: five rounds apart, and twice at most."""


@pytest.fixture(autouse=True)
def _accountant():
    pytest.importorskip("dp_accounting")


def with_noise(simulation, number):
    """The private mean of a round without clients, which is its share of the noise, times the denominator."""
    state = initial_state(simulation)
    nobody = torch.zeros(0, dtype=torch.int64)
    round = simulation.begin(state, number, Cohort(nobody, nobody, nobody))
    rule = simulation.privacy.rule(simulation.bound.combine, round)
    like = torch.zeros(simulation.blocks.size, dtype=torch.float64)
    return combine_chunks(rule, like, []).delta * rule.denominator


def draws(simulation, *key):
    return torch.from_numpy(
        seeding.generator(simulation.bound.seed, "correlated noise", *key).standard_normal(simulation.blocks.size)
    )


@pytest.mark.parametrize("name", KINDS)
def test_the_noise_of_a_run(tiny, name):
    """The third round's by hand: ``z S`` times z_3 - c_1 x_2 - c_2 x_1 for bands and buffers, and for trees the sum of
    three rounds minus that of two."""
    simulation = prepare(tiny(*KINDS[name], *APART, "privacy.noise_multiplier=1.5", "privacy.clip_norm=2"))
    encoder = simulation.privacy.fresh.encoder
    if name.startswith("trees"):
        pair = 2 / 3 * draws(simulation, 0, 1, 0) + 1 / 3 * (draws(simulation, 0, 0, 0) + draws(simulation, 0, 0, 1))
        expected = {1: draws(simulation, 0, 0, 0), 2: pair - draws(simulation, 0, 0, 0), 3: draws(simulation, 0, 0, 2)}
    else:
        drawn = {number: draws(simulation, number) for number in (1, 2, 3)}
        column = np.pad(encoder.column, (0, 1)) if isinstance(encoder, Banded) else None
        if column is None:
            column = np.array([1, encoder.scales.sum(), encoder.scales @ encoder.decays])
        expected = {1: drawn[1]}
        expected[2] = drawn[2] - column[1] * expected[1]
        expected[3] = drawn[3] - column[1] * expected[2] - column[2] * expected[1]
        assert 0 < column[1] < 1
    for number, row in expected.items():
        torch.testing.assert_close(with_noise(simulation, number), 3.0 * row, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(with_noise(simulation, 1), 3.0 * expected[1], rtol=1e-10, atol=1e-10)  # and back again


def test_later_noise_takes_back_earlier_noise(tiny):
    """The sum of nine rounds has far less noise than nine independent ones, whose standard deviation would be 3."""
    for kind, most in (("trees", 1.8), ("bands", 2.4), ("buffers", 2.4)):
        simulation = prepare(tiny(*KINDS[kind], *APART, "model.hidden_size=40"))
        total = sum(with_noise(simulation, number) for number in range(1, 10))
        assert 0.5 < float(total.std()) < most


def test_a_mean_over_a_fixed_denominator(tiny):
    """Rows clipped to norm 2, over the cohort's size of 2, however many come; noise aside."""
    experiment = tiny(*KINDS["bands"], *APART, "sampler.cohort_size=2", "privacy.clip_norm=2")
    experiment = replace(experiment, privacy=replace(experiment.privacy, noise_multiplier=1e-12))
    simulation = prepare(experiment)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3, simulation.blocks.size)))
    nobody = torch.zeros(0, dtype=torch.int64)
    round = simulation.begin(initial_state(simulation), 1, Cohort(nobody, nobody, nobody))
    rule = simulation.privacy.rule(simulation.bound.combine, round)
    count = torch.ones(3, dtype=torch.int64)
    found = combine_chunks(rule, rows[0], [(rows, Report(count, count, count.double()))]).delta
    clipped = rows * (2 / rows.norm(dim=1, keepdim=True))
    torch.testing.assert_close(found, clipped.sum(0) / 2, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_whole_runs(tiny, run, name):
    """With server momentum: chunks change nothing, epsilon grows from zero to the target, and momentum is free."""
    on = tiny(*KINDS[name], *APART, "aggregator/server_optimizer=momentum", "privacy.target_epsilon=20")
    whole, chunked = run(on), run(on, chunk_size=2)
    for a, b in zip(whole.rows, chunked.rows, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm()
    spent = [metrics["epsilon"] for metrics in whole.metrics]
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(20, rel=1e-3)
    assert spent[5] < spent[6]  # the first client has taken part again
    plain = run(tiny(*KINDS[name], *APART, "privacy.target_epsilon=20"))
    assert [metrics["epsilon"] for metrics in plain.metrics] == spent
    assert not torch.equal(plain.rows[-1], whole.rows[-1])


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_draws_the_same_bits(tiny, run, name):
    """Nine rounds, and nine of which the last five begin with what a checkpoint keeps: no row of noise."""
    whole = run(tiny(*KINDS[name], *APART))
    simulation = prepare(tiny(*KINDS[name], *APART))
    state = initial_state(simulation)
    rounds = simulate(simulation, state)
    for _ in range(5):  # round 0 to 4
        next(rounds)
    saved = copy.deepcopy(state)
    kept = [tensor.numel() for drawer in saved.drawers.values() for tensor in drawer.values()]
    assert max(kept) < simulation.blocks.size
    assert {block for block in saved.store.blocks if block.startswith("privacy.")} == {
        "privacy.last_round",
        "privacy.rounds",
    }
    again = run(tiny(*KINDS[name], *APART), saved)
    assert again.metrics == whole.metrics[5:]
    assert all(torch.equal(a, b) for a, b in zip(again.rows, whole.rows[4:], strict=True))


def test_what_the_run_keeps_is_what_it_goes_by(tiny):
    """As if another version of scipy had found other numbers: noise and epsilon are those of the run's own."""
    for kind in ("bands", "buffers"):
        simulation = prepare(tiny(*KINDS[kind], *APART, "privacy.target_epsilon=9"))
        fresh = simulation.privacy.fresh
        name = "column" if kind == "bands" else "scales"
        drawer = fresh.kept()
        drawer[name] = drawer[name] * torch.where(drawer[name] == 1, 1.0, 0.9)
        drawer["noise_multiplier"] = drawer["noise_multiplier"] * 1.001
        assert simulation.privacy.accepts(drawer, fresh.kept())
        state = initial_state(simulation)
        state.drawers["privacy"] = drawer
        state.round = 2
        nobody = torch.zeros(0, dtype=torch.int64)
        round = simulation.begin(state, 2, Cohort(nobody, nobody, nobody))
        own = simulation.privacy.source.of(drawer)
        assert own.multiplier == float(drawer["noise_multiplier"])
        assert simulation.privacy.measure(round)["epsilon"] == own.epsilon(2) != fresh.epsilon(2)
        rule = simulation.privacy.rule(simulation.bound.combine, round)
        first = simulation.privacy.source.noise(1, simulation.blocks.size)
        second = simulation.privacy.source.noise(2, simulation.blocks.size)
        share = drawer["column"][1] if kind == "bands" else drawer["scales"].sum()
        expected = draws(simulation, 2).numpy() - float(share) * first
        np.testing.assert_allclose(second, expected, rtol=1e-10, atol=1e-12)
        assert rule.noise_std == own.multiplier


@pytest.mark.parametrize("change", ["a row more", "no number", "more noise"])
def test_numbers_that_no_run_has_kept(tiny, change):
    simulation = prepare(tiny(*KINDS["bands"], *APART))
    fresh = simulation.privacy.fresh.kept()
    drawer = {name: kept.clone() for name, kept in fresh.items()}
    assert simulation.privacy.accepts(drawer, fresh)
    if change == "a row more":
        drawer["column"] = torch.ones(3, dtype=torch.float64)
    elif change == "no number":
        drawer["column"][1] = math.nan
    else:
        drawer["noise_multiplier"] *= 2
    assert not simulation.privacy.accepts(drawer, fresh)


# ---------------------------------------------------------------------------------------------------------------------
# the accountant


def test_independent_noise_is_the_gaussian_mechanism():
    """One band and clients that take part k times: k rounds of the accountant of privacy=central_dp in which all take
    part; trees of one round likewise."""
    everybody = Sampling(ADD_OR_REMOVE, 10.0, 1.0, 10)
    central = make_budget(3.0, None, 1e-5, 4, everybody)
    for encoder in (Banded(Participation(5, 4), np.ones(1)), Trees(Forest(Participation(5, 4), 20, 1))):
        mechanism = Mechanism(encoder, 3.0, 1e-5)
        assert mechanism.zcdp(20) == pytest.approx(4 / (2 * 9))
        for rounds, times in ((0, 0), (1, 1), (5, 1), (6, 2), (16, 4), (20, 4)):
            assert mechanism.epsilon(rounds) == pytest.approx(central.epsilon(times), rel=1e-6)


def test_noise_for_a_target():
    multiplier = noise_for(4.0, 1e-6)
    assert epsilon_of([Spending(ZERO_OUT, multiplier, 1)], 1e-6) == pytest.approx(4, rel=1e-3)
    assert epsilon_of([Spending(ZERO_OUT, multiplier, 1)], 1e-6) <= 4
    with pytest.raises(UserError, match=r"privacy.target_epsilon=1000000.0: no noise of 0.05 or more times"):
        noise_for(1e6, 1e-5)


def test_how_good_the_mechanisms_are():
    """At one epsilon, over 64 rounds with clients 16 apart: bands have less mean squared error of the running sums than
    buffers, these less than trees, and trees less than independent noise."""
    where, errors = Participation(16, 4), {}
    encoders = {
        "bands": MatrixFactorisation().encoder(64, where),
        "buffers": MatrixFactorisation(matrix="blt").encoder(64, where),
        "trees": DPFTRL().encoder(64, where),
        "independent": Banded(where, np.ones(1)),
    }
    for name, encoder in encoders.items():
        keys = {}

        def draw(*key, keys=keys):
            row = np.zeros(200)
            row[keys.setdefault(key, len(keys))] = 1
            return row

        stream = encoder.noise(draw)
        sums = np.cumsum([next(stream) for _ in range(64)], axis=0)
        errors[name] = (sums**2).sum(axis=1).mean() * encoder.sensitivity(64) ** 2
    assert errors["bands"] < errors["buffers"] < 1.2 * errors["bands"]
    assert errors["buffers"] < 0.8 * errors["trees"]
    assert errors["trees"] < errors["independent"]


# ---------------------------------------------------------------------------------------------------------------------
# what is promised, and what is refused


@dataclass(frozen=True, kw_only=True)
class Broken(MinSeparation):
    """Promises rounds that are five apart, and has everybody come early, or once too often."""

    promised: tuple[int, int] = (5, 2)

    def participation(self, num_clients, rounds):
        return Participation(*self.promised)


@pytest.mark.parametrize(
    ("sampler", "text"),
    [
        (
            Broken(fraction=None, cohort_size=1, separation=3),
            r"round 5: client \S+ has taken part in round 2, less than 5 rounds before, which the sampler promised not "
            r"to happen and the accountant of privacy=dp_ftrl does not know; .* its epsilon holds up to round 4",
        ),
        (
            Broken(fraction=None, cohort_size=1, separation=5, promised=(5, 1)),
            r"round 6: client \S+ has taken part in 1 rounds, as often as a client may",
        ),
    ],
)
def test_a_promise_that_is_broken_ends_the_run(tiny, run, sampler, text):
    experiment = tiny("privacy=dp_ftrl", *APART)
    with pytest.raises(UserError, match=text):
        run(replace(experiment, sampler=sampler))


def test_a_promise_holds_over_an_interruption(tiny, run):
    """The rounds before it are in the state."""
    experiment = tiny("privacy=dp_ftrl", *APART)
    state = run(replace(experiment, rounds=3)).state
    with pytest.raises(UserError, match=r"round 6: .* has taken part in round 3, less than 5"):
        run(replace(experiment, sampler=Broken(fraction=None, cohort_size=1, separation=3)), state)


def test_a_run_that_ends_says_why(tiny, tmp_path, capfd, monkeypatch):
    """It is refused with one line, and its record says the same; the rounds before are there."""
    monkeypatch.setattr(MinSeparation, "participation", lambda self, num_clients, rounds: Participation(5, 1))
    experiment = tiny("privacy=dp_ftrl", *APART)
    directory = tmp_path / "run"
    directory.mkdir()
    assert runner.run_experiment(experiment, config.to_yaml(config.record_of(experiment)), directory) == "refused"
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: round 6: client ")
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["reason"] == error.removeprefix("error: ")
    assert len((directory / "metrics.csv").read_text().splitlines()) == 7  # the header, and rounds 0 to 5


def test_what_the_record_says(tiny, tmp_path):
    experiment = tiny(*KINDS["bands"], *APART)
    directory = tmp_path / "run"
    directory.mkdir()
    assert runner.run_experiment(experiment, config.to_yaml(config.record_of(experiment)), directory) == "done"
    found = json.loads((directory / "summary.json").read_text())["privacy"]
    assert found["relation"] == "zero out one client"
    assert found["mechanism"] == "banded Toeplitz matrix"
    assert (found["bands"], found["separation"], found["participations"]) == (2, 5, 2)
    norms = prepare(experiment).privacy.fresh.encoder.column @ prepare(experiment).privacy.fresh.encoder.column
    assert found["sensitivity"] == pytest.approx(math.sqrt(2 * norms))
    assert found["zcdp"] == pytest.approx(norms)
    lines = prepare(experiment).privacy.introduce()
    assert lines[0].startswith("differential privacy of clients (zero out one client): noise multiplier 1, delta 1e-05")
    assert lines[1].startswith("a client takes part in at most 2 rounds, at least 5 apart, so that it moves")


def test_turns_are_a_promise_too(tiny, run):
    """Five clients, two a round, in turn: at least two rounds apart."""
    turns = ("aggregator=mean", "sampler=round_robin", "sampler.cohort_size=2", "rounds=8")
    result = run(tiny("privacy=matrix_factorisation", *turns))
    assert result.metrics[-1]["epsilon"] > 0
    assert len(prepare(tiny("privacy=matrix_factorisation", *turns)).privacy.fresh.encoder.column) == 2


def test_rounds_without_clients_are_noise(tiny, run):
    """All clients that are asked drop out, in some rounds."""
    lost = ("system=devices", "system.dropout=0.6", "rounds=9")
    result = run(tiny("privacy=dp_ftrl", *APART, *lost))
    empty = [metrics for metrics in result.metrics[1:] if metrics["clients"] == 0]
    assert empty
    assert all(metrics["delta_norm"] > 0 and metrics["epsilon"] > 0 for metrics in empty)


@pytest.mark.parametrize("name", ["dp_ftrl", "matrix_factorisation"])
@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("sampler=uniform",), "sampler=uniform: the accountant of privacy={name} needs clients whose rounds"),
        (("sampler=weighted",), "sampler=weighted: .* take sampler=min_separation or round_robin"),
        (("aggregator=median",), "aggregator/combine=median is not; take aggregator/combine=mean"),
        (("aggregator/correction=scaffold",), "correction=scaffold tells"),
        (("aggregator.blocks=[head]",), "which the accountant"),
        (("attack=ipm",), "no client's influence is bounded"),
        (("system=devices", "system.over_selection=2"), "who is kept depends on how fast the others are"),
    ],
)
def test_what_does_not_go_together(tiny, name, overrides, text):
    with pytest.raises(UserError, match=text.format(name=name)):
        prepare(tiny(f"privacy={name}", *APART, *overrides))


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("privacy=dp_ftrl", "privacy.restart_every=9"), "privacy.restart_every=9: has no effect in rounds=9"),
        (("privacy=matrix_factorisation", "privacy.bands=6"), "privacy.bands=6: must be at most 5, the rounds that"),
        (("privacy=matrix_factorisation", "privacy.bands=4", "rounds=3"), "privacy.bands=4: must be at most 3, rounds"),
    ],
)
def test_numbers_that_do_not_go_with_the_rounds(tiny, overrides, text):
    with pytest.raises(UserError, match=text):
        prepare(tiny(*APART, *overrides))


def test_more_noise_than_memory(tiny, monkeypatch):
    monkeypatch.setattr("fedsim.machine.available_bytes", lambda: 5 * 8 * 174 - 1)
    with pytest.raises(UserError, match=r"privacy.bands=5: 5 rows of noise of 174 numbers would take .*matrix=blt"):
        prepare(tiny("privacy=matrix_factorisation", *APART))
    prepare(tiny("privacy=matrix_factorisation", "privacy.matrix=blt", *APART))


@pytest.mark.parametrize(
    ("cls", "changes", "text"),
    [
        (DPFTRL, {"restart_every": 0}, "restart_every"),
        (DPFTRL, {"clip_norm": 0}, "clip_norm"),
        (MatrixFactorisation, {"matrix": "dense"}, "must be one of banded, blt"),
        (MatrixFactorisation, {"bands": 0}, "bands"),
        (MatrixFactorisation, {"matrix": "blt", "buffers": 11}, "must be at least 1 and at most 10"),
        (MatrixFactorisation, {"buffers": 2}, "has an effect only with privacy.matrix=blt"),
        (MatrixFactorisation, {"matrix": "blt", "bands": 2}, "has an effect only with privacy.matrix=banded"),
    ],
)
def test_wrong_values(cls, changes, text):
    with pytest.raises(FieldError, match=text):
        cls(**changes)


def test_what_depends_on_the_rounds():
    """The best matrix is that for so many rounds; trees are the same for any, but for the noise that meets a target."""
    assert MatrixFactorisation().depends_on_rounds
    assert not DPFTRL().depends_on_rounds
    assert DPFTRL(noise_multiplier=None, target_epsilon=1.0).depends_on_rounds


def test_buffers_are_kept_with_zeros():
    """Their number is that of the settings, however many were worth it."""
    found = MatrixFactorisation(matrix="blt").encoder(30, Participation(6, 5))
    assert isinstance(found, Buffered)
    kept = found.kept()
    assert [len(numbers) for numbers in kept.values()] == [4, 4]
    again = found.restored(kept)
    np.testing.assert_array_equal(again.decays, found.decays)
    np.testing.assert_array_equal(again.scales, found.scales)
