"""Whole federated algorithms against the pseudocode of their papers, written out with `torch.nn` and autograd.

The loops below share nothing with fedsim but the model's shape, the batch order and the store of samples. They run in
float64 for a few rounds, with clients of 1 to 13 samples, part of them in each round.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim import seeding
from fedsim.data.batches import batch_indices
from fedsim.data.dataset import Assignment
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models.reference import ReferenceModel, load_row

pytestmark = pytest.mark.usefixtures("one_thread")

LR, ROUNDS, EPOCHS, BATCH = 0.2, 5, 2, 4
SETTINGS = (f"client.optimizer.lr={LR}", f"rounds={ROUNDS}", "sampler.cohort_size=3", f"client.epochs={EPOCHS}")


class Clients:
    """What the papers take for granted: N clients, who takes part, and minibatch gradients."""

    def __init__(self, simulation):
        self.arch, self.seed = simulation.task.arch, simulation.experiment.seed
        self.train, self.sampler = simulation.population.train, simulation.experiment.sampler
        self.count = simulation.population.num_clients
        self.module = ReferenceModel(self.arch).double()

    def cohort(self, number):
        return self.sampler.cohort(self.train.sizes, number, self.seed, None).tolist()

    def size(self, client):
        return int(self.train.sizes[client])

    def batches(self, client, number, stream="batches"):
        """The minibatches of one round, as ``(inputs, lengths, targets)``."""
        chosen, steps = torch.tensor([client]), torch.tensor([EPOCHS * -(-self.size(client) // BATCH)])
        key = seeding.stream_key(self.seed, stream, number)
        for index, _ in batch_indices(self.train, chosen, steps, BATCH, key):
            yield self.samples(index[0])

    def samples(self, index):
        return self.train.inputs[index], self.train.lengths[index], self.train.targets[index]

    def gradient(self, row, batch):
        load_row(self.module, self.arch, row)
        inputs, lengths, targets = batch
        loss = nn.functional.cross_entropy(self.module(inputs, lengths), targets)
        parts = torch.autograd.grad(loss, self.module.parameters_in_order())
        return torch.cat([part.reshape(-1) for part in parts])

    def descend(self, row, client, number, term=lambda y: 0.0, stream="batches"):
        """Local SGD along gradient plus `term`; returns the local row and the number of steps."""
        y, steps = row.clone(), 0
        for batch in self.batches(client, number, stream):
            y = y - LR * (self.gradient(y, batch) + term(y))
            steps += 1
        return y, steps


def first_row(run):
    return initial_state(run.simulation).row


def close(ours, theirs):
    assert len(ours) == len(theirs) == ROUNDS
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_scaffold(tiny, run):
    """Karimireddy 2020, Algorithm 1 with option II, global step size 1."""
    found = run(tiny("aggregator=scaffold", *SETTINGS))
    clients, x = Clients(found.simulation), first_row(found)
    c, c_i = torch.zeros_like(x), {i: torch.zeros_like(x) for i in range(clients.count)}
    rows = []
    for number in range(1, ROUNDS + 1):
        cohort = clients.cohort(number)
        dy, dc = [], []
        for i in cohort:
            y, k = clients.descend(x, i, number, lambda y, c=c, own=c_i[i]: c - own)
            new = c_i[i] - c + (x - y) / (k * LR)
            dy.append(y - x), dc.append(new - c_i[i])
            c_i[i] = new
        x = x + torch.stack(dy).mean(0)
        c = c + len(cohort) / clients.count * torch.stack(dc).mean(0)
        rows.append(x)
    close(found.rows, rows)
    torch.testing.assert_close(found.state.drawers["correction"]["mean"], c, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(c, torch.stack([*c_i.values()]).mean(0), rtol=1e-11, atol=1e-13)
    row_bytes = len(x) * 8
    assert found.metrics[-1]["bytes_up"] == found.metrics[-1]["bytes_down"] == ROUNDS * 3 * 2 * row_bytes


def test_feddyn(tiny, run):
    """Acar 2021, Algorithm 1, its inner minimisation by local SGD."""
    alpha = 0.3
    found = run(tiny("aggregator=feddyn", f"aggregator.correction.alpha={alpha}", *SETTINGS))
    clients, theta = Clients(found.simulation), first_row(found)
    h, lin = torch.zeros_like(theta), {i: torch.zeros_like(theta) for i in range(clients.count)}
    rows = []
    for number in range(1, ROUNDS + 1):
        cohort = clients.cohort(number)
        local = {}
        for i in cohort:
            local[i], _ = clients.descend(theta, i, number, lambda y, own=lin[i], x=theta: -own + alpha * (y - x))
            lin[i] = lin[i] - alpha * (local[i] - theta)
        h = h - alpha / clients.count * sum(local[i] - theta for i in cohort)
        theta = sum(local.values()) / len(cohort) - h / alpha
        rows.append(theta)
    close(found.rows, rows)
    assert found.metrics[-1]["bytes_up"] == ROUNDS * 3 * len(theta) * 8  # nothing but the model travels


def test_fedsam(tiny, run):
    """Qu 2022, Algorithm 1: every local step follows the gradient at ``y + rho * g / |g|``."""
    rho = 0.3
    found = run(tiny("aggregator=fedsam", f"aggregator.correction.rho={rho}", *SETTINGS))
    clients, x = Clients(found.simulation), first_row(found)
    rows = []
    for number in range(1, ROUNDS + 1):
        total, size = torch.zeros_like(x), 0
        for i in clients.cohort(number):
            y = x
            for batch in clients.batches(i, number):
                g = clients.gradient(y, batch)
                y = y - LR * clients.gradient(y + rho * g / g.norm(), batch)
            total, size = total + clients.size(i) * y, size + clients.size(i)
        x = total / size
        rows.append(x)
    close(found.rows, rows)


def test_a_second_training_has_masks_of_its_own(tiny):
    """Ditto and fine-tuning draw other dropout masks than the training of the global model, which keeps its own."""
    for personal in ("ditto", "finetune"):
        layers = ("model.num_layers=2", "model.dropout=0.5")
        sim = prepare(tiny(f"personalize={personal}", *layers))
        like, clients = torch.zeros(1, dtype=torch.float64), torch.arange(5)
        one, other = (task.dropout(3, clients, 2, like)(0, 6, 4) for task in (sim.task, sim.personal.trainer.task))
        agree = float((one == other).double().mean())  # of 600 independent coins: 0.5, to 4 standard errors of 0.02
        assert agree == pytest.approx(0.5, abs=0.08)
        key = seeding.stream_key(0, "dropout", 3, 2)
        counters = (2 * clients[:, None, None, None], torch.arange(6)[:, None, None], torch.arange(4)[:, None])
        assert torch.equal(one, 2.0 * seeding.keep_mask(key, 0.5, *counters, torch.arange(5)))


def test_ditto(tiny, run):
    """Li 2021, Algorithm 1: FedAvg, and beside it a personal model pulled to the global one of the same round."""
    mu = 0.7
    found = run(tiny("personalize=ditto", f"personalize.mu={mu}", *SETTINGS))
    clients, w = Clients(found.simulation), first_row(found)
    personal, rows = {}, []
    for number in range(1, ROUNDS + 1):
        cohort = clients.cohort(number)
        total, size = torch.zeros_like(w), 0
        for i in cohort:
            personal.setdefault(i, w)
            personal[i], _ = clients.descend(personal[i], i, number, lambda v, w=w: mu * (v - w), "ditto")
            y, _ = clients.descend(w, i, number)
            total, size = total + clients.size(i) * y, size + clients.size(i)
        w = total / size
        rows.append(w)
    close(found.rows, rows)
    taken = torch.tensor(sorted(personal))
    kept = found.state.store.read("personalize.ditto", taken, torch.zeros(len(taken), len(w), dtype=torch.float64))
    torch.testing.assert_close(kept, torch.stack([personal[int(i)] for i in taken]), rtol=1e-11, atol=1e-13)
    assert 0 <= found.metrics[-1]["personal_accuracy"] <= 1


def private_part(clients, row):
    """Which parameters stay with each client under ``aggregator.blocks=[recurrent]``."""
    head = torch.zeros(len(row), dtype=torch.bool)
    for name, place in clients.arch.layout.slices.items():
        head[place] = name.startswith("head")
    return head


def test_private_heads(tiny, run):
    """FedPer (Arivazhagan 2019, Algorithms 1 and 2): the base is averaged, every client keeps its own head."""
    found = run(tiny("aggregator.blocks=[recurrent]", *SETTINGS))
    clients, w = Clients(found.simulation), first_row(found)
    head, first = private_part(clients, w), w.clone()
    heads, base = {}, []
    for number in range(1, ROUNDS + 1):
        total, size = torch.zeros_like(w), 0
        for i in clients.cohort(number):
            own = torch.where(head, heads.get(i, first), w)
            y, _ = clients.descend(own, i, number)
            heads[i] = y
            total, size = total + clients.size(i) * y, size + clients.size(i)
        w = torch.where(head, first, total / size)
        base.append(w)
    close(found.rows, base)

    test = found.simulation.population.test
    hits = 0
    for i in range(clients.count):
        load_row(clients.module, clients.arch, torch.where(head, heads.get(i, first), w))
        own = slice(int(test.offsets[i]), int(test.offsets[i + 1]))
        if own.stop > own.start:
            predicted = clients.module(test.inputs[own], test.lengths[own]).argmax(1)
            hits += int((predicted == test.targets[own]).sum())
    assert found.metrics[-1]["test_accuracy"] == hits / len(test)
    shared = int((~head).sum())
    assert found.metrics[-1]["bytes_up"] == ROUNDS * 3 * shared * 8


def test_scaffold_with_private_heads(tiny, run):
    """Karimireddy 2020, Algorithm 1, on the base alone; each client's head follows its own gradients.

    Control variates are those of the base: two rows each way of as many numbers as it has.
    """
    found = run(tiny("aggregator=scaffold", "aggregator.blocks=[recurrent]", *SETTINGS))
    clients, x = Clients(found.simulation), first_row(found)
    head, first = private_part(clients, x), x.clone()
    c, c_i = torch.zeros_like(x), {i: torch.zeros_like(x) for i in range(clients.count)}
    heads, rows = {}, []
    for number in range(1, ROUNDS + 1):
        cohort = clients.cohort(number)
        dy, dc = [], []
        for i in cohort:
            begin = torch.where(head, heads.get(i, first), x)
            y, k = clients.descend(begin, i, number, lambda y, c=c, own=c_i[i]: c - own)
            new = torch.where(head, 0, c_i[i] - c + (begin - y) / (k * LR))
            dy.append(torch.where(head, 0, y - begin)), dc.append(new - c_i[i])
            c_i[i], heads[i] = new, y
        x = x + torch.stack(dy).mean(0)
        c = c + len(cohort) / clients.count * torch.stack(dc).mean(0)
        rows.append(x)
    close(found.rows, rows)
    torch.testing.assert_close(found.state.drawers["correction"]["mean"], c, rtol=1e-11, atol=1e-13)
    row_bytes = int((~head).sum()) * 8
    assert found.metrics[-1]["bytes_up"] == found.metrics[-1]["bytes_down"] == ROUNDS * 3 * 2 * row_bytes


def test_feddyn_with_private_heads(tiny, run):
    """Acar 2021, Algorithm 1: the moving regulariser is about the base, and so is the server's step back."""
    alpha = 0.3
    found = run(
        tiny("aggregator=feddyn", f"aggregator.correction.alpha={alpha}", "aggregator.blocks=[recurrent]", *SETTINGS)
    )
    clients, theta = Clients(found.simulation), first_row(found)
    head, first = private_part(clients, theta), theta.clone()
    h, lin = torch.zeros_like(theta), {i: torch.zeros_like(theta) for i in range(clients.count)}
    heads, rows = {}, []
    for number in range(1, ROUNDS + 1):
        moved = {}
        for i in clients.cohort(number):

            def term(y, own=lin[i], x=theta):
                return torch.where(head, 0, -own + alpha * (y - x))

            y, _ = clients.descend(torch.where(head, heads.get(i, first), theta), i, number, term)
            heads[i], moved[i] = y, torch.where(head, 0, y - theta)
            lin[i] = lin[i] - alpha * moved[i]
        h = h - alpha / clients.count * sum(moved.values())
        theta = theta + sum(moved.values()) / len(moved) - h / alpha
        rows.append(theta)
    close(found.rows, rows)


def test_fedprox_with_private_heads(tiny, run):
    """Li 2020, eq. 2, for the base: a client's head has nothing to be pulled to."""
    mu = 0.7
    found = run(
        tiny("aggregator=fedprox", f"aggregator.correction.mu={mu}", "aggregator.blocks=[recurrent]", *SETTINGS)
    )
    clients, w = Clients(found.simulation), first_row(found)
    head, first = private_part(clients, w), w.clone()
    heads, rows = {}, []
    for number in range(1, ROUNDS + 1):
        total, size = torch.zeros_like(w), 0
        for i in clients.cohort(number):
            begin = torch.where(head, heads.get(i, first), w)
            y, _ = clients.descend(begin, i, number, lambda y, w=w: torch.where(head, 0, mu * (y - w)))
            heads[i] = y
            total, size = total + clients.size(i) * y, size + clients.size(i)
        w = torch.where(head, first, total / size)
        rows.append(w)
    close(found.rows, rows)


def test_fedsam_with_private_heads(tiny, run):
    """Qu 2022, Algorithm 1: the worse place is one of the whole local model, the client's own head included."""
    rho = 0.3
    found = run(
        tiny("aggregator=fedsam", f"aggregator.correction.rho={rho}", "aggregator.blocks=[recurrent]", *SETTINGS)
    )
    clients, w = Clients(found.simulation), first_row(found)
    head, first = private_part(clients, w), w.clone()
    heads, rows = {}, []
    for number in range(1, ROUNDS + 1):
        total, size = torch.zeros_like(w), 0
        for i in clients.cohort(number):
            y = torch.where(head, heads.get(i, first), w)
            for batch in clients.batches(i, number):
                g = clients.gradient(y, batch)
                y = y - LR * clients.gradient(y + rho * g / g.norm(), batch)
            heads[i] = y
            total, size = total + clients.size(i) * y, size + clients.size(i)
        w = torch.where(head, first, total / size)
        rows.append(w)
    close(found.rows, rows)


def test_nothing_aggregated_is_local_training(tiny, run):
    found = run(tiny("aggregator=local", "sampler.fraction=1", f"client.optimizer.lr={LR}", f"rounds={ROUNDS}"))
    clients, w = Clients(found.simulation), first_row(found)
    own = {}
    for i in range(clients.count):
        y = w
        for number in range(1, ROUNDS + 1):
            y, _ = clients.descend(y, i, number)
        own[i] = y
    everyone = torch.arange(clients.count)
    kept = found.state.store.read("private", everyone, torch.zeros(clients.count, len(w), dtype=torch.float64))
    torch.testing.assert_close(kept, torch.stack([own[i] for i in range(clients.count)]), rtol=1e-11, atol=1e-13)
    assert found.metrics[-1]["bytes_up"] == found.metrics[-1]["bytes_down"] == 0
    assert torch.equal(found.rows[-1], w)


def test_fine_tuning(tiny, run):
    """The fine-tuned model is k steps of plain SGD from the last global model; the global run is untouched by it."""
    steps = 3
    found = run(tiny("personalize=finetune", f"personalize.steps={steps}", *SETTINGS))
    plain = run(tiny(*SETTINGS))
    assert torch.equal(found.rows[-1], plain.rows[-1])
    clients, test = Clients(found.simulation), found.simulation.population.test
    hits = 0
    for i in range(clients.count):
        y, key = found.rows[-1], seeding.stream_key(0, "finetune", ROUNDS)
        for index, _ in batch_indices(clients.train, torch.tensor([i]), torch.tensor([steps]), BATCH, key):
            at = index[0]
            y = y - LR * clients.gradient(
                y, (clients.train.inputs[at], clients.train.lengths[at], clients.train.targets[at])
            )
        load_row(clients.module, clients.arch, y)
        own = slice(int(test.offsets[i]), int(test.offsets[i + 1]))
        if own.stop > own.start:
            hits += int((clients.module(test.inputs[own], test.lengths[own]).argmax(1) == test.targets[own]).sum())
    assert found.metrics[-1]["personal_accuracy"] == hits / len(test)


# ---------------------------------------------------------------------------------------------------------------------
# special cases that must coincide


def rows_of(run, experiment):
    return run(experiment).rows


def test_fedprox_without_pull_is_fedavg(tiny, run):
    prox = tiny("aggregator=fedprox", "aggregator.correction.mu=0", *SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(rows_of(run, prox), rows_of(run, tiny(*SETTINGS)), strict=True))


def test_fedavgm_without_momentum_is_fedavg(tiny, run):
    momentum = tiny("aggregator=fedavgm", "aggregator.server_optimizer.beta=0", *SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(rows_of(run, momentum), rows_of(run, tiny(*SETTINGS)), strict=True))


@dataclass(frozen=True)
class Same:
    """Every client holds the same samples."""

    clients: int = 4
    samples: int = 6

    def assign(self, dataset, num_clients, seed):
        own, names = np.arange(self.samples), tuple(f"client_{k}" for k in range(self.clients))
        return Assignment([own] * self.clients, [own] * self.clients, names)


def test_scaffold_with_equal_clients_is_fedavg(tiny, run):
    """Full batches and all clients: every control variate equals their mean, so that they cancel."""
    settings = ("client.batch_size=null", "sampler.fraction=1", "rounds=4")
    scaffold, plain = (
        replace(tiny(f"aggregator={name}", *settings), partition=Same()) for name in ("scaffold", "mean")
    )
    for a, b in zip(rows_of(run, scaffold), rows_of(run, plain), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_one_full_step_is_gradient_descent_on_all_samples(tiny, run):
    """FedSGD (McMahan 2017, section 2): weighted means of full-batch steps are steps on the pooled data."""
    found = run(
        tiny("client.batch_size=null", "client.epochs=1", "sampler.fraction=1", "rounds=4", f"client.optimizer.lr={LR}")
    )
    clients, w = Clients(found.simulation), first_row(found)
    everything = clients.train.inputs, clients.train.lengths, clients.train.targets
    for row in found.rows:
        w = w - LR * clients.gradient(w, everything)
        torch.testing.assert_close(row, w, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# what cannot go together


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("aggregator=scaffold", "client/optimizer=adam"), "plain steps"),
        (("aggregator=scaffold", "client.optimizer.momentum=0.9"), "plain steps"),
        (("aggregator=scaffold", "client.optimizer.weight_decay=0.1"), "plain steps"),
        (("aggregator=scaffold", "client.clip_norm=1"), "plain steps"),
        (("aggregator=scaffold", "aggregator.blocks=[]"), "aggregator/correction=none"),
        (("aggregator=fedprox", "aggregator.blocks=[]"), "aggregator/correction=none"),
        (("aggregator.blocks=[recurrent]", "personalize=ditto"), "personalize=finetune"),
    ],
)
def test_refused(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny(*overrides)


def test_unknown_blocks_are_refused(tiny, run):
    with pytest.raises(
        UserError, match=r"aggregator\.blocks=\['heads'\]: this model has recurrent, head.*did you mean"
    ):
        run(tiny("aggregator.blocks=[heads]"))


@pytest.mark.parametrize("aggregator", ["scaffold", "feddyn", "fedavg"])
@pytest.mark.parametrize("personalize", ["none", "ditto"])
def test_chunks_do_not_matter(tiny, run, aggregator, personalize):
    """One client at a time: the server's memory must not change within a round."""
    experiment = tiny(f"aggregator={aggregator}", f"personalize={personalize}", *SETTINGS)
    whole, single = run(experiment), run(experiment, chunk_size=1)
    for a, b in zip(whole.rows, single.rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert whole.metrics[-1] == pytest.approx(single.metrics[-1], rel=1e-10)
