"""What the papers take for granted, written out with `torch.nn` and autograd."""

import pytest
import torch
from torch import nn

from fedsim import seeding
from fedsim.data.batches import batch_indices
from fedsim.federation.prepare import initial_state
from fedsim.models.reference import ReferenceModel, load_row

LR, ROUNDS, EPOCHS, BATCH = 0.2, 4, 2, 4
SETTINGS = (f"client.optimizer.lr={LR}", f"rounds={ROUNDS}", "sampler.cohort_size=3", f"client.epochs={EPOCHS}")


class Paper:
    """N clients, who takes part, minibatches and their gradients; it shares with fedsim no more than these.

    Attributes:
        row: the model before round 1.
        clients: N.
        head: ``[P]`` bool, the parameters of the head.
    """

    lr, rounds, settings = LR, ROUNDS, SETTINGS

    def __init__(self, found):
        simulation = found.simulation
        self.arch, self.seed = simulation.task.arch, simulation.experiment.seed
        self.population, self.sampler = simulation.population, simulation.experiment.sampler
        self.clients, self.row = simulation.population.num_clients, initial_state(simulation).row
        self.module = ReferenceModel(self.arch).double()
        self.head = torch.zeros(len(self.row), dtype=torch.bool)
        for name, place in self.arch.layout.slices.items():
            self.head[place] = name.startswith("head")

    def cohort(self, number):
        return self.sampler.cohort(self.population.train.sizes, number, self.seed, None).tolist()

    def size(self, client):
        return int(self.population.train.sizes[client])

    def steps(self, client):
        return EPOCHS * -(-self.size(client) // BATCH)

    def batches(self, client, number, stream="batches", steps=None):
        """The minibatches of one client in a round, as ``(inputs, lengths, targets)``."""
        train = self.population.train
        steps = self.steps(client) if steps is None else steps
        key = seeding.stream_key(self.seed, stream, number)
        for index, _ in batch_indices(train, torch.tensor([client]), torch.tensor([steps]), BATCH, key):
            yield train.inputs[index[0]], train.lengths[index[0]], train.targets[index[0]]

    def samples(self, client, split="train"):
        """All training or test samples of a client."""
        samples = getattr(self.population, split)
        own = slice(int(samples.offsets[client]), int(samples.offsets[client + 1]))
        return samples.inputs[own], samples.lengths[own], samples.targets[own]

    def loss(self, row, batch):
        load_row(self.module, self.arch, row)
        inputs, lengths, targets = batch
        return nn.functional.cross_entropy(self.module(inputs, lengths), targets)

    def gradient(self, row, batch):
        parts = torch.autograd.grad(self.loss(row, batch), self.module.parameters_in_order())
        return torch.cat([part.reshape(-1) for part in parts])

    def accuracy(self, row_of):
        """The share of all test samples that each client's own model, ``row_of(client)``, gets right."""
        hits = 0
        for client in range(self.clients):
            inputs, lengths, targets = self.samples(client, "test")
            if len(targets):
                load_row(self.module, self.arch, row_of(client))
                hits += int((self.module(inputs, lengths).argmax(1) == targets).sum())
        return hits / len(self.population.test)

    def weighted(self, cohort, rows):
        """The mean of rows, weighted by samples."""
        return sum(self.size(i) * row for i, row in zip(cohort, rows, strict=True)) / sum(map(self.size, cohort))


@pytest.fixture(scope="session")
def paper():
    """The class `Paper`; ``paper.settings`` are what runs are to be made with."""
    return Paper


@pytest.fixture(scope="session")
def close():
    """Return ``close(ours, theirs)``, which compares the rows of all rounds."""

    def close(ours, theirs):
        assert len(ours) == len(theirs) == ROUNDS
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)

    return close
