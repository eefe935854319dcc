"""What epsilon covers and what it does not: refusals, warnings, records, and what one client cannot decide."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.core.origin import Origin, Spending, digest_of_names, read_origin, read_spending
from fedsim.data.dataset import Dataset, Pooled, Split, Task
from fedsim.data.fitted import Column, Fitted, Scaling
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import play_round
from fedsim.privacy.budget import epsilon_of
from fedsim.privacy.central import CentralDP
from fedsim.samplers.sampler import ADD_OR_REMOVE, REPLACE

CENTRAL = ("privacy=central_dp", "aggregator=mean")
LOCAL = ("privacy=local_dp", "aggregator=mean")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _accountant():
    pytest.importorskip("dp_accounting")


def introduction(simulation):
    return simulation.privacy.introduce()


# ---------------------------------------------------------------------------------------------------------------------
# data that were prepared by what all clients hold


@pytest.fixture
def table(tmp_path):
    """Three clients with ten rows each; `x` is missing in the first row of the second."""
    rows = np.random.default_rng(0).normal(5, 2, size=(30, 2)).round(3)
    lines = [f"{'abc'[k // 10]},{x},{y},{'up' if y > 5 else 'down'}" for k, (x, y) in enumerate(rows)]
    (tmp_path / "whole.csv").write_text("who,x,y,word\n" + "\n".join(lines))
    lines[10] = lines[10].replace(f",{rows[10, 0]},", ",,")
    (tmp_path / "holes.csv").write_text("who,x,y,word\n" + "\n".join(lines))
    (tmp_path / "alone.csv").write_text("x,y\n" + "\n".join(f"{x},{y}" for x, y in rows))
    return tmp_path


@pytest.fixture
def of_table(compose, table):
    """Return ``of_table(*overrides, file=..., private=...)``, an experiment on the table with central privacy."""

    def of_table(*overrides, file="whole.csv", private=CENTRAL):
        who = () if file == "alone.csv" else ("data.client_column=who", "partition=natural")
        data = ("data=csv", f"data.path={table / file}", "data.target_column=y", "data.feature_columns=[x]", *who)
        small = (
            "data.window=1",
            "data.test_fraction=0.3",
            "model.hidden_size=2",
            "device=cpu",
            "engine.kernels=torch",
            "rounds=1",
        )
        return compose(*data, *small, *private, *overrides)

    return of_table


GIVEN = ("data.scale=given", "data.scales={x: [5, 2], y: [5, 2]}")


@pytest.mark.parametrize(
    ("overrides", "file", "text"),
    [
        (
            (),
            "whole.csv",
            r"privacy=central_dp: the scale of the columns \(data.scale=global\) would be taken from all clients' "
            r"samples without noise, so that one client changes what all others send, and no epsilon holds; take "
            r"data.scale=client, data.scale=none, or data.scale=given with data.scales$",
        ),
        (
            ("data.scale=client", "partition=iid", "num_clients=2"),
            "whole.csv",
            "scaled by the training samples of each of their own clients, whose samples the partition divides among",
        ),
        (
            ("data.scale=client", "partition=iid", "num_clients=2"),
            "alone.csv",
            r"\(data.scale=client, of one series\) would be taken .*; take data.scale=none, or data.scale=given",
        ),
        (
            ("data.scale=none", "data.missing=mask"),
            "holes.csv",
            r"the mean that stands for values before the first one that was seen \(data.missing=mask\) .*; take "
            "data.scale=given with data.scales, whose shifts stand for them$",
        ),
    ],
)
def test_what_is_fitted_over_all_clients_is_refused(of_table, overrides, file, text):
    with pytest.raises(UserError, match=text):
        prepare(of_table(*overrides, file=file))
    prepare(of_table(*overrides, file=file, private=("aggregator=mean",)))


@pytest.mark.parametrize(
    ("overrides", "file"),
    [
        (("data.scale=client",), "whole.csv"),
        (("data.scale=none",), "whole.csv"),
        (GIVEN, "whole.csv"),
        ((*GIVEN[:1], "data.scales={x: [5, 2], x_since: [0, 1], y: [5, 2]}", "data.missing=mask"), "holes.csv"),
        (("data.scale=client", "data.missing=mask"), "holes.csv"),
    ],
)
def test_what_depends_on_one_client_alone_is_not(of_table, overrides, file):
    assert prepare(of_table(*overrides, file=file)).population.pooled == ()


def test_words_and_classes_are_named_and_recorded(of_table):
    words = ("data.task=classification", "data.target_column=word", "data.feature_columns=[x]", "data.scale=client")
    simulation = prepare(of_table(*words))
    (line,) = [line for line in introduction(simulation) if line.startswith("epsilon does not cover")]
    assert line.endswith("; the list of classes, taken from all clients' samples")
    named = prepare(of_table("data.categories=[word]", "data.scale=client")).population.pooled
    assert [one.what for one in named] == ["the words of data.categories, each of which is a feature"]


@pytest.mark.parametrize(
    ("overrides", "pooled"),
    [
        (("data=japanese_vowels",), (Pooled("the scale of the features"),)),
        (("data=japanese_vowels", "data.standardise=false"), ()),
        (("data=synthetic",), ()),
    ],
)
def test_the_default_data_can_be_used(compose, overrides, pooled):
    """Their scale is outside epsilon, which the start and the record say; there is a key that does without it."""
    simulation = prepare(compose(*overrides, *CENTRAL, "model.hidden_size=2", "device=cpu"))
    assert simulation.population.pooled == pooled
    recorded = simulation.privacy.summary(initial_state(simulation))["privacy"]["not_covered"]
    assert ("the scale of the features, taken from all clients' samples" in recorded) == bool(pooled)


def test_sources_of_the_user_are_taken_at_what_they_fitted():
    def named(fitted, pooled=None):
        one = Split(np.zeros((1, 1, 1)), np.ones(1, np.int64), np.zeros(1, np.int64))
        data = Dataset("mine", Task.CLASSIFICATION, one, one, 2, fitted=fitted, pooled=pooled)
        return [pooled.what for pooled in data.from_all_clients]

    moved = Scaling((Column("x", 1.0, 2.0),))
    assert named(Fitted()) == named(Fitted(Scaling((Column("x"),)))) == []
    assert named(Fitted(moved)) == ["the scale of features and targets"]
    assert named(Fitted(Scaling((Column("x"),)), clients=(("a", moved),))) == []
    assert named(Fitted(labels=("a", "b"), vocabulary=("c",))) == ["the vocabulary", "the list of classes"]
    assert named(Fitted(moved), pooled=()) == []


# ---------------------------------------------------------------------------------------------------------------------
# rows that are not finite


class Broken:
    """An engine that has some clients diverge."""

    def __init__(self, trainer, clients):
        self._trainer, self._clients = trainer, clients

    def __getattr__(self, name):
        return getattr(self._trainer, name)

    def train(self, anchors, clients, *more):
        deltas, report = self._trainer.train(anchors, clients, *more)
        bad = torch.isin(clients, torch.tensor(self._clients))
        deltas[bad, 0] = math.nan
        return deltas, replace(report, train_loss=report.train_loss.masked_fill(bad, math.inf))


def played(simulation, rounds=1):
    state = initial_state(simulation)
    return state, [play_round(simulation, state).metrics for _ in range(rounds)]


@pytest.mark.parametrize("private", [CENTRAL, LOCAL], ids=["central", "local"])
def test_a_client_that_diverges_sends_zeros(tiny, private):
    """Without noise: the round is that in which the two send nothing, over the same denominator of five."""
    quiet = tiny(*private, "privacy.noise_multiplier=1e-12", "privacy.clip_norm=0.1")
    whole = prepare(quiet)
    state, (row,) = played(replace(whole, trainer=Broken(whole.trainer, [1, 4])))
    assert row["rejected"] == 2
    assert row["train_loss"] > 0
    start = initial_state(whole)
    round = whole.begin(start, 1, whole.schedule.next_cohort(whole, start, 1))
    others = torch.tensor([0, 2, 3])
    deltas, _ = whole.trainer.train(start.row, others, 1, start.store, None, None, round.cohort.steps[others])
    clipped = deltas * (0.1 / deltas.norm(dim=1, keepdim=True)).clamp(max=1)
    np.testing.assert_allclose(state.row - start.row, clipped.sum(0) / 5, atol=1e-9)


def test_all_may_diverge(tiny):
    simulation = prepare(tiny(*CENTRAL))
    _, rows = played(replace(simulation, trainer=Broken(simulation.trainer, range(5))), rounds=2)
    assert [row["rejected"] for row in rows] == [5, 5]
    assert [row["train_loss"] for row in rows] == [None, None]
    assert all(row["delta_norm"] > 0 for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# the denominator, and who is public

POISSON = ("sampler=poisson", "sampler.probability=0.4")


def test_the_denominator_is_public_or_given(tiny):
    """q N of five clients is 2; half as large a denominator moves the model twice as far, noise included."""
    usual, given = (prepare(tiny(*CENTRAL, *POISSON, *more)) for more in ((), ("privacy.denominator=1",)))
    (line,) = [line for line in introduction(usual) if "public" in line]
    assert line == (
        "epsilon takes for public: the number of clients, 5, by which the mean is divided (unless privacy.denominator "
        "is given)"
    )
    assert not any("public" in line for line in introduction(given))
    one, other = (played(simulation)[0].row for simulation in (usual, given))
    start = initial_state(usual).row
    np.testing.assert_allclose(other - start, 2 * (one - start), rtol=1e-9)
    summaries = [s.privacy.summary(initial_state(s))["privacy"] for s in (usual, given)]
    assert [found["denominator"] for found in summaries] == [2, 1]
    assert summaries[0]["epsilon"] == summaries[1]["epsilon"]
    with pytest.raises(FieldError, match="denominator=0: must be greater than 0"):
        CentralDP(denominator=0)


def test_cohorts_of_one_size_have_the_same_denominator_for_all_neighbours(tiny):
    assert not any("public" in line for line in introduction(prepare(tiny(*CENTRAL))))


@pytest.mark.parametrize(("delta", "warned"), [("0.2", True), ("0.5", True), ("0.19", False), ("1e-5", False)])
def test_a_delta_that_protects_nobody_is_warned_of(tiny, delta, warned):
    simulation = prepare(tiny(*LOCAL, f"privacy.delta={delta}"))
    lines = [line for line in introduction(simulation) if line.startswith("warning: ")]
    text = (
        f"privacy.delta={float(delta):g} is not below one over the number of clients, 5: publishing all samples of one "
    )
    assert [line.startswith(f"warning: {text}") for line in lines] == [True] * warned
    recorded = simulation.privacy.summary(initial_state(simulation))["privacy"]["warnings"]
    assert [f"warning: {line}" for line in recorded] == lines


def test_unit_neighbours_sampling_and_what_is_left_out_are_shown_before(tiny):
    """The same in the lines at the start, in the plan of ``--dry-run`` and in ``summary.json``."""
    wanted = {
        (*CENTRAL, *POISSON): ("add or remove one client", "each client on its own, with probability 0.4"),
        (*CENTRAL, "sampler.cohort_size=2", "sampler.fraction=null"): (
            "replace one client",
            "2 of 5 clients, drawn without replacement",
        ),
        LOCAL: ("replace one client", "not counted: a round in which a client takes part counts in full"),
    }
    for overrides, (relation, sampling) in wanted.items():
        simulation = prepare(tiny(*overrides, "rounds=3"))
        state = initial_state(simulation)
        first = introduction(simulation)[0]
        assert first.startswith(f"differential privacy of clients ({relation}): noise multiplier 1, delta 1e-05; ")
        assert first.endswith(f"sampling: {sampling}")
        plan = simulation.privacy.plan(simulation, state, None)
        assert plan["privacy"].startswith(first)
        assert plan["privacy"].endswith(f"epsilon at most {simulation.privacy.budget.epsilon(3):.4g} in 3 rounds")
        found = simulation.privacy.summary(state)["privacy"]
        assert (found["unit"], found["relation"], found["sampling"]) == ("client", relation, sampling)
        assert plan["epsilon leaves out"].split("\n") == found["not_covered"]
        for word in ("metrics.csv", "clients.csv", "best round", "early stopping", "forks", "floating-point"):
            assert any(word in line for line in found["not_covered"])


# ---------------------------------------------------------------------------------------------------------------------
# who has taken part


@pytest.mark.parametrize("private", [(*CENTRAL, *POISSON), (*LOCAL, *POISSON)], ids=["central", "local"])
def test_participations_are_counted(tiny, run, private):
    kept = run(tiny(*private, "rounds=6"))
    bound = kept.simulation.bound
    sizes = bound.population.train.sizes
    cohorts = [bound.sampler.cohort(sizes, number, bound.seed, None) for number in range(1, 7)]
    counts = [torch.bincount(torch.cat(cohorts[:k]), minlength=5) for k in range(1, 7)]
    assert [row["participations_max"] for row in kept.metrics] == [0, *(int(count.max()) for count in counts)]
    evaluation = kept.simulation.examine(kept.state)
    assert evaluation.clients["participations"].tolist() == counts[-1].tolist()
    summary = kept.simulation.privacy.summary(kept.state)["privacy"]
    assert summary["participations_max"] == int(counts[-1].max())
    assert summary["epsilon"] == kept.metrics[-1]["epsilon"]


# ---------------------------------------------------------------------------------------------------------------------
# noise of one's own


@pytest.mark.parametrize("name", ["central_dp", "central_dp_adaptive", "local_dp"])
def test_streams_have_noise_of_their_own(tiny, name):
    more = ("privacy.count_noise=9",) if name == "central_dp_adaptive" else ()
    rows = {}
    for stream in ("0", "1", "2"):
        simulation = prepare(tiny(f"privacy={name}", "aggregator=mean", *more, f"privacy.noise_stream={stream}"))
        state, (row,) = played(simulation)
        rows[stream] = (state.row, row.get("clip_norm"))
    for one, other in (("0", "1"), ("1", "2"), ("0", "2")):
        assert (rows[one][0] - rows[other][0]).norm() > 0.1
        assert rows[one][1] is None or rows[one][1] != rows[other][1]


# ---------------------------------------------------------------------------------------------------------------------
# the model that a run starts from

SPENT = (Spending(REPLACE, 2.0, 7, cohort=5, num_clients=5),)
NAMES = digest_of_names([f"client_{k}" for k in range(5)])


@pytest.mark.parametrize(
    ("origin", "warning"),
    [
        (Origin("old"), "init_from=old: says nothing of what training that model has spent, which epsilon leaves out"),
        (Origin("old", private=False), "init_from=old: that model was trained without differential privacy; epsilon"),
        (
            Origin("old", private=True, spent=SPENT, clients=digest_of_names(["client_0"])),
            "init_from=old: that model's clients are taken to be others; if they are not, what it spent on them",
        ),
        (
            Origin("old", alike=True, private=True, spent=(Spending(ADD_OR_REMOVE, 2.0, 7, probability=0.5),)),
            "init_from=old: that model was trained on the same clients under another relation of neighbours, so that",
        ),
    ],
)
def test_what_cannot_be_added_is_warned_of(tiny, origin, warning):
    simulation = prepare(tiny(*CENTRAL), origin=origin)
    (line,) = [line for line in introduction(simulation) if line.startswith("warning: ")]
    assert line.startswith(f"warning: {warning}")
    found = simulation.privacy.summary(initial_state(simulation))["privacy"]
    assert found["warnings"] == [line.removeprefix("warning: ")]
    assert read_origin(json.loads(json.dumps(found["origin"])), "here") == origin
    assert found["epsilon"] == simulation.privacy.budget.epsilon(0) == 0


@pytest.mark.parametrize("same", [{"alike": True}, {"clients": NAMES}], ids=["data", "names"])
def test_what_the_same_clients_have_spent_is_added(tiny, run, same):
    """Seven rounds with noise 2 and two with noise 1: Gaussian mechanisms with ``1 / z^2`` added up, replaced clients
    moving the sum by 2 S, so that all together are as one round with ``z = (7 / 4 + 2 / 1)^(-1/2)``."""
    origin = Origin("old", private=True, spent=SPENT, warnings=("init_from=older: of unknown origin",), **same)
    simulation = prepare(tiny(*CENTRAL), origin=origin)
    budget = simulation.privacy.budget
    assert budget.epsilon(0) == pytest.approx(epsilon_of([Spending(REPLACE, 2 / math.sqrt(7), 1)], 1e-5))
    assert budget.epsilon(2) == pytest.approx(epsilon_of([Spending(REPLACE, (7 / 4 + 2) ** -0.5, 1)], 1e-5), rel=1e-6)
    lines = introduction(simulation)
    assert (
        f"epsilon begins at {budget.epsilon(0):.4g}, spent on the same clients by the model of init_from=old" in lines
    )
    assert lines[-1] == "warning: init_from=older: of unknown origin"
    state, rows = played(simulation, 2)
    assert rows[-1]["epsilon"] == budget.epsilon(2)
    summary = simulation.privacy.summary(state)["privacy"]
    drawn = replace(budget.spent(2)[1], seed=0, noise_stream=0)
    assert [read_spending(one, "here") for one in summary["spent"]] == [
        replace(SPENT[0], seed=0, noise_stream=0),
        drawn,
    ]
    assert budget.spent(2)[:1] == SPENT
    assert summary["epsilon_before"] == budget.epsilon(0)


@pytest.mark.parametrize(
    ("before", "overrides", "text"),
    [
        (
            {"seed": 0, "noise_stream": 0},
            (),
            "privacy.noise_stream=0: with seed=0 that is the noise with which the model was trained on the same "
            r"clients, so that .*; take another seed or another privacy.noise_stream$",
        ),
        ({"seed": 0, "noise_stream": 0}, ("sampler.fraction=0.6",), r"that is the noise .*; take another seed$"),
        (
            {"seed": 0, "noise_stream": 1},
            ("sampler.fraction=0.6",),
            "seed=0: draws the cohorts with which the model was trained on the same clients, and the accountant "
            "composes rounds that are drawn independently; take another seed$",
        ),
        ({"seed": 0, "noise_stream": 1, "cohort": 3}, (), "seed=0: draws the cohorts"),
    ],
)
def test_noise_and_cohorts_are_not_drawn_twice(tiny, before, overrides, text):
    origin = Origin("old", alike=True, private=True, spent=(replace(SPENT[0], **before),))
    with pytest.raises(UserError, match=text):
        prepare(tiny(*CENTRAL, *overrides), origin=origin)
    prepare(tiny(*CENTRAL, *overrides, "seed=1"), origin=origin)
    prepare(tiny(*CENTRAL, *overrides), origin=replace(origin, alike=False))  # of other clients
    if not (overrides or "cohort" in before):
        prepare(tiny(*CENTRAL, "privacy.noise_stream=1"), origin=origin)


def test_a_target_is_for_all_together(tiny):
    origin = Origin("old", alike=True, private=True, spent=SPENT)
    spent = epsilon_of(SPENT, 1e-5)
    target = ("privacy.noise_multiplier=null", f"privacy.target_epsilon={spent + 3}")
    budget = prepare(tiny(*CENTRAL, *target), origin=origin).privacy.budget
    assert budget.epsilon(2) == pytest.approx(spent + 3, rel=1e-3)
    assert budget.epsilon(2) <= spent + 3
    with pytest.raises(UserError, match=r"privacy.target_epsilon=2.0: training the model of init_from has spent "):
        prepare(tiny(*CENTRAL, target[0], "privacy.target_epsilon=2.0"), origin=origin)


GOOD = Spending(REPLACE, 1.0, 3, cohort=2, num_clients=5).record()


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {**GOOD, "more": 1},
        *({**GOOD, "noise_multiplier": value} for value in (0, -1, "1", None, math.inf, True)),
        *({**GOOD, "rounds": value} for value in (-1, 1.5, 10**12)),
        *({**GOOD, "cohort": value} for value in (0, 6, "2")),
        {**GOOD, "probability": 2},
        {name: value for name, value in GOOD.items() if name != "cohort"},
        {**GOOD, "relation": 3},
        *({**GOOD, name: value} for name in ("seed", "noise_stream") for value in (-1, 2**63, "0", 1.0)),
    ],
)
def test_a_strangers_record_is_checked(wrong):
    with pytest.raises(UserError, match=r"^here: its record of the privacy that was spent cannot be read"):
        read_spending(wrong, "here")
    origin = {**Origin("old").record(), "spent": [wrong]}
    with pytest.raises(UserError, match=r"^here: its record"):
        read_origin(origin, "here")


@pytest.mark.parametrize(
    "change",
    [{"path": 1}, {"alike": 1}, {"private": "yes"}, {"warnings": [1]}, {"warnings": "no"}, {"spent": 0}, {"x": 1}],
)
def test_a_strangers_origin_is_checked(change):
    with pytest.raises(UserError, match=r"^here: its record of the model that the run started from cannot be read$"):
        read_origin({**Origin("old").record(), **change}, "here")
    assert read_origin(None, "here") is None
    assert read_spending(GOOD, "here") == Spending(REPLACE, 1.0, 3, cohort=2, num_clients=5)


def test_clients_csv_has_whole_numbers(tiny, tmp_path):
    from fedsim.recording.run_directory import write_csv
    from fedsim.runs.clients_table import clients_table

    simulation = prepare(tiny(*CENTRAL))
    state, _ = played(simulation, 2)
    write_csv(tmp_path / "clients.csv", *clients_table(simulation.population, simulation.examine(state)))
    with (tmp_path / "clients.csv").open() as file:
        assert [row["participations"] for row in csv.DictReader(file)] == ["2"] * 5
