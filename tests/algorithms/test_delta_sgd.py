"""Delta-SGD against the pseudocode of its paper."""

import math

import pytest
import torch

from fedsim.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def local_rows(p, x, i, number, gamma, delta, lr):
    """Kim 2024, Algorithm 1, lines 4 to 11: the local model of a client, and its learning rates."""
    eta, theta, before, y, etas = lr, 1.0, None, x, []
    for batch in p.batches(i, number):
        g = p.gradient(y, batch)
        if before is not None:
            smooth = gamma * (y - before).norm() / (2 * (g - p.gradient(before, batch)).norm())
            new = min(float(smooth), math.sqrt(1 + delta * theta) * eta)
            theta, eta = new / eta, new
        before, y = y, y - eta * g
        etas.append(eta)
    return y, etas


@pytest.mark.parametrize(("gamma", "delta"), [(2.0, 0.1), (0.5, 1.0)])
def test_algorithm_1(tiny, run, paper, close, gamma, delta):
    knobs = (f"aggregator.correction.gamma={gamma}", f"aggregator.correction.delta={delta}")
    found = run(tiny("aggregator=delta_sgd", *knobs, *paper.settings, "client.lr_decay=0.9"))
    p = paper(found)
    x, rows, etas = p.row, [], []
    for number in range(1, p.rounds + 1):
        cohort = p.cohort(number)
        local = [local_rows(p, x, i, number, gamma, delta, p.lr * 0.9 ** (number - 1)) for i in cohort]
        x = p.weighted(cohort, [y for y, _ in local])
        rows.append(x)
        etas += [rates for _, rates in local]
    close(found.rows, rows)
    assert len({round(eta, 9) for rates in etas for eta in rates}) > 10  # they do differ


def test_one_local_step_is_fedavg(tiny, run):
    """The first step has the learning rate that was set."""
    once = ("client.epochs=null", "client.steps=1", "rounds=3")
    ours, theirs = run(tiny("aggregator=delta_sgd", *once)), run(tiny(*once))
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, theirs.rows, strict=True))


def test_a_rate_that_may_not_grow_and_need_not_fall_is_fedavg(tiny, run, paper):
    """With delta = 0 and a large gamma the minimum is always the last rate."""
    knobs = ("aggregator.correction.delta=0", "aggregator.correction.gamma=1e9")
    ours, theirs = run(tiny("aggregator=delta_sgd", *knobs, *paper.settings)), run(tiny(*paper.settings))
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


def test_what_is_refused(tiny):
    with pytest.raises(UserError, match="delta_sgd: needs plain steps, whose length it finds"):
        tiny("aggregator=delta_sgd", "client.clip_norm=1")
    with pytest.raises(UserError, match=r"client.lr_decay=0.5: under schedule=fedbuff"):
        tiny("aggregator=delta_sgd", "client.lr_decay=0.5", "schedule=fedbuff", "system=devices")
    for key, value in (("gamma", 0), ("delta", -1)):
        with pytest.raises(UserError, match=rf"correction\.{key}={value}"):
            tiny("aggregator=delta_sgd", f"aggregator.correction.{key}={value}")
