"""Events on the virtual clock, by hand: who arrives, when, with what staleness, and what becomes of it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.attacks.sign_flip import SignFlip
from fedsim.client_store import ClientStore
from fedsim.clients.engine import SequentialEngine
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import learn
from fedsim.links.link import TwoWayLink
from fedsim.links.quantize import Quantize
from fedsim.personalization.ditto import Ditto
from fedsim.runs import dry_run as plan
from fedsim.runs.checkpoints import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

P = 174
"""Parameters of the tiny classifier, 8 bytes each."""
EQUAL = (
    *("system=devices", "system.gflops_spread=0", "system.down_spread=0", "system.up_spread=0"),
    *("system.memory_mb=null", "system.memory_spread=0"),
)
SECONDS = (5, 16, 8, 4, 12)
"""Of each client, from the question to its last byte: a second a sample (2, 13, 5, 1, 9), one down and two up."""


@pytest.fixture
def timed(tiny, tmp_path):
    """Return ``timed(*overrides, work=)``: five clients who work so many seconds a sample, and 3 for their messages."""

    def make(*overrides, work=(1, 1, 1, 1, 1)):
        flops = prepare(tiny(*EQUAL)).system.clock.flops
        rows = [f"{f / s / 1e9!r},{P * 64e-6!r},{P * 32e-6!r}" for f, s in zip(flops.tolist(), work, strict=True)]
        (tmp_path / "devices.csv").write_text("\n".join(["gflops,down_mbps,up_mbps", *rows, ""]))
        file = f"system.path={tmp_path / 'devices.csv'}"
        return tiny("client.epochs=1", "aggregator=mean", *overrides, "system=profiles", "system.latency=0", file)

    return make


def column(result, name):
    return [row[name] for row in result.metrics[1:]]


def queue_alone(sim, versions):
    """Run the queue without training; returns what each version gets, and the state."""
    state, seen = initial_state(sim), []
    for number in range(1, versions + 1):
        coming = sim.schedule.next_cohort(sim, state, number)
        seen.append(coming)
        keep(sim, state, number, coming)
    return seen, state


def keep(sim, state, number, coming):
    """What is kept of a round in which nobody trains: who is at work, and the time."""
    round = sim.begin(state, number, coming)
    sim.schedule.close(round)
    sim.system.close(round)
    state.round = number


def seconds_so_far(state):
    return float(state.drawers["system"]["virtual_seconds"])


# ---------------------------------------------------------------------------------------------------------------------
# by hand


def test_events(timed, run):
    """All five at work, two arrivals a version, in seconds:

    | at | arrives (of version) | version | staleness | then at work, with the second of arrival |
    |----|----------------------|---------|-----------|-------------------------------------------|
    |  0 |                      |    0    |           | 0: 5, 1: 16, 2: 8, 3: 4, 4: 12             |
    |  5 | 3 (0) at 4, 0 (0)    |    1    | 0, 0      | 0: 10, 3: 9                                |
    |  9 | 2 (0) at 8, 3 (1)    |    2    | 1, 0      | 2: 17, 3: 13                               |
    | 12 | 0 (1) at 10, 4 (0)   |    3    | 1, 2      | 0: 17, 4: 24                               |
    | 16 | 3 (2) at 13, 1 (0)   |    4    | 1, 3      | 3: 20, 1: 32                               |
    | 17 | 0 (3), 2 (2)         |    5    | 1, 2      |                                            |
    """
    result = run(timed("schedule=fedbuff", "rounds=5"))
    assert column(result, "clients") == [2] * 5
    assert column(result, "virtual_seconds") == pytest.approx([5, 9, 12, 16, 17])
    assert column(result, "staleness") == [0, 0.5, 1.5, 2, 1.5]
    assert column(result, "staleness_max") == [0, 1, 2, 3, 2]
    assert column(result, "dropped") == [0] * 5
    sent = P * 8
    assert column(result, "bytes_down") == [5 * sent, 7 * sent, 9 * sent, 11 * sent, 13 * sent]
    assert column(result, "bytes_up") == [2 * sent, 4 * sent, 6 * sent, 8 * sent, 10 * sent]
    assert [r.num_samples.tolist() for r in result.reports] == [[2, 1], [5, 1], [2, 9], [13, 1], [2, 5]]
    kept = result.state.drawers["schedule"]
    assert kept["clients"].tolist() == [3, 4, 1]
    assert kept["versions"].tolist() == [4, 3, 4]
    assert kept["finish"].tolist() == pytest.approx([20, 24, 32])
    assert {name for name in kept if name.startswith("row.")} == {"row.3", "row.4"}
    assert torch.equal(kept["row.3"], result.rows[2])
    assert list(result.metrics[0])[-4:] == ["dropped", "virtual_seconds", "staleness", "staleness_max"]
    assert result.metrics[0]["staleness"] is None


def test_fedbuff_in_numpy(timed, run):
    """Version 2 is x1 + (s(1) * delta_2 + s(0) * delta_3) / 2, and version 4 x3 + (s(3) delta_1 + s(1) delta_3) / 2."""
    result = run(timed("schedule=fedbuff", "rounds=4"))
    rows, deltas = [r.numpy() for r in result.rows], [d.numpy() for d in result.deltas]
    assert rows[1] == pytest.approx(rows[0] + (2**-0.5 * deltas[1][0] + deltas[1][1]) / 2, rel=1e-12)
    assert rows[3] == pytest.approx(rows[2] + (0.5 * deltas[3][0] + 2**-0.5 * deltas[3][1]) / 2, rel=1e-12)


def test_fedasync_in_numpy(timed, run):
    """Client 3 arrives after 4 seconds, fresh, and client 0 after 5, trained from version 0 and one version late."""
    result = run(timed("schedule=fedasync", "rounds=2"))
    assert column(result, "virtual_seconds") == pytest.approx([4, 5])
    assert column(result, "staleness") == [0, 1]
    zero, (first, second) = initial_state(result.simulation).row.numpy(), [r.numpy() for r in result.rows]
    local = [zero + d[0].numpy() for d in result.deltas]
    assert first == pytest.approx(0.4 * zero + 0.6 * local[0], rel=1e-12)
    alpha = 0.6 * 2**-0.5
    assert second == pytest.approx((1 - alpha) * first + alpha * local[1], rel=1e-12)


def test_clients_start_from_what_they_were_given(timed, run):
    """In version 2 client 2 trains from version 0 and client 3 from version 1; batches are those of round 2."""
    result = run(timed("schedule=fedbuff", "rounds=2"))
    sim = result.simulation
    for place, client, anchor in ((0, 2, initial_state(sim).row), (1, 3, result.rows[0])):
        alone, _ = sim.trainer.train(anchor, torch.tensor([client]), 2, ClientStore(5))
        assert (result.deltas[1][place] - alone[0]).norm() <= 1e-12 * alone.norm()


DECAY = ("client.lr_decay=0.5", "client.epochs=null", "client.steps=1", "client.batch_size=null", "rounds=5")


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_the_learning_rate_is_that_of_the_version_that_a_client_was_given(timed, run, engine):
    """One step on all samples: a client that got version v moves by ``-lr 0.5^v`` times its gradient there.

    Versions as in `test_events`; the server adds the mean of the two, without regard to their age.
    """
    stale = timed("schedule=fedbuff", "schedule/staleness=constant", *DECAY)
    if engine == "sequential":
        stale = replace(stale, engine=SequentialEngine())
    result = run(stale)
    trainer, lr = prepare(stale).trainer, 0.3
    models = [initial_state(result.simulation).row, *result.rows]
    # client, version that it was given
    arrivals = [((3, 0), (0, 0)), ((2, 0), (3, 1)), ((0, 1), (4, 0)), ((3, 2), (1, 0)), ((0, 3), (2, 2))]
    for number, pair in enumerate(arrivals, 1):
        moves = [-lr * 0.5**v * trainer.full_gradients(models[v], torch.tensor([c]))[0] for c, v in pair]
        expected = models[number - 1] + sum(moves) / 2
        assert (models[number] - expected).norm() <= 1e-9 * expected.norm()


def test_without_a_decay_clients_train_together(timed, run):
    """One chunk per version, whatever they were given: nothing changes for such runs."""
    result = run(timed("schedule=fedbuff", "rounds=5"))
    assert [len(deltas) for deltas in result.deltas] == [2] * 5


def test_what_the_rule_asks_for_is_of_that_version_too(timed):
    """The report's learning rates, and Ditto's own models."""
    sim = prepare(timed("schedule=fedbuff", *DECAY, "aggregator=qffedavg", "personalize=ditto"))
    state, rates, expected = initial_state(sim), [], []
    for number in range(1, 6):
        coming = sim.schedule.next_cohort(sim, state, number)
        round = sim.begin(state, number, coming)
        anchors = sim.schedule.anchors(coming, round)
        own = state.store.read("personalize.ditto", coming.clients, anchors.expand(len(coming.clients), -1))
        for part in sim.parts:
            part.open(round)
        learn(sim, round)
        state.round = number
        for part in sim.parts:
            part.close(round)
        (report,) = round.reports
        rates += report.lr.tolist()
        expected += [0.3 * 0.5 ** int(version) for version in coming.versions]
        for place, (client, version) in enumerate(zip(coming.clients, coming.versions, strict=True)):
            # one full step: gradient of the client's loss at its own model, and the pull
            given = anchors if anchors.dim() == 1 else anchors[place]
            pulled = sim.personal.trainer.full_gradients(own[place], client[None])[0] + 0.1 * (own[place] - given)
            now = state.store.read("personalize.ditto", client[None], own[place][None])[0]
            assert (now - own[place] + 0.3 * 0.5 ** int(version) * pulled).norm() <= 1e-9 * now.norm()
    assert rates == pytest.approx(expected)
    assert len(set(expected)) > 2


def test_the_schedule_of_the_server_lowers_alpha(timed, run):
    steps = ("aggregator/server_optimizer/schedule=step", "aggregator.server_optimizer.schedule.every=1")
    result = run(timed("schedule=fedasync", *steps, "rounds=2"))
    zero, (first, second) = initial_state(result.simulation).row, result.rows
    alpha = 0.5 * 0.6 * 2**-0.5
    assert (second - (1 - alpha) * first - alpha * (zero + result.deltas[1][0])).norm() <= 1e-12


def test_more_at_an_instant_than_the_buffer_takes(timed):
    """All need four seconds, by different products. The first by number make a version, the others the next ones.

    At 4: clients 0, 1 | 2, 3 | and 4, which waits for one of those that are asked then, with version 2: client 0 at 8.
    Then 1, 2 | 3 is left over and waits again, until those asked at 8 arrive.
    """
    sim = prepare(timed("schedule=fedbuff", work=(1 / 2, 1 / 13, 1 / 5, 1, 1 / 9)))
    seen, state = queue_alone(sim, 5)
    assert [c.clients.tolist() for c in seen] == [[0, 1], [2, 3], [0, 4], [1, 2], [0, 3]]
    assert [c.versions.tolist() for c in seen] == [[0, 0], [0, 0], [2, 0], [2, 2], [4, 2]]
    assert [c.seconds for c in seen] == pytest.approx([4, 0, 4, 0, 4])
    assert [len(c.informed) for c in seen] == [5, 0, 4, 0, 4]
    assert seconds_so_far(state) == pytest.approx(12)


def test_a_slot_is_given_on_at_once(tiny):
    """With fewer at work than there are clients, whoever is asked was idle, and nobody waits for a version."""
    sim = prepare(tiny(*EQUAL, "sampler.cohort_size=2", "schedule=fedbuff", "schedule.buffer_size=4"))
    seen, state = queue_alone(sim, 6)
    for coming in seen:
        assert len({*coming.clients.tolist()}) == 4
    assert sum(len(c.informed) for c in seen) == 6 * 4 + len(state.drawers["schedule"]["clients"])


def test_whom_the_sampler_asks_is_at_work_first(tiny):
    sim = prepare(tiny(*EQUAL, "sampler.cohort_size=3", "schedule=fedbuff"))
    for number in (1, 2, 3):
        state = initial_state(sim)
        state.round = number - 1
        asked = sim.schedule.next_cohort(sim, state, number).informed[:3]
        cohort = sim.experiment.sampler.cohort(sim.population.train.sizes, number, 0, None)
        assert sorted(asked.tolist()) == cohort.tolist()


def test_clients_with_more_samples_are_asked_more_often(tiny):
    """Two of five at work, a version per arrival, so that nearly all are asked beyond the cohort."""
    counts = {}
    for sampler in ("uniform", "weighted"):
        fast = (*EQUAL, "system.gflops=1e6", "system.down_mbps=1e6", "system.up_mbps=1e6")
        sim = prepare(tiny(*fast, f"sampler={sampler}", "sampler.cohort_size=1", "schedule=fedasync"))
        seen, _ = queue_alone(sim, 300)
        counts[sampler] = torch.bincount(torch.cat([c.clients for c in seen]), minlength=5)
    assert counts["weighted"][[1, 4]].sum() > 200 > counts["uniform"][[1, 4]].sum()  # 22 of 30 samples


# ---------------------------------------------------------------------------------------------------------------------
# equal devices are rounds


@pytest.mark.parametrize(
    ("engine", "cohort", "aggregator"),
    [("stacked", 3, "mean"), ("sequential", 3, "mean"), ("stacked", 8, "median"), ("stacked", 3, "fedadam")],
)
def test_equal_devices_and_a_buffer_of_the_cohort_are_rounds(compose, run, engine, cohort, aggregator):
    small = (
        *("data=synthetic", "data.clients=8", "data.samples_per_client=4", "data.test_samples_per_client=2"),
        *("data.length=3", "data.features=2", "partition=natural", "model.hidden_size=2", "client.batch_size=2"),
        *("rounds=4", "device=cpu", "threads=1", f"engine={engine}", *EQUAL, f"aggregator={aggregator}"),
        *(f"sampler.cohort_size={cohort}", "client.keep_optimizer_state=true", "client/optimizer=adam"),
    )
    rounds, buffered = run(compose(*small)), run(compose(*small, "schedule=fedbuff", f"schedule.buffer_size={cohort}"))
    for a, b in zip(rounds.rows, buffered.rows, strict=True):
        assert (a - b).norm() <= 1e-6 * a.norm()
    for a, b in zip(rounds.metrics, buffered.metrics, strict=True):
        assert {name: b[name] for name in a} == pytest.approx(a, nan_ok=True)
    assert column(buffered, "staleness") == [0] * 4


def test_everybody_in_the_buffer_is_rounds_on_any_devices(timed, run):
    rounds, buffered = run(timed()), run(timed("schedule=fedbuff", "schedule.buffer_size=5"))
    for a, b in zip(rounds.rows, buffered.rows, strict=True):
        assert torch.equal(a, b)
    assert column(buffered, "virtual_seconds") == pytest.approx(column(rounds, "virtual_seconds"))


# ---------------------------------------------------------------------------------------------------------------------
# whatever the devices


@settings(max_examples=30)
@given(
    seed=st.integers(0, 99),
    spread=st.sampled_from([0, 0.5, 2]),
    concurrency=st.integers(1, 5),
    buffer=st.integers(1, 5),
    dropout=st.sampled_from([0, 0.3, 0.9]),
    availability=st.sampled_from([1, 0.6, 0.1]),
)
def test_what_always_holds(tiny, seed, spread, concurrency, buffer, dropout, availability):
    on = tiny("system=devices", "schedule=fedbuff", "system.down_spread=0", "system.up_spread=0")
    system = replace(on.system, gflops=1e-4, gflops_spread=spread, dropout=dropout, availability=availability)
    sampler = replace(on.sampler, fraction=None, cohort_size=concurrency)
    schedule = replace(on.schedule, buffer_size=buffer)
    sim = prepare(replace(on, seed=seed, system=system, sampler=sampler, schedule=schedule))
    state, informed, arrived, lost = initial_state(sim), 0, 0, 0
    for number in range(1, 9):
        coming = sim.schedule.next_cohort(sim, state, number)
        again = sim.schedule.next_cohort(sim, state, number)  # it changes nothing
        assert coming.clients.tolist() == again.clients.tolist()
        clients, staleness = coming.clients.tolist(), number - 1 - coming.versions
        assert len(clients) == buffer or (len(clients) == 0 and availability < 1)
        assert clients == sorted({*clients})
        assert bool((staleness >= 0).all())
        assert coming.seconds >= 0
        keep(sim, state, number, coming)
        kept = state.drawers["schedule"]
        flying = kept["clients"].tolist() if kept else []
        assert len({*flying}) == len(flying)
        if clients:  # else who is in the buffer has been there for some time
            assert all(at >= seconds_so_far(state) * (1 - 1e-9) for at in kept.get("finish", ()))
        vanish = kept["vanishes"] if kept else torch.zeros(0, dtype=torch.bool)
        needed = {*kept["versions"][~vanish].tolist()} if kept else set()
        assert {f"row.{v}" for v in needed} == {name for name in kept if name.startswith("row.")}
        informed, arrived, lost = informed + len(coming.informed), arrived + len(clients), lost + coming.dropped
        assert len(flying) <= max(concurrency, 5)
        assert informed <= arrived + len(flying) + lost
    if dropout == 0 and availability == 1:
        assert lost == 0
        assert informed == arrived + len(flying)


def test_nobody_is_there(tiny, run):
    """A version that nobody can make is given up; what is in the buffer waits for the next."""
    result = run(tiny(*EQUAL, "schedule=fedbuff", "system.availability=1e-9"))
    assert column(result, "clients") == [0, 0]
    assert column(result, "dropped") == [5, 5]
    assert column(result, "staleness") == [None, None]
    assert torch.equal(result.rows[-1], initial_state(result.simulation).row)
    sim = prepare(tiny(*EQUAL, "schedule=fedbuff", "schedule.buffer_size=5", "system.availability=0.4"))
    seen, _ = queue_alone(sim, 12)
    sizes = [len(c.clients) for c in seen]
    assert {0, 5} == {*sizes}
    full = sizes.index(5, sizes.index(0))
    assert int((full - seen[full].versions).max()) > 0  # who came before the gap was kept


def test_who_vanishes_got_the_model_and_sends_nothing(tiny, run):
    result = run(tiny(*EQUAL, "schedule=fedbuff", "system.dropout=0.5", "rounds=6"))
    assert column(result, "clients") == [2] * 6
    assert sum(column(result, "dropped")) > 0
    waiting = len(result.state.drawers["schedule"]["clients"])
    assert result.metrics[-1]["bytes_up"] == 12 * P * 8
    assert result.metrics[-1]["bytes_down"] == (12 + sum(column(result, "dropped")) + waiting) * P * 8


# ---------------------------------------------------------------------------------------------------------------------
# together with the rest

ADVERSE = ("system=devices", "system.gflops=1e-4", "system.gflops_spread=1", "system.dropout=0.2", "rounds=5")


def close(a, b):
    for x, y in zip(a.rows, b.rows, strict=True):
        assert (x - y).norm() <= 1e-10 * y.norm()
    for x, y in zip(a.metrics, b.metrics, strict=True):
        assert [x[name] is None for name in x] == [y[name] is None for name in y]
        assert [v for v in x.values() if v is not None] == pytest.approx([v for v in y.values() if v is not None])


@pytest.mark.parametrize(
    "more",
    [
        ("schedule=fedasync", "aggregator=fedprox"),
        ("schedule=fedasync", "aggregator=norm_clipping", "schedule/staleness=constant"),
        ("schedule=fedbuff", "schedule.buffer_size=3", "aggregator=median", "schedule/staleness=hinge"),
        ("schedule=fedbuff", "schedule.buffer_size=3", "aggregator=fednova", "sampler.cohort_size=4"),
        ("schedule=fedbuff", "aggregator=qffedavg", "client.lr_decay=0.9"),
        ("schedule=fedbuff", "aggregator=fedadam", "model.dropout=0.3", "model.num_layers=2"),
        ("schedule=fedbuff", "aggregator=mean", "privacy=local_dp", "system.availability=0.8"),
    ],
)
def test_engines_chunks_and_resume_agree(tiny, run, more, tmp_path):
    on = tiny(*ADVERSE, *more)
    whole = run(on)
    assert max(v for v in column(whole, "staleness_max") if v is not None) > 0
    close(run(replace(on, engine=SequentialEngine())), whole)
    close(run(on, chunk_size=1), whole)
    short = run(replace(on, rounds=2))
    state = load_checkpoint(save_checkpoint(tmp_path, short.state), torch.device("cpu"))
    rest = run(on, state)
    assert rest.metrics == whole.metrics[3:]
    assert torch.equal(rest.state.row, whole.state.row)


def test_personal_models_are_pulled_to_what_their_client_was_given(tiny, run):
    on = replace(tiny(*ADVERSE, "schedule=fedbuff"), personalize=Ditto(mu=1.0))
    whole = run(on)
    close(run(replace(on, engine=SequentialEngine())), whole)
    close(run(on, chunk_size=1), whole)


@pytest.mark.parametrize(
    "other",
    [
        ("schedule.buffer_size=3",),
        ("schedule/staleness=constant",),
        ("schedule/staleness=hinge", "schedule.staleness.grace=0"),
        ("schedule/staleness=hinge", "schedule.staleness.grace=0", "schedule.staleness.slope=0.5"),
        ("schedule.staleness.exponent=2",),
        ("sampler.cohort_size=4",),
        ("system.dropout=0.3",),
        ("system.availability=0.5",),
        ("client.lr_decay=0.5",),
    ],
)
def test_every_option_does_something(tiny, run, other):
    usual = ("schedule=fedbuff",)
    a, b = (run(tiny(*EQUAL, "rounds=4", "system.gflops=1e-4", *usual, *more)) for more in ((), other))
    assert not torch.allclose(a.state.row, b.state.row)


@pytest.mark.parametrize(
    "other", ["schedule.alpha=0.5", "schedule/staleness=constant", "schedule.staleness.exponent=1"]
)
def test_every_option_of_fedasync_does_something(tiny, run, other):
    a, b = (run(tiny(*EQUAL, "rounds=3", "system.gflops=1e-4", "schedule=fedasync", *more)) for more in ((), (other,)))
    assert not torch.allclose(a.state.row, b.state.row)


def test_attacks_and_links_come_before_staleness(timed, run):
    """The server scales what it has received: -delta, and the quantised delta."""
    flip = run(replace(timed("schedule=fedbuff"), attack=SignFlip(fraction=1.0)))
    expected = flip.rows[0] - (2**-0.5 * flip.deltas[1][0] + flip.deltas[1][1]) / 2
    assert (flip.rows[1] - expected).norm() <= 1e-12
    assert column(flip, "malicious") == [2, 2]
    coarse = run(replace(timed("schedule=fedbuff"), link=TwoWayLink(up=Quantize())))
    assert coarse.metrics[1]["bytes_up"] < 2 * P * 8
    assert column(coarse, "virtual_seconds") != column(flip, "virtual_seconds")


def test_local_privacy_counts_who_has_arrived(timed, run):
    """Of five versions of two arrivals: clients 0 and 3 three times, 2 twice, 1 and 4 once."""
    result = run(timed("schedule=fedbuff", "privacy=local_dp", "rounds=5"))
    counts = result.state.store.read("privacy.rounds", torch.arange(5), torch.zeros(5, 1, dtype=torch.float64))
    assert counts[:, 0].tolist() == [3, 1, 2, 3, 1]


def test_the_plan(timed):
    told = plan.plan(prepare(timed("schedule=fedbuff")))
    assert told["schedule"] == "fedbuff: 5 clients at work at once, a version per 2 arrival(s)"
    assert told["seconds of round 1"] == "5 (virtual)"
    assert told["bytes in round 1"] == f"{5 * P * 8:,} down, {2 * P * 8:,} up"
