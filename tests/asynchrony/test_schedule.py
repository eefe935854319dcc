"""What asynchronous schedules make of deltas, and what they refuse."""

import pytest
import torch

from fedsim.asynchrony.schedule import FedAsync, FedBuff
from fedsim.asynchrony.staleness import Constant
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import prepare

DELTAS = torch.tensor([[2.0, 4.0], [6.0, 0.0]])
BEHIND = torch.tensor([[0.0, 0.0], [1.0, -1.0]])


def test_fedbuff_scales_the_deltas():
    """By 1 and 1/2; where they started from does not matter."""
    assert FedBuff().apply(DELTAS, torch.tensor([0, 3]), lambda: 1 / 0).tolist() == [[2, 4], [3, 0]]


def test_fedasync_mixes_models():
    """0.5 * (local - row): the second started at row + (1, -1) and came to row + (7, -1)."""
    mixed = FedAsync(alpha=0.5, staleness=Constant()).apply(DELTAS, torch.tensor([0, 3]), lambda: BEHIND)
    assert mixed.tolist() == [[1, 2], [3.5, -0.5]]


def test_the_buffer():
    """Half of those at work unless it is said; one for FedAsync."""
    assert [FedBuff().buffer(n) for n in (1, 2, 5, 10)] == [1, 1, 2, 5]
    assert FedBuff(buffer_size=7).buffer(3) == 7
    assert FedAsync().buffer(9) == 1


def test_bounds():
    for make in (lambda: FedBuff(buffer_size=0), lambda: FedAsync(alpha=0.0), lambda: FedAsync(alpha=1.1)):
        with pytest.raises(FieldError):
            make()


BUFF, ASYNC = "schedule=fedbuff", "schedule=fedasync"
TIMED = "system=devices"
REFUSED = {
    "no clock": ((BUFF,), "needs a virtual clock .*; take system=devices or system=profiles"),
    "no clock for fedasync": ((ASYNC,), "schedule=fedasync: needs a virtual clock"),
    "baseline": (
        (BUFF, "baseline=centralised"),
        "schedule=fedbuff: baseline=centralised is no federation; take schedule=synchronous",
    ),
    "baseline of devices": ((BUFF, TIMED, "baseline=centralised"), "in which system=devices would act"),
    "deadline": ((BUFF, TIMED, "system.deadline=9"), "system.deadline=9 is about a round .* take system.deadline=null"),
    "partial work": ((BUFF, TIMED, "system.deadline=9", "system.late=partial"), "system.deadline=9 is about a round"),
    "over-selection": ((ASYNC, TIMED, "system.over_selection=1.3"), "system.over_selection=1.3 is about a round"),
    "fewest clients": (
        (BUFF, TIMED, "system.min_clients=2", "system.dropout=0.1"),
        "system.min_clients=2 is about a round",
    ),
    "hardly anybody": ((BUFF, TIMED, "system.dropout=0.999"), "hardly any client ever fills the buffer"),
    "scaffold": ((BUFF, TIMED, "aggregator=scaffold"), "aggregator/correction=scaffold keeps memories"),
    "feddyn": ((BUFF, TIMED, "aggregator=feddyn"), "aggregator/correction=feddyn keeps memories"),
    "private blocks": ((BUFF, TIMED, "aggregator.blocks=[recurrent]"), r"aggregator.blocks=\['recurrent'\] has"),
    "masks": ((BUFF, TIMED, "privacy=secure_aggregation"), "it is not known who will be in a buffer together"),
    "audit": (
        (BUFF, TIMED, "audit=inversion", "client.epochs=null", "client.steps=1", "client.batch_size=1"),
        "take audit=membership or none",
    ),
    "accountant": ((BUFF, TIMED, "aggregator=mean", "privacy=central_dp"), "the accountant of privacy=central_dp"),
    "shared copy": ((BUFF, TIMED, "link/down=quantize"), "link/down=quantize keeps one copy of the model"),
    "poisson": ((BUFF, TIMED, "sampler=poisson"), "sampler=poisson does not say how many"),
    "losses": (
        (BUFF, TIMED, "sampler=power_of_choice", "sampler.cohort_size=2"),
        "sampler=power_of_choice asks clients for losses",
    ),
    "turns": ((BUFF, TIMED, "sampler=round_robin", "sampler.cohort_size=2"), "sampler=round_robin has clients take"),
    "on and off": ((BUFF, TIMED, "sampler=availability"), "sampler=availability has clients go on and off by rounds"),
    "too large": ((BUFF, TIMED, "schedule.buffer_size=6"), "schedule.buffer_size=6: there are only 5 clients"),
    "too small for the rule": ((BUFF, TIMED, "aggregator=krum", "schedule.buffer_size=2"), "krum"),
    "one at a time": ((ASYNC, TIMED, "aggregator=median"), "aggregator/combine=median has nothing to combine"),
    "by loss": (
        (ASYNC, TIMED, "aggregator.combine.by=loss", "client.validation_fraction=0.5"),
        "aggregator/combine=weighted has nothing to combine",
    ),
    "a rule of its own": ((ASYNC, TIMED, "aggregator=fedadam"), "aggregator/server_optimizer=adam adds deltas"),
    "two steps": ((ASYNC, TIMED, "aggregator.server_optimizer.lr=0.5"), "the step of schedule=fedasync is schedule.al"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tiny, name):
    overrides, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        prepare(tiny(*overrides))


def test_a_base_is_no_option(tiny):
    with pytest.raises(UserError, match="Asynchronous is only the base of components"):
        prepare(tiny("schedule._target_=fedsim.asynchrony.schedule.Asynchronous", TIMED))


def test_too_little_memory_leaves_too_few(tiny, tmp_path):
    """Clients 1 and 4 train on batches of 4, and have no memory for them."""
    rows = [f"1,1,1,{0.001 if k in (1, 4) else 100}" for k in range(5)]
    (tmp_path / "d.csv").write_text("\n".join(["gflops,down_mbps,up_mbps,memory_mb", *rows, ""]))
    profiles = ("system=profiles", f"system.path={tmp_path / 'd.csv'}", BUFF)
    with pytest.raises(UserError, match=r"buffer_size=4: there are only 3 clients \(system: 2 of 5"):
        prepare(tiny(*profiles, "schedule.buffer_size=4"))
    assert prepare(tiny(*profiles, "schedule.buffer_size=3")).system.clock.fitting.tolist() == [0, 2, 3]
