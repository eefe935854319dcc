"""Whole rounds on the virtual clock: who arrives, after how many steps, when, and for how many bytes."""

import copy
from dataclasses import replace

import pytest
import torch

from fedsim.clients.engine import SequentialEngine, client_bytes, training_bytes
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.personalization.ditto import Ditto
from fedsim.runs import dry_run as plan
from fedsim.runs.checkpoints import load_checkpoint, save_checkpoint
from fedsim.samplers.choose import choose_cohort

pytestmark = pytest.mark.usefixtures("one_thread")

P = 174
"""Parameters of the tiny classifier, 8 bytes each."""
SIZES = (2, 13, 5, 1, 9)
EQUAL = (
    *("system=devices", "system.gflops_spread=0", "system.down_spread=0", "system.up_spread=0"),
    *("system.memory_mb=null", "system.memory_spread=0"),
)
# A model takes a second down and two up.
LINK = (*EQUAL, f"system.down_mbps={P * 64e-6}", f"system.up_mbps={P * 32e-6}", "system.latency=0")


@pytest.fixture
def timed(tiny, tmp_path):
    """Return ``timed(*overrides, work=)``: five clients who work so many seconds a sample, and 3 for their messages."""

    def make(*overrides, work=(1, 1, 1, 1, 1)):
        flops = prepare(tiny(*LINK)).system.clock.flops
        rows = [f"{f / s / 1e9!r},{P * 64e-6!r},{P * 32e-6!r}" for f, s in zip(flops.tolist(), work, strict=True)]
        (tmp_path / "devices.csv").write_text("\n".join(["gflops,down_mbps,up_mbps", *rows, ""]))
        file = f"system.path={tmp_path / 'devices.csv'}"
        return tiny("client.epochs=1", *overrides, "system=profiles", "system.latency=0", file)

    return make


def column(result, name):
    return [row[name] for row in result.metrics]


def close(a, b):
    for x, y in zip(a.rows, b.rows, strict=True):
        assert (x - y).norm() <= 1e-10 * y.norm()
    for x, y in zip(a.metrics[1:], b.metrics[1:], strict=True):
        assert {k: v for k, v in x.items() if v is not None} == pytest.approx(
            {k: v for k, v in y.items() if v is not None}, rel=1e-9
        )


# ---------------------------------------------------------------------------------------------------------------------
# by hand


def test_a_round_lasts_as_long_as_the_slowest(timed, run):
    """One second a sample and three for the model: 5, 16, 8, 4 and 12 seconds."""
    result = run(timed())
    assert column(result, "virtual_seconds") == pytest.approx([0, 16, 32])
    assert column(result, "dropped") == [0, 0, 0]
    assert list(result.metrics[0])[-2:] == ["dropped", "virtual_seconds"]
    state = initial_state(result.simulation)
    everyone = torch.arange(5)
    sim = result.simulation
    seconds = sim.system.client_seconds(sim, state, everyone, sim.task.steps(everyone), 1)
    assert seconds.tolist() == pytest.approx([n + 3 for n in SIZES])


def test_without_anything_that_loses_clients_the_models_are_those_of_no_system(tiny, timed, run):
    on, off = run(timed("rounds=3")), run(tiny("client.epochs=1", "rounds=3"))
    for a, b in zip(on.rows, off.rows, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(on.metrics, off.metrics, strict=True):
        assert {name: a[name] for name in b} == b


def test_a_deadline(timed, run):
    """Clients 0, 2 and 3 make 8.5 seconds; client 4 has sent none of its model by then, nor has client 1."""
    result = run(timed("system.deadline=8.5"))
    assert column(result, "clients") == [0, 3, 3]
    assert column(result, "dropped") == [0, 2, 2]
    assert column(result, "virtual_seconds") == pytest.approx([0, 8.5, 17])
    assert column(result, "bytes_down") == [0, 5 * P * 8, 10 * P * 8]
    assert column(result, "bytes_up") == [0, 3 * P * 8, 6 * P * 8]
    assert result.reports[0].num_samples.tolist() == [2, 5, 1]


def test_who_is_cut_off_has_sent_a_part(timed, run):
    """At 11.5 seconds client 4 has sent one and a half of its two seconds' upload."""
    result = run(timed("system.deadline=11.5"))
    assert column(result, "clients") == [0, 3, 3]
    assert result.metrics[1]["bytes_up"] == 3 * P * 8 + P * 6


def test_late_clients_do_fewer_steps(timed, run):
    """8.5 seconds leave 5.5 for work, which is one batch of 4 samples: of client 1's four, and of client 4's three."""
    result = run(timed("system.deadline=8.5", "system.late=partial"))
    assert column(result, "clients") == [0, 5, 5]
    assert result.reports[0].local_steps.tolist() == [1, 1, 2, 1, 1]
    assert column(result, "virtual_seconds") == pytest.approx([0, 8, 16])  # client 2's; the others have 7
    assert column(result, "dropped") == [0, 0, 0]


def test_who_has_no_time_for_a_step_is_left_out(timed, run):
    """Client 1 takes 2 seconds a sample: 8 for its first batch."""
    result = run(timed("system.deadline=8.5", "system.late=partial", work=(1, 2, 1, 1, 1)))
    assert result.reports[0].local_steps.tolist() == [1, 2, 1, 1]
    assert column(result, "dropped") == [0, 1, 1]
    assert column(result, "virtual_seconds") == pytest.approx([0, 8.5, 17])


def test_partial_work_is_the_beginning_of_the_whole(timed, run):
    """In the order of its batches, whichever the engine: a client of one step as with client.steps=1."""
    partial = run(timed("system.deadline=8.5", "system.late=partial", "rounds=1"))
    short = run(replace(timed("rounds=1"), client=replace(timed().client, epochs=None, steps=1)))
    for client in (0, 1, 3, 4):
        assert (partial.deltas[0][client] - short.deltas[0][client]).norm() <= 1e-12
    assert (partial.deltas[0][2] - short.deltas[0][2]).norm() > 1e-3


def test_over_selection_keeps_the_first(timed, run):
    """All five are asked for three: clients 3, 0 and 2 are done after 4, 5 and 8 seconds."""
    result = run(timed("sampler.cohort_size=3", "system.over_selection=1.6"))
    assert column(result, "clients") == [0, 3, 3]
    assert column(result, "dropped") == [0, 2, 2]
    assert column(result, "virtual_seconds") == pytest.approx([0, 8, 16])
    assert result.reports[0].num_samples.tolist() == [2, 5, 1]
    assert column(result, "bytes_down") == [0, 5 * P * 8, 10 * P * 8]


def test_over_selection_rounds_up_and_not_further(tiny):
    """1.1 times 10 is 11, although the product of the numbers is a little more."""
    sim = prepare(tiny("data.clients=5", "sampler.cohort_size=2", *EQUAL, "system.over_selection=1.01"))
    coming = sim.system.cohort(sim, initial_state(sim), 1)
    assert (len(coming.clients), coming.dropped) == (2, 1)
    sim = prepare(tiny("sampler.cohort_size=2", *EQUAL, "system.over_selection=2"))
    assert sim.system.cohort(sim, initial_state(sim), 1).dropped == 2


def test_offline_clients_get_nothing(tiny, run):
    on = tiny(*EQUAL, "system.availability=0.5", "rounds=6")
    result = run(on)
    assert 0 < sum(column(result, "dropped")) < 30
    for row, before in zip(result.metrics[1:], result.metrics, strict=False):
        assert row["clients"] + row["dropped"] == 5
        assert row["bytes_down"] - before["bytes_down"] == row["clients"] * P * 8


def test_vanished_clients_got_the_model_and_send_nothing(tiny, run):
    result = run(tiny(*EQUAL, "system.dropout=0.5", "rounds=6"))
    assert 0 < sum(column(result, "dropped")) < 30
    assert result.metrics[-1]["bytes_down"] == 6 * 5 * P * 8
    assert result.metrics[-1]["bytes_up"] == sum(column(result, "clients")) * P * 8


def test_a_round_in_which_nobody_arrives_changes_nothing(tiny, run):
    result = run(tiny(*EQUAL, "system.availability=1e-9", "aggregator=fedadam"))
    assert column(result, "clients") == [0, 0, 0]
    assert column(result, "dropped") == [0, 5, 5]
    assert column(result, "train_loss") == [None, None, None]
    assert column(result, "virtual_seconds") == [0, 0, 0]
    assert torch.equal(result.rows[-1], initial_state(result.simulation).row)


def test_too_few_are_given_up(timed, run):
    result = run(timed("system.deadline=8.5", "system.min_clients=4"))
    assert column(result, "clients") == [0, 0, 0]
    assert column(result, "dropped") == [0, 5, 5]
    assert column(result, "virtual_seconds") == pytest.approx([0, 8.5, 17])
    assert result.metrics[1]["bytes_up"] == 3 * P * 8  # they have sent what nobody uses


def test_a_lossy_link_is_faster(timed, run):
    """8-bit uploads of 182 bytes in the place of 1392 take 2 * 182 / 1392 seconds."""
    result = run(timed("link/up=quantize", "rounds=1"))
    assert result.metrics[1]["virtual_seconds"] == pytest.approx(1 + 13 + 2 * 182 / 1392)


def test_what_was_missed_is_in_the_time(timed, run):
    """A client that is asked again gets a message of 182 bytes and not the model."""
    result = run(timed("link/down=quantize"))
    assert result.metrics[2]["virtual_seconds"] == pytest.approx(16 + 182 / 1392 + 13 + 2)


def test_two_gradients_take_twice_as_long(timed, run):
    assert run(timed("aggregator=fedsam", "rounds=1")).metrics[1]["virtual_seconds"] == pytest.approx(3 + 26)
    ditto = replace(timed("rounds=1"), personalize=Ditto())
    assert run(ditto).metrics[1]["virtual_seconds"] == pytest.approx(3 + 26)


def test_clients_with_too_little_memory_are_never_asked(tiny, run, tmp_path):
    needed = training_bytes(prepare(tiny()).task, torch.float64).tolist()
    assert max(needed) == client_bytes(prepare(tiny()).task, torch.float64)
    assert len({*needed}) > 2  # a batch of one or two samples takes less than one of four
    rows = [f"1,1,1,{need / 1e6 * (0.99 if k in (1, 2) else 1.01)!r}" for k, need in enumerate(needed)]
    (tmp_path / "d.csv").write_text("\n".join(["gflops,down_mbps,up_mbps,memory_mb", *rows, ""]))
    small = tiny("system=profiles", f"system.path={tmp_path / 'd.csv'}", "sampler.fraction=1.0")
    result = run(small)
    assert result.simulation.system.clock.fitting.tolist() == [0, 3, 4]
    assert column(result, "clients") == [0, 3, 3]
    assert column(result, "dropped") == [0, 0, 0]
    assert result.reports[0].num_samples.tolist() == [2, 1, 9]
    assert plan.plan(result.simulation)["left out"].startswith("2 of 5 clients have too little memory")
    with pytest.raises(UserError, match=r"cohort_size=4: there are only 3 clients \(system: 2 of 5 clients have too"):
        prepare(replace(small, sampler=replace(small.sampler, fraction=None, cohort_size=4)))


# ---------------------------------------------------------------------------------------------------------------------
# together with the rest

ADVERSE = (
    *("system=devices", "system.dropout=0.2", "system.availability=0.9", "system.gflops=3e-5"),
    *("system.deadline=2.0", "system.late=partial", "rounds=4"),
)
OVER = ("sampler.cohort_size=3", "system.over_selection=1.4")


def test_the_adverse_system_does_all_that_it_can(tiny, run):
    result = run(tiny(*ADVERSE))
    steps = torch.cat([r.local_steps for r in result.reports])
    assert 0 < sum(column(result, "dropped")) < 20
    assert len({*steps.tolist()}) > 3


@pytest.mark.parametrize("aggregator", ["fedavg", "scaffold", "feddyn", "fednova", "fedsam", "fedadam", "median"])
def test_engines_and_chunks_agree(tiny, run, aggregator):
    on = tiny(f"aggregator={aggregator}", *ADVERSE, *OVER, "client.keep_optimizer_state=false")
    whole = run(on)
    close(run(replace(on, engine=SequentialEngine())), whole)
    for size in (1, 2):
        close(run(on, chunk_size=size), whole)


KEPT = ("client.keep_optimizer_state=true", "client/optimizer=adam", "client.optimizer.lr=0.02")


@pytest.mark.parametrize("more", [(), ("aggregator=scaffold", "link/down=sign"), KEPT])
def test_it_goes_on_from_a_checkpoint(tiny, run, more, tmp_path):
    on = tiny(*ADVERSE, *OVER, *more)
    whole, short = run(on), run(replace(on, rounds=2))
    state = load_checkpoint(save_checkpoint(tmp_path, short.state), torch.device("cpu"))
    rest = run(on, state)
    assert rest.metrics == whole.metrics[3:]
    assert torch.equal(rest.state.row, whole.state.row)


@pytest.mark.parametrize("aggregator", ["scaffold", "feddyn"])
def test_who_does_not_arrive_keeps_what_it_had(timed, run, aggregator):
    """Nothing is remembered of clients 1 and 4, and the mean over all counts them as zero."""
    result = run(timed(f"aggregator={aggregator}", "system.deadline=11.5"))
    state = result.state.store.state_dict()
    assert state["correction.own/clients"].sort().values.tolist() == [0, 2, 3]
    mean = state["correction.own/rows"].sum(0) / 5
    assert (mean - result.state.drawers["correction"]["mean"]).norm() <= 1e-12


def test_optimizer_state_of_arrivals_only(timed, run):
    options = ("client/optimizer=adam", "client.keep_optimizer_state=true", "system.deadline=8.5")
    state = run(timed(*options)).state.store.state_dict()
    assert state["optimizer.mean/clients"].sort().values.tolist() == [0, 2, 3]


def test_asking_who_arrives_changes_nothing(tiny):
    sim = prepare(tiny(*ADVERSE, "link/down=sign"))
    state = initial_state(sim)
    before = copy.deepcopy(state.drawers)
    first, again = sim.system.cohort(sim, state, 1), sim.system.cohort(sim, state, 1)
    assert first.clients.tolist() == again.clients.tolist()
    assert state.store.state_dict() == {}
    assert (float(state.drawers["system"]["virtual_seconds"]), int(state.drawers["traffic"]["up"])) == (0, 0)
    torch.testing.assert_close(state.drawers, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "sampler",
    ["uniform", "weighted", "round_robin", "poisson", "availability"],
)
def test_every_sampler_asks_whom_it_would(tiny, sampler):
    """Without over-selection, whoever is asked is the sampler's cohort; with it, more of them."""
    size = ["sampler.probability=0.5"] if sampler == "poisson" else ["sampler.cohort_size=2"]
    sim = prepare(tiny(f"sampler={sampler}", *size, *EQUAL))
    state = initial_state(sim)
    for number in range(1, 9):
        cohort, _ = choose_cohort(sim, state, number)
        assert sim.system.cohort(sim, state, number).clients.tolist() == cohort.tolist()
    if sampler == "poisson":
        return
    over = prepare(tiny(f"sampler={sampler}", *size, *EQUAL, "system.over_selection=1.5"))
    for number in range(1, 9):
        wanted, coming = len(choose_cohort(sim, state, number)[0]), over.system.cohort(over, state, number)
        assert len(coming.clients) == wanted
        assert coming.dropped in ({1} if sampler != "availability" else {0, 1})


def test_the_plan_tells_of_the_time(timed):
    told = plan.plan(prepare(timed("system.deadline=8.5")))
    assert told["seconds of a client"] == "min 4, median 8, 90% within 14.4, max 16 (virtual)"
    down, up = P * 64e-6, P * 32e-6
    assert told["devices"].startswith("read from the file; medians ")
    assert told["devices"].endswith(f" Gflop/s, {down:.3g} Mbit/s down, {up:.3g} Mbit/s up")
    assert told["seconds of round 1"] == "8.5 (virtual); 3 of 5 asked arrive"
    assert told["bytes in round 1"] == f"{5 * P * 8:,} down, {3 * P * 8:,} up"


# ---------------------------------------------------------------------------------------------------------------------
# privacy, and what is refused


def test_central_privacy_goes_with_deadlines_and_dropouts(tiny, run):
    private = ("privacy=central_dp", "aggregator=mean", "sampler=poisson", "sampler.probability=0.7")
    result = run(tiny(*private, *ADVERSE))
    alone = run(tiny(*private, "rounds=4"))
    assert column(result, "epsilon") == column(alone, "epsilon")
    assert sum(column(result, "dropped")) > 0


def test_local_privacy_counts_who_was_cut_off_while_sending(timed, run):
    """At 11.5 seconds client 4 has sent a part in either round; client 1 nothing."""
    result = run(timed("privacy=local_dp", "aggregator=mean", "system.deadline=11.5"))
    counts = result.state.store.read("privacy.rounds", torch.arange(5), torch.zeros(5, 1, dtype=torch.float64))
    assert counts[:, 0].tolist() == [2, 0, 2, 2, 2]


REFUSED = {
    "no cohort size": (("sampler=poisson", "system.over_selection=1.3"), "sampler=poisson has no cohort size"),
    "asks before": (("sampler=power_of_choice", "sampler.cohort_size=2"), "asks clients for their losses"),
    "accountant": (
        ("sampler.cohort_size=2", "system.over_selection=2", "privacy=central_dp", "aggregator=mean"),
        "who is kept depends on how fast the others are",
    ),
    "everybody asked": (("system.over_selection=1.3",), "has no effect where all 5 client"),
    "too many wanted": (("system.min_clients=6", "system.dropout=0.1"), "a round has at most 5 client"),
    "always enough": (("system.min_clients=5",), "has no effect where all of at least 5"),
    "nothing sent": (("aggregator=local",), "nothing is sent that system=devices could act on"),
    "second model": (
        ("personalize=ditto", "system.deadline=9", "system.late=partial"),
        "personalize=ditto trains a second model",
    ),
    "deadline": (("system.deadline=0.2", "system.gflops=1e-9"), "no client makes it; with its local steps the fastest"),
    "deadline of one step": (
        ("system.deadline=0.2", "system.gflops=1e-9", "system.late=partial"),
        "no client makes it; with a single local step the fastest",
    ),
    "memory": (("system.memory_mb=0.001",), "5 of 5 clients have less memory than training takes"),
    "baseline": (
        ("baseline=centralised",),
        "baseline=centralised: is no federation, in which system=devices would act",
    ),
    "small cohorts": (
        ("aggregator=krum", "system.dropout=0.1"),
        "krum",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tiny, name):
    overrides, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        prepare(tiny("system=devices", *overrides))


def test_privacy_refuses_that_some_have_too_little_memory(tiny):
    private = ("privacy=central_dp", "aggregator=mean", "sampler=poisson")
    with pytest.raises(UserError, match="which the accountant does not know"):
        prepare(tiny("system=devices", "system.memory_mb=0.02", "system.memory_spread=2", *private))


def test_a_robust_rule_takes_a_system_that_keeps_enough(tiny, run):
    result = run(tiny("aggregator=krum", "system=devices", "system.dropout=0.2", "system.min_clients=5", "rounds=6"))
    assert {0, 5} == {*column(result, "clients")[1:]}


def test_no_client_decides_whether_a_private_round_counts(compose):
    """Its arrival would move the sum from nothing to everything, and not by the clipping norm."""
    private = ("privacy=central_dp", "privacy.noise_multiplier=1", "aggregator=mean", "sampler=poisson")
    unsteady = ("system=devices", "system.dropout=0.3", "sampler.probability=0.9")
    assert compose(*private, *unsteady)
    with pytest.raises(UserError, match=r"system\.min_clients=3.*lets a single client decide whether a round counts"):
        compose(*private, *unsteady, "system.min_clients=3")
