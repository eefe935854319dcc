"""Local training: against a plain PyTorch loop, and what must not depend on who trains beside whom."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fedsim import seeding
from fedsim.client_store import ClientStore
from fedsim.clients import stacked as trainers
from fedsim.clients.engine import SequentialEngine, StackedEngine
from fedsim.data.batches import batch_indices
from fedsim.data.dataset import Forecast, Task
from fedsim.data.source import load_dataset
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models import numba_kernels

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = [StackedEngine(kernels="torch"), SequentialEngine()]
ADAM = ("client/optimizer=adam", "client.optimizer.lr=0.02")
MOMENTUM = ("client.optimizer.momentum=0.9", "client.optimizer.lr=0.1")


def local_steps(samples):
    """Two epochs in batches of 4."""
    return 2 * -(-samples // 4)


def start(experiment, **changes):
    sim = prepare(replace(experiment, **changes))
    state = initial_state(sim)
    return sim, state.row, state.store


def far(a, b):
    """The largest relative distance of rows."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


class Plain(nn.Module):
    def __init__(self, features, hidden, classes):
        super().__init__()
        self.recurrent = nn.GRU(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.recurrent(packed)[1][-1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("overrides", "make"),
    [
        ((), lambda p: torch.optim.SGD(p, lr=0.3)),
        (MOMENTUM, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        (ADAM, lambda p: torch.optim.Adam(p, lr=0.02)),
        (("client/optimizer=adamw",), lambda p: torch.optim.AdamW(p, lr=0.001, weight_decay=0.01)),
    ],
)
def test_one_client_is_a_plain_torch_loop(tiny, engine, overrides, make):
    sim, row, store = start(tiny(*overrides), engine=engine)
    layout, train = sim.task.arch.layout, sim.population.train
    for client in range(5):
        number = client + 1  # of the round, which has its own batch order
        deltas, report = sim.trainer.train(row, torch.tensor([client]), number, store)

        module = Plain(3, 5, 4).double()
        module.load_state_dict(layout.views(row))
        optimizer = make(module.parameters())
        own = slice(int(train.offsets[client]), int(train.offsets[client + 1]))
        x, lengths, y = train.inputs[own], train.lengths[own], train.targets[own]
        losses = []
        for epoch in range(2):
            key = seeding.stream_key(0, "batches", number)
            order = seeding.permutations(key, *(torch.tensor([n]) for n in (client, len(x), epoch)))[0]
            for batch in order.split(4):
                loss = nn.functional.cross_entropy(module(x[batch], lengths[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses += [loss.item()] * len(batch)

        expected = layout.flatten(module.state_dict()) - row
        assert far(deltas, expected[None]) <= 1e-10
        assert report.local_steps.item() == local_steps(len(x))
        assert report.num_samples.item() == len(x)
        assert report.train_loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


@pytest.mark.parametrize("overrides", [(), MOMENTUM, ADAM, ("client/optimizer=adamw",)])
def test_a_finished_client_does_not_move(tiny, overrides):
    """Clients take 2 to 8 steps: rows and optimizer states of the whole cohort are those of training alone."""
    sim, row, _ = start(tiny(*overrides, *(["client.keep_optimizer_state=true"] if overrides else [])))
    everyone, together = torch.arange(5), ClientStore(5)
    deltas, report = sim.trainer.train(row, everyone, 1, together)
    assert report.local_steps.tolist() == [local_steps(n) for n in (2, 13, 5, 1, 9)]
    kept = together.state_dict()
    for client in everyone.split(1):
        alone = ClientStore(5)
        delta, _ = sim.trainer.train(row, client, 1, alone)
        assert far(deltas[client], delta) <= 1e-12
        blocks = {name.split("/")[0] for name in alone.state_dict()}
        assert blocks == {name.split("/")[0] for name in kept}
        for block in blocks:
            nothing = torch.zeros_like(alone.state_dict()[f"{block}/rows"])
            ours, theirs = (store.read(block, client, nothing) for store in (together, alone))
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    if "optimizer.steps/rows" in kept:
        counts = together.read("optimizer.steps", everyone, torch.zeros(5, 1, dtype=torch.float64))
        assert counts[:, 0].tolist() == report.local_steps.tolist()


def test_steps_of_their_own(tiny):
    """Clients stop where they are told, in the middle of a pass or after it, and are those of `client.steps`."""
    sim, row, _ = start(tiny(*ADAM))
    limits = torch.tensor([1, 3, 2, 2, 5])
    for trainer in (sim.trainer, SequentialEngine().trainer(sim.task, torch.device("cpu"), torch.float64)):
        deltas, report = trainer.train(row, torch.arange(5), 1, ClientStore(5), None, None, limits)
        assert report.local_steps.tolist() == limits.tolist()
        for client, steps in enumerate(limits.tolist()):
            config = replace(sim.task.config, epochs=None, steps=steps)
            short = replace(sim.trainer, task=replace(sim.task, config=config))
            alone, told = short.train(row, torch.tensor([client]), 1, ClientStore(5))
            assert far(deltas[client : client + 1], alone) <= 1e-12
            assert report.train_loss[client] == pytest.approx(float(told.train_loss), rel=1e-12)


def test_samples_of_steps_and_back(tiny):
    """13 samples in batches of 4 are 4, 8, 12, 13 after the first pass, and 17 after the next step."""
    task = prepare(tiny()).task
    one = torch.ones(6, dtype=torch.int64)
    steps = torch.arange(6)
    assert task.samples(one, steps).tolist() == [0, 4, 8, 12, 13, 17]
    assert task.steps_within(one, torch.tensor([3, 4, 11, 12, 13, 16])).tolist() == [0, 1, 2, 3, 4, 4]
    for client in range(5):
        many = torch.arange(20)
        clients = torch.full_like(many, client)
        used = task.samples(clients, many)
        assert torch.equal(task.steps_within(clients, used), many)
        assert torch.equal(task.steps_within(clients[1:], used[1:] - 1), many[:-1])
        batches = [len(index[0]) for index, _ in batch_indices(task.population.train, clients[:1], many[-1:], 4, 0)]
        assert used.tolist() == [sum(batches[:count]) for count in range(20)]


def test_clients_may_come_in_any_order(tiny):
    sim, row, _ = start(
        tiny(
            *ADAM, "model.num_layers=2", "model.dropout=0.3", "client.clip_norm=0.5", "client.keep_optimizer_state=true"
        )
    )
    store = ClientStore(5)
    first, report = sim.trainer.train(row, torch.arange(5), 1, store)
    second, _ = sim.trainer.train(row, torch.arange(5), 2, store)

    @settings(max_examples=8)
    @given(order=st.permutations(range(5)))
    def check(order):
        order, store = torch.tensor(order), ClientStore(5)
        deltas, other = sim.trainer.train(row, order, 1, store)
        assert far(deltas, first[order]) <= 1e-12
        assert other.local_steps.tolist() == report.local_steps[order].tolist()
        assert other.train_loss.tolist() == pytest.approx(report.train_loss[order].tolist(), rel=1e-13)
        assert far(sim.trainer.train(row, order.flip(0), 2, store)[0], second[order.flip(0)]) <= 1e-11

    check()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_client_has_its_own_anchor(tiny, engine):
    """Anchors ``[C, P]``: each delta is the one from that anchor alone, also under FedProx."""
    sim, row, store = start(tiny("aggregator=fedprox", "aggregator.correction.mu=1"), engine=engine)
    anchors = row + 0.1 * torch.randn(3, len(row), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clients = torch.tensor([3, 1, 0])
    deltas, _ = sim.trainer.train(anchors, clients, 1, store)
    for place, client in enumerate(clients.split(1)):
        alone, _ = sim.trainer.train(anchors[place], client, 1, store)
        assert far(deltas[place : place + 1], alone) <= 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_training_leaves_the_anchor_alone(tiny, engine):
    sim, row, store = start(tiny(*ADAM), engine=engine)
    before = row.clone()
    sim.trainer.train(row, torch.arange(5), 1, store)
    assert torch.equal(row, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_kept_unless_asked_for(tiny, engine):
    sim, row, store = start(tiny(*ADAM), engine=engine)
    first = sim.trainer.train(row, torch.arange(5), 1, store)[0]
    assert store.state_dict() == {}
    assert torch.equal(sim.trainer.train(row, torch.arange(5), 1, store)[0], first)


@pytest.mark.parametrize("engine", ENGINES)
def test_kept_state_goes_on(tiny, engine):
    """One sample, one step a round: n rounds of kept Adam are n steps of one Adam along the same gradients."""
    sim, row, store = start(tiny(*ADAM, "client.keep_optimizer_state=true", "client.epochs=1"), engine=engine)
    client = torch.tensor([3])  # it has a single sample, so that the batch order says nothing
    parameter = nn.Parameter(row.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.02)
    train = sim.population.train
    own = slice(int(train.offsets[3]), int(train.offsets[4]))
    module = Plain(3, 5, 4).double()
    for number in range(1, 5):
        module.load_state_dict(sim.task.arch.layout.views(parameter.detach()))
        loss = nn.functional.cross_entropy(module(train.inputs[own], train.lengths[own]), train.targets[own])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        names = [name for name, _ in module.named_parameters()]
        before = parameter.detach().clone()
        parameter.grad = sim.task.arch.layout.flatten(dict(zip(names, gradients, strict=True)))
        optimizer.step()
        delta, _ = sim.trainer.train(before, client, number, store)
        assert far(delta, (parameter.detach() - before)[None]) <= 1e-10


@pytest.mark.parametrize("engine", ENGINES)
def test_the_learning_rate_decays_by_round(tiny, engine):
    """One step of SGD is proportional to it: whole in round 1, a quarter in round 3 (one sample has one order)."""
    sim, row, store = start(tiny("client.lr_decay=0.5", "client.steps=1"), engine=engine)
    client = torch.tensor([3])
    first, third = (sim.trainer.train(row, client, number, store)[0] for number in (1, 3))
    torch.testing.assert_close(third, first / 4, rtol=1e-10, atol=1e-15)
    constant, _, _ = start(tiny("client.steps=1"), engine=engine)
    assert torch.equal(constant.trainer.train(row, client, 3, store)[0], first)


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_bounds_a_step(tiny, engine):
    """One step of SGD at lr 0.3: a delta of norm 0.3 * clip_norm, in the direction of the free one."""
    free_sim, row, store = start(tiny("client.steps=1"), engine=engine)
    free = free_sim.trainer.train(row, torch.arange(5), 1, store)[0]
    sim, _, _ = start(tiny("client.steps=1", "client.clip_norm=0.01"), engine=engine)
    clipped = sim.trainer.train(row, torch.arange(5), 1, store)[0]
    # clip_grad_norm_ adds 1e-6 to the norm it divides by.
    expected = free * (0.01 / (free.norm(dim=1, keepdim=True) / 0.3 + 1e-6))
    torch.testing.assert_close(clipped, expected, rtol=1e-9, atol=1e-12)
    loose, _, _ = start(tiny("client.steps=1", "client.clip_norm=1000"), engine=engine)
    torch.testing.assert_close(loose.trainer.train(row, torch.arange(5), 1, store)[0], free, rtol=1e-12, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_masks_are_keyed(tiny, engine):
    """Another round or seed has other masks; the same client, round and step has the same."""
    settings = ("model.num_layers=2", "model.dropout=0.5", "client.steps=1", "client.batch_size=null")

    def delta(number=1, seed=0):
        sim, row, store = start(tiny(*settings), engine=engine)
        sim = replace(sim.trainer, task=replace(sim.task, seed=seed))
        return sim.train(row, torch.arange(5), number, store)[0][3]  # the client with one sample, so one order

    assert torch.equal(delta(), delta())
    assert far(delta(number=2)[None], delta()[None]) > 1e-3
    assert far(delta(seed=1)[None], delta()[None]) > 1e-3


def test_dropout_keeps_its_share_and_the_mean(tiny):
    """n = 5 * 6 * 8 * 40 masks at rate 0.25: the share kept is within 4 sqrt(p q / n) of 0.75, and scaled by 4/3."""
    sim, row, _ = start(tiny("model.num_layers=3", "model.dropout=0.25", "model.hidden_size=40"))
    mask = sim.task.dropout(1, torch.arange(5), 0, row)
    first, second = mask(0, 6, 8), mask(1, 6, 8)
    assert first.shape == (5, 6, 8, 40)
    assert set(first.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs((first > 0).double().mean().item() - 0.75) < 4 * (0.25 * 0.75 / first.numel()) ** 0.5
    # Two independent masks agree with probability p^2 + q^2 = 0.625.
    same = (first == second).double().mean().item()
    assert abs(same - 0.625) < 4 * (0.625 * 0.375 / first.numel()) ** 0.5


@pytest.mark.parametrize("engine", ENGINES)
def test_validation_judges_the_local_model(tiny, uneven, engine):
    """Loss and accuracy of each local model on its own split, by a plain module."""
    base = replace(tiny("client.validation_fraction=0.3"), partition=uneven((2, 9, 5, 3, 8), (3, 0, 1, 2, 4)))
    sim, row, store = start(base, engine=engine)
    deltas, report = sim.trainer.train(row, torch.tensor([4, 1, 2]), 1, store)
    kept = sim.population.local_validation
    for place, client in enumerate((4, 1, 2)):
        own = slice(int(kept.offsets[client]), int(kept.offsets[client + 1]))
        module = Plain(3, 5, 4).double()
        module.load_state_dict(sim.task.arch.layout.views(row + deltas[place]))
        outputs = module(kept.inputs[own], kept.lengths[own])
        loss = nn.functional.cross_entropy(outputs, kept.targets[own]).item()
        assert report.validation_loss[place].item() == pytest.approx(loss, rel=1e-12)
        accuracy = (outputs.argmax(1) == kept.targets[own]).double().mean().item()
        assert report.validation_accuracy[place].item() == pytest.approx(accuracy)


def test_evaluation_blocks(tiny, monkeypatch):
    """Many samples are evaluated in blocks: blocks of 3 give what blocks of 128 give."""
    sim, row, _ = start(tiny())
    rows = row + 0.1 * torch.randn(5, len(row), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    train = sim.population.train

    def scores():
        parts = [sim.trainer.score_samples(row, train), sim.trainer.score_clients(rows, torch.arange(5), train)]
        return [column for sums in parts for column in sums.columns()]

    expected = scores()
    monkeypatch.setattr("fedsim.clients.stacked.EVALUATION_BATCH", 3)
    for ours, theirs in zip(scores(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_quantiles(tiny, monkeypatch):
    """Both engines train by the pinball loss: three steps of SGD on quantiles 0.2 and 0.5 of two targets, by autograd.

    Reference: the mean of max(q (y - p), (q - 1) (y - p)) over the outputs, each target once for each quantile.
    """
    base = tiny("data.outputs=2", "client.epochs=3", "client.batch_size=null", task=Task.REGRESSION)
    data = load_dataset(base.data, base.seed)
    wide = [replace(split, targets=split.targets.repeat(2, axis=1)) for split in (data.train, data.test)]
    data = replace(data, train=wide[0], test=wide[1], num_outputs=4, forecast=Forecast(quantiles=(0.2, 0.5)))
    monkeypatch.setattr("fedsim.federation.prepare.load_dataset", lambda *_: data)
    levels = torch.tensor([0.2, 0.5, 0.2, 0.5], dtype=torch.float64)

    def pinball(behind):
        return torch.maximum(levels * behind, (levels - 1) * behind)

    for engine in ENGINES:
        sim, row, store = start(base, engine=engine)
        deltas, report = sim.trainer.train(row, torch.arange(5), 1, store)
        train, test, layout = sim.population.train, sim.population.test, sim.task.arch.layout
        for client in range(5):
            own = slice(int(train.offsets[client]), int(train.offsets[client + 1]))
            module = Plain(3, 5, 4).double()
            module.load_state_dict(layout.views(row))
            optimizer = torch.optim.SGD(module.parameters(), lr=base.client.optimizer.lr)
            losses = []
            for _ in range(3):
                optimizer.zero_grad()
                loss = pinball(train.targets[own] - module(train.inputs[own], train.lengths[own])).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert far(deltas[client], layout.flatten(module.state_dict()) - row) < 1e-12
            assert report.train_loss[client].item() == pytest.approx(np.mean(losses), rel=1e-12)
        scored = sim.trainer.score_samples(row, test)
        torch.testing.assert_close(scored.loss, pinball(test.targets - scored.outputs).sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_outputs_of_own_models(tiny, engine):
    """`score_clients` gives the outputs of each client's own model, its samples one after another, clients as asked."""
    sim, row, _ = start(tiny(task=Task.REGRESSION), engine=engine)
    rows = row + 0.1 * torch.randn(3, len(row), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    test, clients = sim.population.test, torch.tensor([4, 1, 2])  # the second has no test samples
    scored = sim.trainer.score_clients(rows, clients, test)
    expected = []
    for model, client in zip(rows, clients.tolist(), strict=True):
        own = slice(int(test.offsets[client]), int(test.offsets[client + 1]))
        module = Plain(3, 5, 2).double()
        module.load_state_dict(sim.task.arch.layout.views(model))
        if own.stop > own.start:
            expected.append(module(test.inputs[own], test.lengths[own]).detach())
    torch.testing.assert_close(scored.outputs, torch.cat(expected), rtol=1e-12, atol=1e-14)


def test_small_operations_take_one_thread_and_kernels_all(tiny, monkeypatch):
    """And the numbers are restored, whatever happens in between; large models keep torch's threads."""
    sim = prepare(replace(tiny(), engine=StackedEngine(kernels="numba")))
    state, clients = initial_state(sim), torch.arange(5)
    seen = []

    def spy(*arguments):
        seen.append((torch.get_num_threads(), numba_kernels.most_threads()))
        raise RuntimeError("seen")

    monkeypatch.setattr(trainers.stacked, "loss_and_gradient", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for few in (trainers._FEW_NUMBERS, 1):
            monkeypatch.setattr(trainers, "_FEW_NUMBERS", few)
            with pytest.raises(RuntimeError, match="seen"):
                sim.trainer.train(state.row, clients, 1, state.store)
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, 3), (3, 3)]


PIECES = [
    (Task.CLASSIFICATION, ("model=lstm", "model.num_layers=2", "model.dropout=0.3")),
    (Task.SEQUENCE_LABELLING, ()),
    (Task.REGRESSION, ("aggregator=fedsam",)),
]


@pytest.mark.parametrize(("task", "overrides"), PIECES)
def test_a_stack_in_pieces_trains_as_a_whole(tiny, monkeypatch, task, overrides):
    """Whichever clients share a piece, and however many are still active; nothing so small is cut by default."""
    sim = prepare(replace(tiny(*overrides, task=task), engine=StackedEngine(kernels="numba")))
    state, clients = initial_state(sim), torch.tensor([3, 0, 4, 1])
    whole, report = sim.trainer.train(state.row, clients, 1, state.store)
    assert sim.trainer._pieces(4, 4) == [slice(0, 4)]
    monkeypatch.setattr(trainers, "_LEFT_IN_CACHE", 10_000)
    assert len(sim.trainer._pieces(400, 4)) > 20
    calls = []
    monkeypatch.setattr(trainers.StackedTrainer, "_pieces", lambda self, active, batch: cut(active, calls))
    pieces, same = sim.trainer.train(state.row, clients, 1, state.store)
    assert max(calls) == 4
    torch.testing.assert_close(pieces, whole, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(same.train_loss, report.train_loss, rtol=1e-12, atol=0)


def cut(active, calls):
    calls.append(active)
    return [slice(0, 1), slice(1, active)] if active > 1 else [slice(0, 1)]


def test_pieces_have_a_client_for_every_thread(tiny, monkeypatch):
    """What a client leaves is 1 layer x 5 units x (3 gates + 2) x 6 steps x 4 samples = 600 numbers."""
    sim = prepare(replace(tiny(), engine=StackedEngine(kernels="numba")))
    monkeypatch.setattr(trainers, "_LEFT_IN_CACHE", 3_000)
    for threads, width in ((1, 5), (4, 8), (7, 7)):
        numba_kernels.set_threads(threads)
        pieces = sim.trainer._pieces(20, 4)
        numba_kernels.set_threads(0)
        assert [piece.stop - piece.start for piece in pieces] == [
            min(width, 20 - first) for first in range(0, 20, width)
        ]
    monkeypatch.setattr(trainers, "_LEFT_IN_CACHE", 2_000)  # three clients' worth: too few to be worth a piece
    assert sim.trainer._pieces(20, 4) == [slice(0, 20)]
