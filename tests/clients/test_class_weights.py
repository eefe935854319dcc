"""``client.class_weights``: classes that weigh in the local loss, and nowhere else."""

from dataclasses import replace

import pytest
import torch

from fedsim.clients.engine import SequentialEngine, StackedEngine
from fedsim.data.dataset import IGNORE, Task
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models.reference import ReferenceModel, load_row

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_STEP = ("client.steps=1", "client.epochs=null", "client.batch_size=null", "dtype=float64")
TASKS = [Task.CLASSIFICATION, Task.SEQUENCE_LABELLING]


def own(samples, client):
    place = slice(int(samples.offsets[client]), int(samples.offsets[client + 1]))
    return samples.inputs[place], samples.lengths[place], samples.targets[place].reshape(-1)


def listed(weights):
    return f"client.class_weights=[{','.join(map(str, weights))}]"


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("task", TASKS)
def test_a_step_follows_the_weighted_mean(tiny, task, engine):
    """By autograd: -lr times the gradient of sum(w_y loss) / sum(w_y) over all samples of a client."""
    many = prepare(tiny(task=task)).task.arch.num_outputs
    weights = [0.25 * (1 + k % 5) for k in range(many)]
    base = tiny(*ONE_STEP, listed(weights), task=task)
    sim = prepare(replace(base, engine=SequentialEngine()) if engine == "sequential" else base)
    row, clients = initial_state(sim).row, torch.tensor([0, 1, 2, 4])
    deltas, report = sim.trainer.train(row, clients, 1, initial_state(sim).store)
    for place, client in enumerate(clients.tolist()):
        inputs, lengths, targets = own(sim.population.train, client)
        module = ReferenceModel(sim.task.arch).double()
        load_row(module, sim.task.arch, row)
        scores = module(inputs, lengths).log_softmax(-1).reshape(-1, many)
        counted = targets != IGNORE
        weight = torch.tensor(weights, dtype=torch.float64)[targets[counted]]
        loss = -(weight * scores[counted, targets[counted]]).sum() / weight.sum()
        slopes = torch.autograd.grad(loss, module.parameters_in_order())
        expected = -sim.task.config.optimizer.lr * torch.cat([g.reshape(-1) for g in slopes])
        torch.testing.assert_close(deltas[place], expected, rtol=1e-9, atol=1e-12)
        assert float(report.train_loss[place]) == pytest.approx(loss.item(), rel=1e-10)


@pytest.mark.parametrize("task", TASKS)
def test_equal_weights_change_nothing(tiny, run, task):
    many = prepare(tiny(task=task)).task.arch.num_outputs
    plain, weighted = (run(tiny("dtype=float64", *more, task=task)) for more in ((), (listed([2.5] * many),)))
    torch.testing.assert_close(weighted.state.row, plain.state.row, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_balanced_is_as_in_scikit_learn(tiny, task):
    """``n / (K n_k)``: what the samples of a class weigh together is the same for all, n / K."""
    sim = prepare(tiny("client.class_weights=balanced", task=task))
    targets = sim.population.train.targets
    targets = targets[targets != IGNORE].tolist()
    there, found = {*targets}, sim.task.arch.class_weights
    assert len({targets.count(k) for k in there}) > 1
    for k, weight in enumerate(found):
        assert weight == (pytest.approx(len(targets) / (len(there) * targets.count(k))) if k in there else 1)


@pytest.mark.parametrize("engine", [SequentialEngine(), StackedEngine(kernels="torch")], ids=["sequential", "stacked"])
def test_evaluations_do_not_weigh(tiny, engine):
    scores = []
    for more in ((), (listed([1, 2, 3, 4]),)):
        sim = prepare(replace(tiny(*more), engine=engine))
        row, clients = initial_state(sim).row, torch.arange(5)
        scores.append(sim.trainer.score_clients(row.expand(5, -1), clients, sim.population.train).loss)
    assert torch.equal(*scores)


def test_balanced_is_told_as_outside_epsilon(tiny):
    """How often classes occur is counted over all clients; numbers that the user gives are not."""
    ways = ("client.class_weights=balanced", listed([1, 2, 3, 4]))
    told = [any("classes occur" in one.what for one in prepare(tiny(way)).population.pooled) for way in ways]
    assert told == [True, False]


@pytest.mark.parametrize(
    ("settings", "task", "message"),
    [
        ("client.class_weights=[1,2]", Task.CLASSIFICATION, r"=\[1,2\]: must have a number for each of the 4 classes"),
        ("client.class_weights=balanced", Task.REGRESSION, "=balanced: has no effect, because these data have numbers"),
        ("client.class_weights=[1,2]", Task.REGRESSION, r"=\[1,2\]: has no effect, because these data have numbers"),
        ("client.class_weights=balance", Task.CLASSIFICATION, "=balance: must be null, balanced, or a list"),
        ("client.class_weights=[1,0,1,1]", Task.CLASSIFICATION, "must be null, balanced, or a list of numbers"),
        ("client.class_weights=[1,nan,1,1]", Task.CLASSIFICATION, "must be null, balanced, or a list of numbers"),
        ("client.class_weights=[1,1e39,1,1]", Task.CLASSIFICATION, "must be null, balanced, or a list of numbers"),
        ("client.class_weights=[1e-50,1,1,1]", Task.CLASSIFICATION, "must be null, balanced, or a list of numbers"),
        (
            "client.class_weights=[]",
            Task.CLASSIFICATION,
            "must be null, balanced, or a list of numbers from 1e-09 to 1e",
        ),
    ],
)
def test_refused(tiny, settings, task, message):
    with pytest.raises(UserError, match=f"client.class_weights{message}" if message[0] == "=" else message):
        prepare(tiny(settings, task=task))


def test_refused_where_losses_weigh_clients(tiny):
    with pytest.raises(UserError, match=r"client\.class_weights: the losses by which aggregator\.combine weighs"):
        prepare(tiny("aggregator=qffedavg", "client.class_weights=balanced"))
