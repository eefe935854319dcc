"""Federated algorithms that are others in disguise, run from beginning to end."""

from dataclasses import replace

import pytest
import torch

from fedsim.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def close(ours, theirs):
    torch.testing.assert_close(ours.state.row, theirs.state.row, rtol=1e-12, atol=1e-13)


def test_fedsgd_is_gradient_descent_on_all_samples(tiny, uneven, run):
    """Whoever holds the samples: five clients with 2 to 13 of them, or one with all 30."""
    several = tiny("aggregator=fedsgd", "client.batch_size=null", "rounds=3")
    assert several.client.steps == 1
    close(run(several), run(replace(several, partition=uneven((30,), (10,)))))


def test_fedsgd_chooses_how_clients_train(compose):
    """One of the presets that is about more than the aggregator."""
    client = compose("aggregator=fedsgd", "client/optimizer=sgd", "client.optimizer.lr=0.1").client
    assert (client.epochs, client.steps, client.batch_size, client.optimizer.lr) == (None, 1, None, 0.1)
    assert compose("aggregator=fedsgd", "client.epochs=1").client.epochs == 1  # a pass of one step
    assert compose("aggregator=fedavg").client.epochs == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("client.epochs=3",), "client.epochs=3 client.batch_size=null: aggregator=fedsgd is one step per round on"),
        (("client.steps=2",), "client.steps=2 client.batch_size=null: aggregator=fedsgd is one step"),
        (
            ("client.batch_size=10",),
            r"client.batch_size=10: client=full_batch .* set client.epochs=null client.steps=1",
        ),
        (("client=default",), "client.epochs=2 client.batch_size=8: aggregator=fedsgd is one step"),
        (("client/optimizer=adam",), "client/optimizer=adam: in aggregator=fedsgd clients send a gradient"),
        (("client.optimizer.momentum=0.9",), "client.optimizer.momentum=0.9: in aggregator=fedsgd"),
        (
            ("experiment=gru_regression", "client/optimizer=sgd"),
            "client.epochs=5: client=full_batch .* by an experiment",
        ),
        (
            ("experiment=gru_regression", "client/optimizer=sgd", "client.epochs=null"),
            "client.batch_size=16: client=full",
        ),
    ],
)
def test_fedsgd_is_nothing_else(compose, overrides, message):
    """Whatever an experiment or the command line changes about its clients, it is said and not run."""
    with pytest.raises(UserError, match=message):
        compose("aggregator=fedsgd", *overrides)


def test_fedsgd_of_an_experiment(compose):
    way_out = ("client.epochs=null", "client.steps=1", "client.batch_size=null", "client/optimizer=sgd")
    client = compose("experiment=gru_regression", "aggregator=fedsgd", *way_out).client
    assert (client.epochs, client.steps, client.batch_size) == (None, 1, None)


def test_a_full_batch_is_one(compose):
    assert compose("client=full_batch", "client.steps=5").client.steps == 5
    with pytest.raises(UserError, match=r"client.batch_size=4: client=full_batch"):
        compose("client=full_batch", "client.batch_size=4")


def test_a_state_that_the_optimizer_does_not_have_is_not_kept(compose, tiny):
    keep = "client.keep_optimizer_state=true"
    with pytest.raises(UserError, match=r"client.keep_optimizer_state=true: has an effect only with an optimizer that"):
        compose(keep)
    assert compose(keep, "client.optimizer.momentum=0.1").client.keep_optimizer_state
    assert compose(keep, "client/optimizer=adam").client.keep_optimizer_state
    for baseline in ("local", "centralised"):  # which keep it if there is any
        assert not tiny(f"baseline={baseline}").effective()[2].keep_optimizer_state
        assert tiny(f"baseline={baseline}", "client/optimizer=adam").effective()[2].keep_optimizer_state


def test_trimming_nobody_is_the_mean(tiny, run):
    close(run(tiny("aggregator=trimmed_mean", "aggregator.combine.beta=0")), run(tiny("aggregator=mean")))


def test_fednova_with_equal_steps_is_fedavg(tiny, uneven, run):
    """Clients of one size take equally many steps, here with momentum: every coefficient norm is the same."""
    momentum = ("client.optimizer.momentum=0.9", "client.optimizer.lr=0.05", "rounds=3")
    ours, theirs = (
        replace(tiny(f"aggregator={name}", *momentum), partition=uneven((6,) * 5, (2,) * 5))
        for name in ("fednova", "fedavg")
    )
    close(run(ours), run(theirs))


def test_qffl_without_q_is_the_mean(tiny, run):
    close(run(tiny("aggregator=qffedavg", "aggregator.combine.q=0")), run(tiny("aggregator=mean")))


def test_a_bound_above_all_norms_is_fedavg(tiny, run):
    ours = run(tiny("aggregator=norm_clipping", "aggregator.combine.max_norm=1e6"))
    theirs = run(tiny("aggregator=fedavg"))
    assert torch.equal(ours.state.row, theirs.state.row)
    assert ours.metrics == theirs.metrics


def test_the_server_learning_rate_falls(tiny, run):
    """In round 3 the row moves by 0.5 * 0.1^2 of the combined delta."""
    schedule = ("aggregator/server_optimizer/schedule=exponential", "aggregator.server_optimizer.schedule.decay=0.1")
    result = run(tiny(*schedule, "aggregator.server_optimizer.lr=0.5", "rounds=3"))
    for number, lr in ((2, 0.05), (3, 0.005)):
        moved = (result.rows[number - 1] - result.rows[number - 2]).norm().item()
        assert moved == pytest.approx(lr * result.metrics[number]["delta_norm"], rel=1e-9)


def test_a_schedule_without_effect_is_refused(tiny):
    for option in ("step", "cosine", "inverse_sqrt"):
        with pytest.raises(UserError, match=r"schedule: \w+ changes nothing in rounds=1; take aggregator"):
            tiny(f"aggregator/server_optimizer/schedule={option}", "rounds=1")
    with pytest.raises(UserError, match="schedule: Step changes nothing in rounds=10"):
        tiny("aggregator/server_optimizer/schedule=step", "rounds=10")
    assert tiny("aggregator/server_optimizer/schedule=step", "rounds=11").rounds == 11
