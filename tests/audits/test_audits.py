"""Audits find what is there, defences keep it from them, and a run does not notice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.audits.audit import NoAudit
from fedsim.audits.inversion import Inversion
from fedsim.audits.membership import Membership
from fedsim.audits.tokens import trained_tokens
from fedsim.config import compose as config
from fedsim.data.dataset import Task
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import initial_state, prepare

pytestmark = pytest.mark.usefixtures("one_thread")
ONE_STEP = ("client.epochs=null", "client.steps=1", "client.batch_size=1")
SMALL = (
    *("data=synthetic", "partition=natural", "data.length=5", "data.features=3", "model.hidden_size=8"),
    *("device=cpu", "engine.kernels=torch", "aggregator=mean"),
)
CASES = {
    "membership": (Task.CLASSIFICATION, ()),
    "inversion": (Task.CLASSIFICATION, (*ONE_STEP, "audit.iterations=2", "audit.clients=2")),
    "tokens": (Task.SEQUENCE_LABELLING, ()),
}


def test_every_option_has_a_case():
    assert set(config.list_options()["audit"]) == {*CASES, "none"}


@pytest.mark.parametrize("option", CASES)
def test_it_only_observes(tiny, run, option):
    task, more = CASES[option]
    watched = tiny(f"audit={option}", *more, task=task)
    plain = replace(watched, audit=NoAudit())
    columns = [column.name for column in watched.audit.columns]
    rows, before = run(watched).metrics, run(plain).metrics
    assert [{k: v for k, v in row.items() if k not in columns} for row in rows] == before
    assert rows[1][columns[0]] is not None
    assert not set(columns) & set(before[0])


# Membership

FEW = ("data.clients=5", "data.samples_per_client=20", "data.test_samples_per_client=20", "audit=membership")


def test_a_model_that_learns_by_heart_tells(compose, run):
    """Labels are noise, so that whatever is learnt is learnt by heart.

    Before training the AUC of 100 members and 100 others is 1/2 with a standard deviation of sqrt(201 / 120000) = 0.041
    (Mann and Whitney 1947).
    """
    learns = ("data.noise=1000", "client.epochs=15", "rounds=8", "eval.every=8", "model.hidden_size=24")
    rows = run(compose(*SMALL, *FEW, *learns, "client.batch_size=4")).metrics
    assert abs(rows[0]["membership_auc"] - 0.5) < 4 * 0.041
    assert rows[0]["membership_tpr"] < 0.1
    assert rows[-1]["membership_auc"] > 0.5 + 5 * 0.041
    assert rows[-1]["membership_tpr"] > rows[0]["membership_tpr"]
    assert [row["membership_auc"] is None for row in rows] == [False, *[True] * 7, False]


def test_few_test_samples_leave_the_rate_empty(compose, run):
    row = run(compose(*SMALL, *FEW[:2], "data.test_samples_per_client=19", "audit=membership", "rounds=1")).metrics[-1]
    assert row["membership_tpr"] is None
    assert row["membership_auc"] is not None


def test_the_score_is_minus_the_loss(tiny):
    simulation = prepare(tiny(task=Task.REGRESSION))
    zero = torch.zeros(simulation.task.arch.layout.num_parameters).double()
    found = Membership().examine(simulation, initial_state(simulation, zero)).metrics
    members = (simulation.population.train.targets**2).mean(1)  # the model of zeros says zero
    others = (simulation.population.test.targets**2).mean(1)
    assert found == {"membership_auc": float((members[:, None] < others).double().mean())}


# Inversion


def inverted(run, compose, *more):
    return run(compose(*SMALL, *ONE_STEP, "audit=inversion", "rounds=1", *more)).metrics[-1]


@pytest.mark.parametrize("more", [("model=gru",), ("model=lstm",), ("model=rnn",), ("model=gru_reset_before",),
                                  ("data.task=regression",), ("client.optimizer.momentum=0.9", "client.clip_norm=0.01"),
                                  ("aggregator=fedprox",), ("model=cifg", "model.bidirectional=true"),
                                  ("model=lstm", "model.recurrent_projection=4"), ("model.pooling=attention",),
                                  ("model.pooling=mean", "model.head_projection=6", "model.gate_biases=1")],
                         ids=str)  # fmt: skip
def test_a_gradient_gives_its_sequence_away(run, compose, more):
    """There are many more numbers in the gradient than in the sequence, and in float64 they are nearly exact."""
    found = inverted(run, compose, "dtype=float64", *more)
    assert found["inversion_error"] < 1e-4
    assert found["inversion_correlation"] > 0.9999


def test_the_wrong_model_does_not_see_it(run, compose, monkeypatch):
    """The truth enters the search by the update alone: with another one the error is that of a guess, or worse."""
    inspect = Inversion.inspect
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=10000)).float()

    def blind(self, task, sent, clients, updates, number):
        return inspect(self, task, sent, clients, noise[: updates.numel()].view_as(updates), number)

    monkeypatch.setattr(Inversion, "inspect", blind)
    assert inverted(run, compose, "audit.prior=0.01")["inversion_error"] > 0.8


DEFENDED = ("privacy=local_dp", "privacy.noise_multiplier=0.1")


def test_what_protects_and_what_does_not(run, compose):
    """Central noise comes after the server has seen the update: the audit finds what it finds without."""
    open_row = inverted(run, compose)
    assert open_row["inversion_error"] < 0.01
    central = inverted(run, compose, "privacy=central_dp")
    assert {k: v for k, v in central.items() if k.startswith("inv")} == {
        k: v for k, v in open_row.items() if k.startswith("inv")
    }
    assert inverted(run, compose, *DEFENDED, "audit.prior=0.01")["inversion_error"] > 0.5
    for link in ("quantize", "topk", "sign"):
        assert inverted(run, compose, f"link/up={link}")["inversion_error"] > 10 * open_row["inversion_error"]


def test_the_prior_holds_back(run, compose):
    """So strong a prior leaves the average sequence, whose error is 1 by definition."""
    assert inverted(run, compose, "audit.prior=1e9")["inversion_error"] == pytest.approx(1, abs=1e-3)


def test_means_over_clients(run, compose):
    one, three = (inverted(run, compose, f"audit.clients={n}", "audit.iterations=3") for n in (1, 3))
    many = inverted(run, compose, "audit.clients=99", "audit.iterations=3")  # ten there are
    assert len({row["inversion_error"] for row in (one, three, many)}) == 3


def test_an_empty_update_is_an_empty_cell(run, compose):
    sim = run(compose(*SMALL, *ONE_STEP, "rounds=1"))
    clients, row = torch.arange(2), sim.state.row
    assert Inversion().inspect(sim.simulation.task, row, clients, torch.zeros(2, len(row)), 1) == {}


@pytest.mark.parametrize(("more", "reason"), [
    (("client.steps=2",), "gradient of one sequence; take client.epochs=null client.steps=1 client.batch_size=1"),
    (("client.batch_size=2",), "gradient of one sequence"),
    (("client/optimizer=adam",), "take client/optimizer=sgd, weight_decay=0"),
    (("client.optimizer.weight_decay=0.1",), "take client/optimizer=sgd, weight_decay=0"),
    (("client.optimizer.momentum=0.9", "client.keep_optimizer_state=true"), "keep_optimizer_state=false"),
    (("model.dropout=0.1", "model.num_layers=2"), "model.dropout=0"),
    (("aggregator.blocks=[recurrent]",), "aggregator.blocks=null"),
    (("aggregator=scaffold",), "aggregator/correction=scaffold mixes more into an update"),
    (("baseline=centralised",), "has no server that sees updates"),
    (("system=devices", "system.deadline=9", "system.late=partial"), "take system.late=drop"),
    (("privacy=secure_aggregation",), "under privacy=secure_aggregation the server sees a sum"),
    (("audit.round=2",), "audit.round=2: is after the last of rounds=1"),
])  # fmt: skip
def test_what_cannot_be_inverted(compose, more, reason):
    with pytest.raises(UserError, match=reason):
        prepare(compose(*SMALL, *ONE_STEP, "audit=inversion", "rounds=1", *more))


# Tokens


def test_the_embedding_tells_the_tokens(tiny, run):
    found = run(tiny("audit=tokens", "audit.clients=5", task=Task.SEQUENCE_LABELLING)).metrics
    assert [row["tokens_auc"] for row in found] == [None, 1, None]
    noisy = (*DEFENDED, "aggregator=mean")
    hidden = run(tiny("audit=tokens", "audit.clients=5", *noisy, task=Task.SEQUENCE_LABELLING)).metrics
    assert hidden[1]["tokens_auc"] < 0.95


def test_the_tokens_are_those_of_the_round(tiny):
    """All samples of a client in an epoch, or the one of a single step."""
    whole = prepare(tiny(task=Task.SEQUENCE_LABELLING))
    train = whole.population.train
    own = [train.inputs[s, : train.lengths[s]] for s in range(int(train.offsets[1]))]
    found = trained_tokens(whole.task, torch.tensor(0), 1)
    np.testing.assert_array_equal(found, torch.cat(own).unique())
    step = prepare(tiny(*ONE_STEP, task=Task.SEQUENCE_LABELLING))
    found = trained_tokens(step.task, torch.tensor(0), 1)
    assert any(np.array_equal(found, sample.unique()) for sample in own)


@pytest.mark.parametrize(("option", "task", "more", "reason"), [
    ("inversion", Task.SEQUENCE_LABELLING, ONE_STEP, "take audit=tokens"),
    ("tokens", Task.CLASSIFICATION, (), "take audit=inversion"),
    ("tokens", Task.SEQUENCE_LABELLING, ("aggregator.blocks=[head]",), "keeps the embedding from the server"),
    ("membership", Task.CLASSIFICATION, ("aggregator.blocks=[head]",), "audit=membership judges a whole global model"),
    ("membership", Task.CLASSIFICATION, ("baseline=local",), "baseline=local has no common model"),
])  # fmt: skip
def test_refusals(tiny, option, task, more, reason):
    with pytest.raises(UserError, match=reason):
        prepare(tiny(f"audit={option}", *more, task=task))


def test_bad_values():
    for changes in ({"round": 0}, {"clients": 0}, {"iterations": 0}, {"prior": -1}, {"prior": float("nan")}):
        with pytest.raises(FieldError):
            Inversion(**changes)


def test_a_base_is_no_option(tiny):
    with pytest.raises(UserError, match="audit: UpdateAudit is only the base of components, as it has no inspect"):
        tiny("audit._target_=fedsim.audits.audit.UpdateAudit")
