"""Columns of the report that only some rules ask for."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fedsim.clients.engine import SequentialEngine
from fedsim.clients.measures import add_measures, coefficient_norms
from fedsim.clients.optimizers import SGD
from fedsim.clients.settings import ClientConfig
from fedsim.clients.task import LocalTask
from fedsim.corrections.none import NoCorrection
from fedsim.corrections.proximal import Prox
from fedsim.data.dataset import IGNORE, Task
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models.blocks import Blocks

STEPS = torch.tensor([1, 4, 7, 7, 2])
TAU = STEPS.numpy()

pytestmark = pytest.mark.usefixtures("one_thread")


def norms(optimizer, correction=None, round_number=1, **client):
    """Coefficient norms of clients that take `STEPS`."""
    config = ClientConfig(optimizer=optimizer, **client)
    task = LocalTask(None, None, config, correction or NoCorrection(), Blocks(1), 0)
    return coefficient_norms(task, STEPS, round_number).numpy()


def test_plain_sgd_counts_steps():
    np.testing.assert_array_equal(norms(SGD(lr=0.3, weight_decay=0.1)), TAU)


def test_momentum_in_closed_form():
    """Wang 2020, section 4: a = [1 - rho^tau, ..., 1 - rho] / (1 - rho)."""
    rho = 0.8
    expected = (TAU - rho * (1 - rho**TAU) / (1 - rho)) / (1 - rho)
    np.testing.assert_allclose(norms(SGD(momentum=rho)), expected, rtol=1e-12)


def test_proximal_term_in_closed_form():
    """Wang 2020, section 4: a = [(1 - alpha)^(tau - 1), ..., 1] with alpha = lr * mu, here in round 3 of a decay."""
    alpha = 0.3 * 0.5**2 * 0.7
    found = norms(SGD(lr=0.3), Prox(mu=0.7), 3, lr_decay=0.5)
    np.testing.assert_allclose(found, (1 - (1 - alpha) ** TAU) / alpha, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.7, 30.0])
def test_all_together_by_torch(nesterov, mu):
    """One coefficient after another: the minibatch gradients are one unit vector each, so that the delta of
    `torch.optim.SGD` is -lr times the coefficients. A strong pull makes some of them negative."""
    expected = []
    for tau in TAU:
        x = torch.nn.Parameter(torch.zeros(int(tau), dtype=torch.float64))
        sgd = torch.optim.SGD([x], lr=0.1, momentum=0.6, nesterov=nesterov)
        for step in range(int(tau)):
            x.grad = torch.eye(int(tau), dtype=torch.float64)[step] + mu * x.detach()
            sgd.step()
        expected.append(float((x.detach() / -0.1).abs().sum()))
    found = norms(SGD(lr=0.1, momentum=0.6, nesterov=nesterov), Prox(mu=mu))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_start_loss_is_the_full_batch_loss_before_training(tiny, engine, task):
    """With one step on all samples, the training loss is the loss of the model that the client started from."""
    experiment = tiny("client.steps=1", "client.batch_size=null", "client.lr_decay=0.5", task=task)
    if engine == "sequential":
        experiment = replace(experiment, engine=SequentialEngine())
    sim = prepare(experiment)
    state = initial_state(sim)
    clients = torch.tensor([0, 2, 3])
    _, report = sim.trainer.train(state.row, clients, 3, state.store)
    assert report.start_loss is report.lr is report.coefficient_norm is None
    more = ("start_loss", "lr")
    report = add_measures(report, more, sim.task, sim.trainer, state.row, clients, 3)
    assert report.coefficient_norm is None
    assert report.lr.tolist() == [0.3 * 0.5**2] * 3
    assert report.start_loss.dtype == torch.float64
    np.testing.assert_allclose(report.start_loss, report.train_loss, rtol=1e-12)


def positions(tiny, engine, *overrides):
    """Two simulations on the play's characters, whose windows are padded: losses over targets, and over positions."""
    for over in ("targets", "positions"):
        base = tiny(f"client.loss_over={over}", "client.batch_size=null", *overrides, task=Task.SEQUENCE_LABELLING)
        yield prepare(replace(base, engine=SequentialEngine()) if engine == "sequential" else base)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_losses_over_positions_count_padding(tiny, engine):
    """A step of SGD on all samples: loss and delta are those over targets, times targets / (samples x 6 steps).

    So are the loss before training, by which q-FFL weighs, and the full gradients.
    """
    targets, over = positions(tiny, engine, "client.steps=1", "client.epochs=null")
    train, clients = targets.population.train, torch.arange(5)
    parts = pairwise(train.offsets.tolist())
    share = [float((train.targets[a:b] != IGNORE).sum()) / ((b - a) * 6) for a, b in parts]
    share = torch.tensor(share, dtype=torch.float64)
    assert (share < 1).sum() > 2
    row = initial_state(targets).row
    found = [sim.trainer.train(row, clients, 1, initial_state(sim).store) for sim in (targets, over)]
    torch.testing.assert_close(found[1][0], found[0][0] * share[:, None], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found[1][1].train_loss, found[0][1].train_loss * share, rtol=1e-10, atol=0)
    before = add_measures(found[1][1], ("start_loss",), over.task, over.trainer, row, clients, 1).start_loss
    torch.testing.assert_close(before, found[1][1].train_loss, rtol=1e-10, atol=0)
    gradients = [sim.trainer.full_gradients(row, clients) for sim in (targets, over)]
    torch.testing.assert_close(gradients[1], gradients[0] * share[:, None], rtol=1e-10, atol=1e-13)


def test_losses_over_positions_need_a_target_at_every_step(tiny):
    with pytest.raises(
        UserError, match=r"client\.loss_over=positions: has an effect only on data with a target at every"
    ):
        prepare(tiny("client.loss_over=positions"))


def test_tokens_are_the_targets_that_count(tiny, run):
    """Weights by tokens, with NumPy, from the targets of each client's windows; other tasks have no such weights."""
    result = run(tiny("aggregator.combine.by=tokens", "rounds=1", task=Task.SEQUENCE_LABELLING), chunk_size=2)
    train = result.simulation.population.train
    sizes, targets = train.sizes.numpy(), train.targets.numpy()
    owner = np.repeat(np.arange(5), sizes)
    tokens = np.bincount(owner, (targets != IGNORE).sum(1))
    assert (tokens < 6 * sizes).any()
    step = tokens @ torch.cat(result.deltas).numpy() / tokens.sum()
    before = initial_state(result.simulation).row.numpy()
    np.testing.assert_allclose(result.rows[0].numpy() - before, step, rtol=1e-10, atol=1e-13)
    with pytest.raises(UserError, match=r"aggregator\.combine\.by=tokens: these data have one target per sample"):
        prepare(tiny("aggregator.combine.by=tokens"))


def test_fednova_with_equal_steps_is_fedavg(tiny, run):
    overrides = ("client.steps=3", "client.optimizer.momentum=0.5")
    ours, fedavg = (run(tiny(f"aggregator={name}", *overrides)) for name in ("fednova", "fedavg"))
    torch.testing.assert_close(ours.state.row, fedavg.state.row, rtol=1e-12, atol=1e-12)


def test_fednova_in_numpy(tiny, run):
    """Clients of 2, 13, 5, 1 and 9 samples in batches of 4 take 2, 8, 4, 2 and 6 steps in two epochs."""
    result = run(tiny("aggregator=fednova", "rounds=1"))
    deltas, p = result.deltas[0].numpy(), np.array([2, 13, 5, 1, 9]) / 30
    tau = np.array([2, 8, 4, 2, 6])
    step = (p @ tau) * (p / tau) @ deltas
    before = initial_state(result.simulation).row.numpy()
    np.testing.assert_allclose(result.rows[0].numpy() - before, step, rtol=1e-10, atol=1e-13)


def test_qffl_in_numpy(tiny, run):
    """Losses before training are those of the clients' full batches, by `score_clients` of the row of round 0."""
    result = run(tiny("aggregator=qffedavg", "aggregator.combine.q=2", "rounds=1"), chunk_size=2)
    deltas, row = torch.cat(result.deltas).numpy(), initial_state(result.simulation).row
    sums = result.simulation.trainer.score_clients(
        row.expand(5, -1), torch.arange(5), result.simulation.population.train
    )
    loss, lipschitz = (sums.loss / sums.count).numpy(), 1 / 0.3
    above = (loss**2 * lipschitz) @ deltas
    below = (2 * loss * (lipschitz * deltas**2 * lipschitz).sum(1) + lipschitz * loss**2).sum()
    np.testing.assert_allclose(result.rows[0].numpy() - row.numpy(), above / below, rtol=1e-10, atol=1e-13)
