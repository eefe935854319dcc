"""Gradients beside those of the local steps: of all samples of a client, and of a step's minibatch elsewhere."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from fedsim.client_store import ClientStore
from fedsim.clients.engine import SequentialEngine, StackedEngine
from fedsim.core.part import Correction
from fedsim.data.batches import batch_indices, gather
from fedsim.data.dataset import IGNORE, Task
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models.reference import ReferenceModel, load_row

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, EVERYONE = torch.device("cpu"), torch.arange(5)
ENGINES = [StackedEngine(kernels="torch"), StackedEngine(kernels="numba"), SequentialEngine()]
NAMES = ["torch kernels", "numba kernels", "sequential"]
DROPOUT = ("model.num_layers=2", "model.dropout=0.4")


def bound(experiment, engine, **changes):
    """An engine bound to an experiment's task, of which some fields change, and a model for each client."""
    sim = prepare(experiment)
    row = initial_state(sim).row
    rows = row + 0.3 * torch.randn(5, len(row), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return engine.trainer(replace(sim.task, **changes), CPU, torch.float64), rows


def far(a, b):
    """The largest relative distance of rows."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


def own(samples, client):
    """The inputs, lengths and targets of a client."""
    place = slice(int(samples.offsets[client]), int(samples.offsets[client + 1]))
    return samples.inputs[place], samples.lengths[place], samples.targets[place]


def by_autograd(task, row, samples):
    """The gradient ``[P]`` of the mean loss of a model over samples, all in one batch, without dropout."""
    inputs, lengths, targets = samples
    module = ReferenceModel(task.arch).double()
    load_row(module, task.arch, row)
    outputs = module(inputs, lengths)
    if task.arch.task is Task.REGRESSION:
        loss = ((outputs - targets) ** 2).mean()
    else:
        counted = targets != IGNORE
        loss = -outputs.log_softmax(-1)[counted].gather(-1, targets[counted][:, None]).mean()
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, module.parameters_in_order())])


@pytest.mark.parametrize("blocks", [128, 3])
@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_the_gradient_of_the_mean_loss_over_all_samples(tiny, monkeypatch, engine, task, blocks):
    """Of clients of 1 to 13 samples, cut short at different steps, by autograd; also where samples come in blocks of 3.

    Dropout has no say in it, and neither has a correction.
    """
    monkeypatch.setattr("fedsim.clients.stacked.EVALUATION_BATCH", blocks)
    monkeypatch.setattr("fedsim.clients.sequential.EVALUATION_BATCH", blocks)
    trainer, rows = bound(tiny(*DROPOUT, "aggregator=fedprox", task=task), engine)
    sizes = trainer.task.population.train.sizes
    assert len(set(sizes.tolist())) > 2
    assert max(sizes) > 3
    expected = [by_autograd(trainer.task, rows[k], own(trainer.task.population.train, k)) for k in EVERYONE.tolist()]
    assert far(trainer.full_gradients(rows, EVERYONE), torch.stack(expected)) <= 1e-10
    some = torch.tensor([3, 0, 4])
    assert far(trainer.full_gradients(rows[some], some), torch.stack(expected)[some]) <= 1e-10
    shared = [by_autograd(trainer.task, rows[0], own(trainer.task.population.train, k)) for k in some.tolist()]
    assert far(trainer.full_gradients(rows[0], some), torch.stack(shared)) <= 1e-10


@pytest.mark.parametrize("blocks", [128, 3])
@pytest.mark.parametrize("task", list(Task))
def test_both_engines_find_the_same_full_gradients(tiny, monkeypatch, task, blocks):
    monkeypatch.setattr("fedsim.clients.stacked.EVALUATION_BATCH", blocks)
    monkeypatch.setattr("fedsim.clients.sequential.EVALUATION_BATCH", blocks)
    found = []
    for engine in ENGINES:
        trainer, rows = bound(tiny(*DROPOUT, task=task), engine)
        found.append(trainer.full_gradients(rows, EVERYONE))
    assert far(found[0], found[2]) <= 1e-10
    assert far(found[1], found[2]) <= 1e-10


@pytest.mark.parametrize("blocks", [128, 2])
@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_targets_that_are_ignored(tiny, monkeypatch, engine, blocks):
    """All targets of one client: it has no gradient. The first samples of another one: it has that of the others."""
    monkeypatch.setattr("fedsim.clients.stacked.EVALUATION_BATCH", blocks)
    monkeypatch.setattr("fedsim.clients.sequential.EVALUATION_BATCH", blocks)
    experiment = tiny(task=Task.SEQUENCE_LABELLING)
    population = prepare(experiment).population
    train, sizes = population.train, population.train.sizes
    silent = 2
    other = int((sizes >= 4).nonzero()[0])
    assert other != silent
    targets = train.targets.clone()
    targets[int(train.offsets[silent]) : int(train.offsets[silent + 1])] = IGNORE
    first = int(train.offsets[other])
    targets[first : first + 3] = IGNORE  # a whole block of two samples, and half of the next
    cut = replace(population, train=replace(train, targets=targets))
    trainer, rows = bound(experiment, engine, population=cut)
    found = trainer.full_gradients(rows, EVERYONE)
    assert torch.equal(found[silent], torch.zeros_like(found[silent]))
    for client in EVERYONE.tolist():
        if client != silent:
            samples = own(cut.train, client)
            samples = samples if client != other else tuple(part[3:] for part in samples)
            expected = by_autograd(trainer.task, rows[client], samples)
            assert far(found[client : client + 1], expected[None]) <= 1e-10


@dataclass(frozen=True)
class Watch(Correction):
    """A correction that changes nothing and notes what it can ask of a step."""

    seen: list = field(default_factory=list)

    def correct(self, gradient, step):
        elsewhere = step.rows + 0.1
        before = step.rows.clone(), gradient.clone()
        noted = step.at(step.rows), step.at(elsewhere), step.at(elsewhere[0])
        assert torch.equal(step.rows, before[0])  # asking moves nothing
        assert torch.equal(gradient, before[1])
        self.seen.append((step.number, step.total.clone(), *before, *noted))


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_where_a_step_is_its_gradient_is_the_gradient(tiny, engine, task):
    """With dropout on and uneven clients: the very numbers, in every step of every client; elsewhere it is another."""
    watch = Watch()
    trainer, rows = bound(tiny(*DROPOUT, task=task), engine, correction=watch)
    trainer.train(rows, EVERYONE, 3, ClientStore(5))
    steps = trainer.task.steps(EVERYONE)
    assert sum(len(gradient) for _, _, _, gradient, *_ in watch.seen) == int(steps.sum())
    for number, total, _, gradient, here, elsewhere, shared in watch.seen:
        assert (total > number).all()
        assert torch.equal(here, gradient)
        assert far(elsewhere, gradient) > 1e-3
        torch.testing.assert_close(shared[0], elsewhere[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("task", list(Task))
def test_both_engines_agree_on_gradients_elsewhere(tiny, task):
    """Sorted by client and step, as the engines take them in different orders: rows, gradients, and those elsewhere."""

    def watched(engine):
        watch = Watch()
        trainer, rows = bound(tiny(*DROPOUT, task=task), engine, correction=watch)
        kept = {}
        for client in EVERYONE.split(1):
            watch.seen.clear()
            trainer.train(rows[client], client, 2, ClientStore(5))
            kept |= {(int(client), number): torch.cat(rest[:4]) for number, _, *rest in watch.seen}
        return kept

    stacked, numba, sequential = (watched(engine) for engine in ENGINES)
    assert stacked.keys() == numba.keys() == sequential.keys()
    for step, expected in sequential.items():
        assert far(stacked[step], expected) <= 1e-10
        assert far(numba[step], expected) <= 1e-10


def test_gradients_elsewhere_are_of_the_same_minibatch_with_the_same_dropout(tiny):
    """By autograd with the task's own masks, at another row, in the second step of the client of 13 samples."""
    watch = Watch()
    trainer, rows = bound(tiny(*DROPOUT), ENGINES[0], correction=watch)
    client, number = torch.tensor([1]), 3
    trainer.train(rows[1], client, number, ClientStore(5))
    task, train = trainer.task, trainer.task.population.train
    plan = batch_indices(train, client, task.steps(client), task.config.batch_size, task.batch_key(number))
    for step, (index, _) in enumerate(plan):
        _, _, at, _, _, elsewhere, _ = watch.seen[step]
        module = ReferenceModel(task.arch).double()
        load_row(module, task.arch, at[0] + 0.1)
        batch = gather(train, index, None)
        outputs = module(batch.inputs[0], batch.lengths[0], task.dropout(number, client, step, at))
        loss = nn.functional.cross_entropy(outputs, batch.targets[0])
        expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, module.parameters_in_order())])
        assert far(elsewhere, expected[None]) <= 1e-10
