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
    """One of the presets that is about more than the aggregator; what the command line says comes after it."""
    client = compose("aggregator=fedsgd", "client/optimizer=sgd", "client.optimizer.lr=0.1").client
    assert (client.epochs, client.steps, client.batch_size, client.optimizer.lr) == (None, 1, None, 0.1)
    assert compose("aggregator=fedsgd", "client.epochs=3").client.epochs == 3
    assert compose("aggregator=fedavg").client.epochs == 2


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
