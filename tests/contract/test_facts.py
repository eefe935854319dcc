"""Every fact that a component declares, or does not, is held against what it does: found by globbing the YAMLs."""

import dataclasses
import importlib
import importlib.resources
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from fedsim.aggregation.rules import combine_chunks
from fedsim.clients.report import Report
from fedsim.clients.step import Step
from fedsim.core.cohort import Update
from fedsim.core.facts import Fact, facts_of
from fedsim.core.names import option_name
from fedsim.errors import UserError
from fedsim.federation.clashes import CLASHES, NEEDS, claims_of, refuse_clashes
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

ROOT = Path(str(importlib.resources.files("fedsim.configs")))
GROUPS = (
    *("aggregator/combine", "aggregator/correction", "aggregator/server_optimizer", "sampler", "privacy", "attack"),
    *("audit", "system", "schedule", "personalize", "link/up", "baseline"),
)
SMALL = (
    *("data=synthetic", "data.clients=6", "data.samples_per_client=5", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=quantity", "num_clients=6", "model.hidden_size=2"),
    *("client.epochs=1", "rounds=3", "client.batch_size=2", "engine.kernels=torch", "device=cpu", "threads=1"),
    *("dtype=float64", "seed=3"),
)


def options(group):
    return sorted(path.stem for path in (ROOT / group).glob("*.yaml"))


def component(group, name, **changes):
    """The component of an option with its defaults."""
    node = yaml.safe_load((ROOT / group / f"{name}.yaml").read_text())
    module, _, cls = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), cls)(**changes)


def facts(group, name, **changes):
    return facts_of(group, component(group, name, **changes))


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in GROUPS for name in options(group)],
)
def test_components_know_what_the_config_calls_them(group, name):
    needs = {"profiles": {"path": "x.csv"}, "weighted": {}}.get(name, {}) if group == "system" else {}
    assert option_name(component(group, name, **needs)) == name


# ---------------------------------------------------------------------------------------------------------------------
# combine rules: C clients, rows [C, 4] far enough apart for every bound that a rule has

SIZES = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
RULES = options("aggregator/combine")


def deltas(seed=0):
    return 100 * torch.randn(len(SIZES), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def report(sizes=SIZES, other=1.0):
    ones = torch.ones(len(sizes), dtype=torch.float64) * other
    return Report(sizes, sizes + 1, ones, ones, ones, ones, ones, ones * torch.arange(1, len(sizes) + 1))


def combined(name, rows, of):
    return combine_chunks(component("aggregator/combine", name), rows[0], [(rows, of)]).delta


def is_linear(name):
    """Whether the result is the same weighted sum of the rows, whatever stands in them."""
    weights = torch.stack(
        [combined(name, torch.eye(len(SIZES), dtype=torch.float64)[:, [k]], report()) for k in range(11)]
    )
    return torch.allclose(combined(name, deltas(), report()), weights[:, 0] @ deltas(), rtol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_rules_that_read_single_rows_are_no_sum_of_them(name):
    assert is_linear(name) == (Fact.READS_ROWS not in facts("aggregator/combine", name))


@pytest.mark.parametrize("name", RULES)
def test_rules_that_read_the_report_change_with_it(name):
    nothing = report(torch.full_like(SIZES, 7), math.nan)
    try:
        same = torch.equal(combined(name, deltas(), report()), combined(name, deltas(), nothing))
    except Exception:
        same = False  # it looked
    assert same == (Fact.READS_REPORT not in facts("aggregator/combine", name))


@pytest.mark.parametrize("name", RULES)
def test_rules_that_compare_clients_cannot_be_put_together_from_two_cohorts(name):
    """A mean of all is the mean of two means, by clients or by samples; clients must be enough for each half."""
    own = facts("aggregator/combine", name)
    few = {"krum", "multi_krum", "bulyan"}
    halves = [slice(0, 4), slice(4, 11)] if name not in few else None
    if halves is None:
        assert Fact.COMPARES in own  # they need more clients than a half has
        return
    rows, whole = 0.001 * deltas(), combined(name, 0.001 * deltas(), report())
    parts = [combined(name, rows[half], report(SIZES[half])) for half in halves]
    together = False
    for weights in (torch.ones(11), SIZES):
        shares = [float(weights[half].sum() / weights.sum()) for half in halves]
        together |= torch.allclose(shares[0] * parts[0] + shares[1] * parts[1], whole, rtol=1e-9)
    if name in ("centered_clipping", "geometric_median"):
        together = False  # within their bounds they are means; they compare beyond them
    assert together == (Fact.COMPARES not in own)


@pytest.mark.parametrize("name", RULES)
def test_weights_that_are_known_beforehand_follow_from_samples_alone(name):
    own = facts("aggregator/combine", name)
    if Fact.READS_ROWS in own or Fact.READS_REPORT not in own:
        return
    loose = not torch.equal(combined(name, deltas(), report(other=1.0)), combined(name, deltas(), report(other=2.0)))
    assert (loose or name == "fednova") == (Fact.UNBOUNDED_WEIGHTS in own)
    weigh = getattr(component("aggregator/combine", name), "weights", None)
    assert (weigh is None) == (Fact.UNBOUNDED_WEIGHTS in own)


def test_weights_by_anything_but_samples_have_no_known_largest_value():
    for by in ("loss", "accuracy", "tokens"):
        own = facts("aggregator/combine", "weighted", by=by)
        assert {Fact.UNBOUNDED_WEIGHTS, Fact.COMPARES} <= set(own)
        assert own[Fact.UNBOUNDED_WEIGHTS] == f"aggregator.combine.by={by}"


@pytest.mark.parametrize("name", RULES)
def test_rules_that_count_samples_prefer_a_client_with_many(name):
    """A thousand times the samples bring the result nearer to a client's row, where rows differ little."""
    rows, many = 0.001 * deltas(), torch.where(torch.arange(11) == 4, 1000 * SIZES, SIZES)
    near, far = ((combined(name, rows, report(sizes)) - rows[4]).norm() for sizes in (many, SIZES))
    assert bool(near < 0.5 * far) == (Fact.COUNTS_SAMPLES in facts("aggregator/combine", name))


@pytest.mark.parametrize("name", RULES)
def test_rules_that_need_coefficients_ask_for_them(name):
    asked = "coefficient_norm" in getattr(component("aggregator/combine", name), "needs", ())
    assert asked == (Fact.NEEDS_COEFFICIENTS in facts("aggregator/combine", name))


# ---------------------------------------------------------------------------------------------------------------------
# server optimizers


@pytest.mark.parametrize("name", options("aggregator/server_optimizer"))
def test_server_optimizers_that_add_something_else(name):
    optimizer, row = component("aggregator/server_optimizer", name), torch.zeros(3, dtype=torch.float64)
    first, second = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.1, 0.2, -3.0]).double()
    state = optimizer.init(row)
    moved, state = optimizer.step(row, first, state, optimizer.lr)
    again, _ = optimizer.step(moved, second, state, optimizer.lr)
    own = facts("aggregator/server_optimizer", name)
    assert torch.allclose(again - moved, optimizer.lr * second) == (Fact.OWN_STEP not in own)
    if Fact.OWN_STEP not in own:
        assert torch.equal(moved, first) == (Fact.SCALES_STEP not in own)


def test_a_step_of_another_length():
    assert facts("aggregator/server_optimizer", "sgd", lr=0.5) == {
        Fact.SCALES_STEP: "aggregator.server_optimizer.lr=0.5"
    }


# ---------------------------------------------------------------------------------------------------------------------
# samplers


@pytest.mark.parametrize("name", options("sampler"))
def test_samplers(name):
    own = facts("sampler", name)
    changes = {} if name == "poisson" else {"fraction": 0.25} if name != "availability" else {"fraction": 0.5}
    sampler, sizes = component("sampler", name, **changes), torch.arange(1, 41)
    asked = []

    def losses(clients):
        asked.append(clients)
        return clients.double()

    rounds = range(1, 60)
    cohorts = [sampler.cohort(sizes, number, 0, losses) for number in rounds]
    assert bool(asked) == (Fact.ASKS_LOSSES in own)
    turned = [sampler.cohort(sizes.flip(0), number, 0, losses) for number in rounds]
    by_size = any(not torch.equal(a, b) for a, b in zip(cohorts, turned, strict=True))
    assert by_size == (Fact.ASKS_SIZES in own)
    fixed = len({len(cohort) for cohort in cohorts}) == 1
    assert fixed == (not {Fact.NO_COHORT_SIZE, Fact.GOES_BY_ROUNDS} & set(own))
    seeds = [sampler.cohort(sizes, number, 1, losses) for number in rounds]
    drawn = any(not torch.equal(a, b) for a, b in zip(cohorts, seeds, strict=True))
    turns = not any(set(a.tolist()) & set(b.tolist()) for a, b in pairwise(cohorts))  # never the same twice in a row
    assert turns == (Fact.TAKES_TURNS in own)
    assert drawn or turns
    known = sampler.accounting(40) is not None
    assert not known or not {Fact.ASKS_LOSSES, Fact.ASKS_SIZES, Fact.TAKES_TURNS, Fact.GOES_BY_ROUNDS} & set(own)


# ---------------------------------------------------------------------------------------------------------------------
# parts of a round, in runs of a few rounds


@pytest.fixture(scope="module")
def played(compose):
    """Return ``played(*overrides)``: the simulation and its state after the last round."""

    def played(*overrides):
        simulation = prepare(compose(*SMALL, *overrides))
        state = initial_state(simulation)
        for _ in simulate(simulation, state):
            pass
        return simulation, state

    return played


def kept(simulation, state, part):
    """Whether a part has kept anything."""
    return bool(state.drawers.get(part.group)) or any(b.startswith(f"{part.group}.") for b in state.store.blocks)


@pytest.mark.parametrize("name", options("aggregator/correction"))
def test_corrections(played, name):
    own = facts("aggregator/correction", name)
    more = ("aggregator.blocks=[-head]",) if name in ("fedrep", "fedbabu") else ()
    simulation, state = played(f"aggregator/correction={name}", *more)
    part = simulation.correction
    assert kept(simulation, state, part) == (Fact.REMEMBERS in own)
    before = simulation.traffic(state, torch.arange(2), 9)
    without = dataclasses.replace(simulation, parts=tuple(p for p in simulation.parts if p is not part))
    more = before.up - without.traffic(state, torch.arange(2), 9).up
    assert (more > 0) == (Fact.TELLS in own)
    rows, anchors, gradient = torch.randn(3, 2, len(state.row), dtype=torch.float64)
    round = simulation.begin(state, 4, simulation.schedule.next_cohort(simulation, state, 4))
    part.open(round)
    memory = part.recall(torch.arange(2), round)
    layout = simulation.task.arch.layout
    step = Step(rows, anchors, memory, 0, torch.full((2,), 2), layout, simulation.blocks, lambda at: at.square())
    corrected, again = gradient.clone(), gradient.clone()
    part.correct(corrected, step)
    part.correct(again, step._replace(rows=rows - 0.1 * corrected, number=1))  # some begin with the second step
    straight = torch.allclose(corrected, gradient + part.pull * (rows - anchors)) and torch.allclose(
        again, gradient + part.pull * (rows - 0.1 * corrected - anchors)
    )
    assert straight == (Fact.BENDS not in own)
    assert (part.pull > 0) == (Fact.PULLS in own)


@pytest.mark.parametrize("name", options("personalize"))
def test_personal_models(played, name):
    own = facts("personalize", name)
    simulation, state = played(f"personalize={name}")
    assert any(column.name.startswith("personal_") for column in simulation.columns) == (Fact.PERSONAL in own)
    assert (simulation.bound.gradients > 1) == (Fact.SECOND_MODEL in own)
    assert kept(simulation, state, simulation.personal) == (Fact.SECOND_MODEL in own)


@pytest.mark.parametrize("name", [name for name in options("attack") if name != "none"])
def test_attackers_that_do_not_collude_see_nothing_but_their_own_row(compose, name):
    """The rows of all others are not numbers: what attackers send is the same, unless they say that they read them."""
    more = ("attack.z=1",) if name == "alie" else ()
    simulation = prepare(compose(*SMALL, f"attack={name}", "attack.fraction=0.5", *more, "aggregator=median"))
    state = initial_state(simulation)
    round = simulation.begin(state, 1, simulation.schedule.next_cohort(simulation, state, 1))
    clients, bad = round.cohort.clients, simulation.attack.malicious[round.cohort.clients]
    rows = torch.randn(len(clients), simulation.blocks.size, dtype=torch.float64)

    def sent(rows):
        update = Update(clients, rows, report(torch.ones_like(clients)), None)
        return torch.cat([u.rows for u in simulation.attack.pass_on(iter([update]), round)])[bad]

    alone = torch.where(bad[:, None], rows, torch.nan)
    same = torch.equal(sent(rows), sent(alone))
    assert same == (Fact.COLLUDES not in facts("attack", name))


@pytest.mark.parametrize("name", [name for name in options("attack") if name != "none"])
def test_attackers_that_forge_rows_send_others_than_they_were_given(compose, name):
    more = ("attack.z=1",) if name == "alie" else ()
    simulation = prepare(compose(*SMALL, f"attack={name}", "attack.fraction=0.5", *more, "aggregator=median"))
    state = initial_state(simulation)
    round = simulation.begin(state, 1, simulation.schedule.next_cohort(simulation, state, 1))
    rows = torch.randn(len(round.cohort.clients), len(state.row), dtype=torch.float64)
    update = Update(round.cohort.clients, rows, Report(round.cohort.steps, round.cohort.steps, rows[:, 0]), None)
    sent = torch.cat([u.rows for u in simulation.attack.pass_on(iter([update]), round)])
    assert (not torch.equal(sent, rows)) == (Fact.FORGES in facts("attack", name))
    assert ("rejected" in [column.name for column in simulation.columns]) == (Fact.FORGES in facts("attack", name))
    honest = ~simulation.attack.attackers(round.cohort.clients)
    assert torch.equal(sent[honest], rows[honest])
    assert Fact.FORGES in facts("attack", "backdoor", factor=5.0)


@pytest.mark.parametrize("name", options("link/up"))
def test_links(played, name):
    simulation, state = played(f"link/up={name}", "aggregator=mean")
    own = simulation.bound.facts
    state.round += 1
    round = simulation.begin(state, 5, simulation.schedule.next_cohort(simulation, state, 5))
    rows = torch.randn(len(round.cohort.clients), simulation.blocks.size, dtype=torch.float64)
    update = Update(round.cohort.clients, rows, report(torch.ones(len(rows))), None)
    (arrived,) = simulation.link.pass_on(iter([update]), round)
    assert torch.equal(arrived.rows, rows) == (Fact.LOSSY_UP not in own)
    assert ("link.error" in state.store.blocks) == (Fact.FEEDS_BACK in own)


@pytest.mark.parametrize("name", options("link/down"))
def test_links_downstream(played, name):
    simulation, state = played(f"link/down={name}", "aggregator=mean")
    same = torch.equal(simulation.link.received(state), state.row)
    assert same == (Fact.LOSSY_DOWN not in simulation.bound.facts)


@pytest.mark.parametrize("name", [name for name in options("audit") if name not in ("none", "tokens")])
def test_audits_that_do_not_read_updates_get_rows_that_are_not_numbers(compose, name):
    once = ("client.epochs=null", "client.steps=1", "client.batch_size=1")
    simulation = prepare(compose(*SMALL, f"audit={name}", *(once if name == "inversion" else ())))
    state, audit = initial_state(simulation), next(part for part in simulation.parts if part.group == "audit")
    round = simulation.begin(state, 1, simulation.schedule.next_cohort(simulation, state, 1))
    rows = torch.full((len(round.cohort.clients), simulation.blocks.size), torch.nan, dtype=torch.float64)
    update = Update(round.cohort.clients, rows, report(torch.ones(len(rows))), None)
    (passed,) = audit.pass_on(iter([update]), round)
    assert passed is update  # an audit changes nothing
    own = facts("audit", name)
    assert bool(round.notes) == (Fact.READS_UPDATES in own)
    found = audit.examine(simulation, state).metrics
    assert bool(found) == (Fact.JUDGES_MODEL in own and Fact.READS_UPDATES not in own)


@pytest.mark.parametrize("name", options("schedule"))
def test_schedules(played, name):
    more = ("system=devices",) if name not in ("synchronous", "dpsgd") else ()
    more += {"flhc": ("schedule.after=1",), "hierfavg": ("schedule.backhaul_mbps=1",)}.get(name, ())
    simulation, state = played(f"schedule={name}", *more, "aggregator=mean")
    own = facts("schedule", name)
    cohort = simulation.schedule.next_cohort(simulation, state, 4)
    assert (cohort.versions is not None) == (Fact.ASYNCHRONOUS in own)
    assert (simulation.schedule.cohort_sizes(3, 6) == (1, 1)) == (Fact.ONE_AT_A_TIME in own)


def test_systems_that_count_the_time(played):
    for name in ("none", "devices"):
        _, state = played(f"system={name}")
        assert ("virtual_seconds" in state.drawers.get("system", {})) == (Fact.TIMED in facts("system", name))


@pytest.mark.parametrize("name", [name for name in options("privacy") if name != "none"])
def test_privacy(played, name):
    """Who says that clients add noise changes their rows; who has a mean of its own has it in the place of any rule."""
    pytest.importorskip("dp_accounting")
    separated = dict.fromkeys(("dp_ftrl", "matrix_factorisation"), ("sampler=min_separation",))
    more = {"central_dp_adaptive": ("privacy.count_noise=9",), **separated}.get(name, ())
    simulation, state = played(f"privacy={name}", "aggregator=mean", *more)
    own = facts("privacy", name)
    round = simulation.begin(state, 4, simulation.schedule.next_cohort(simulation, state, 4))
    rows = torch.randn(len(round.cohort.clients), simulation.blocks.size, dtype=torch.float64)
    update = Update(round.cohort.clients, rows, report(torch.ones(len(rows))), None)
    (passed,) = simulation.privacy.pass_on(iter([update]), round)
    assert torch.equal(passed.rows, rows) == (Fact.NOISE_ON_CLIENTS not in own)
    rule = simulation.bound.combine
    replaced = simulation.privacy.rule(rule, round) is not rule
    assert replaced == bool({Fact.PRIVATE_MEAN, Fact.HIDES_ROWS} & set(own))
    columns = [column.name for column in simulation.columns]
    assert ("epsilon" in columns) == ("rejected" in columns) == (Fact.ACCOUNTED in own)


# ---------------------------------------------------------------------------------------------------------------------
# the table


def test_every_fact_is_asked_for():
    """A fact that no row names, and no part asks for, says nothing."""
    named = {fact for row in (*CLASHES, *NEEDS) for fact in (row.first, row.second)}
    assert set(Fact) - named == {
        *(Fact.TELLS, Fact.FORGES, Fact.ACCOUNTED),  # by which `prepare` orders and adds stages
        *(Fact.COUNTS_SAMPLES, Fact.TAKES_DRAW_BY_SIZE),  # about which `fedsim.federation.advice` has a word
    }


@pytest.mark.parametrize("row", [*CLASHES, *NEEDS], ids=lambda row: f"{row.first.name}-{row.second.name}")
def test_sentences_are_whole(row):
    text = f"a=b: {row.why}; {row.way_out}".format(first="a=b", second="c=d", off="c=none")
    assert "{" not in text
    assert not row.why.endswith((".", ";"))


@dataclasses.dataclass(frozen=True)
class MyWeights:
    """A rule of the user's own that weighs by samples, as the built-in one, and says nothing of it."""

    def combine(self, deltas, report):
        weights = report.num_samples.double()
        return weights @ deltas.double() / weights.sum()


@dataclasses.dataclass(frozen=True)
class MyMean(MyWeights):
    facts = frozenset()


@pytest.mark.parametrize("privacy", ["local_dp", "central_dp", "secure_aggregation"])
def test_a_rule_that_says_nothing_is_taken_to_read_everything(privacy):
    parts = {"privacy": component("privacy", privacy)}
    with pytest.raises(UserError, match=r"aggregator/combine=my_weights .*says otherwise in its `facts`"):
        refuse_clashes(claims_of({**parts, "aggregator/combine": MyWeights()}))
    refuse_clashes(claims_of({**parts, "aggregator/combine": MyMean()}))
