"""Samples by client, and batches of a cohort."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.batches import batch_indices, gather, local_steps
from fedsim.data.dataset import IGNORE, Assignment, Dataset, Split, Task
from fedsim.data.population import Samples, build_population
from fedsim.errors import UserError


def samples_of(sizes):
    """Clients with the given numbers of samples; sample s holds the number s."""
    offsets = torch.tensor([0, *np.cumsum(sizes)])
    total = int(offsets[-1])
    numbers = torch.arange(total)
    return Samples(numbers.double().view(total, 1, 1), torch.ones(total, dtype=torch.int64), numbers, offsets)


def dataset_of(train, test):
    """Samples with 2 steps of 1 feature; each holds its own number."""

    def split(count):
        numbers = np.arange(count)
        return Split(np.stack([numbers, -numbers], 1)[..., None].astype(np.float32), numbers % 2 + 1, numbers)

    return Dataset("toy", Task.CLASSIFICATION, split(train), split(test), max(train, test))


def assignment(train, test):
    names = tuple(f"c{k}" for k in range(len(train)))
    return Assignment([np.array(own, np.int64) for own in train], [np.array(own, np.int64) for own in test], names)


def test_clients_get_their_own_samples():
    given_out = assignment([[4, 1], [0, 5, 2]], [[], [1]])
    population = build_population(dataset_of(6, 3), given_out, validation_fraction=0, seed=0, dtype=torch.float64)
    assert population.train.targets.tolist() == [4, 1, 0, 5, 2]
    assert population.train.inputs[:, 1, 0].tolist() == [-4, -1, 0, -5, -2]
    assert population.train.inputs.dtype == torch.float64
    assert population.train.lengths.tolist() == [1, 2, 1, 2, 1]
    assert population.train.offsets.tolist() == [0, 2, 5]
    assert population.test.sizes.tolist() == [0, 1]
    assert (population.num_clients, population.input_size, population.local_validation) == (2, 1, None)


@given(sizes=st.lists(st.integers(2, 30), min_size=1, max_size=5), fraction=st.floats(0.01, 0.99))
def test_validation_takes_its_share_out_of_training(sizes, fraction):
    cuts = np.cumsum([0, *sizes])
    own = [list(range(a, b)) for a, b in pairwise(cuts)]
    given_out = assignment(own, [[0]] * len(own))
    population = build_population(
        dataset_of(sum(sizes), 1), given_out, validation_fraction=fraction, seed=5, dtype=torch.float32
    )
    for client, members in enumerate(own):
        train, held_out = (
            part.targets[part.offsets[client] : part.offsets[client + 1]].tolist()
            for part in (population.train, population.local_validation)
        )
        assert sorted(train + held_out) == members
        assert len(held_out) == min(max(1, round(fraction * len(members))), len(members) - 1)


def test_validation_of_a_client_depends_on_the_seed_and_not_on_other_clients():
    def held_out(seed, clients):
        own = [[k * 10 + i for i in range(10)] for k in range(clients)]
        given_out = assignment(own, [[0]] * clients)
        kept = build_population(
            dataset_of(100, 1), given_out, validation_fraction=0.3, seed=seed, dtype=torch.float32
        ).local_validation
        return kept.targets[:3].tolist()

    assert held_out(0, 1) == held_out(0, 5)
    assert held_out(0, 5) != held_out(1, 5)


def test_too_few_samples_are_refused():
    def build(train, fraction):
        build_population(
            dataset_of(9, 9), assignment(train, [[0]] * 2), validation_fraction=fraction, seed=0, dtype=torch.float32
        )

    with pytest.raises(UserError, match="client 'c1' would have no training samples"):
        build([[1], []], 0.0)
    with pytest.raises(UserError, match=r"validation_fraction=0\.5: client 'c0' has 1 training"):
        build([[1], [2, 3]], 0.5)


def test_gather_cuts_to_the_longest_sequence():
    inputs = torch.arange(24.0).view(3, 4, 2)
    samples = Samples(inputs, torch.tensor([2, 3, 4]), torch.full((3, 4), IGNORE), torch.tensor([0, 3]))
    batch = gather(samples, torch.tensor([[0, 1], [1, 0]]), None)
    assert batch.inputs.shape == (2, 2, 3, 2)
    assert torch.equal(batch.inputs[1, 0], inputs[1, :3])
    assert batch.targets.shape == (2, 2, 3)
    assert batch.lengths.tolist() == [[2, 3], [3, 2]]
    assert batch.num_samples.tolist() == [2, 2]


def test_gather_leaves_regression_targets_whole():
    targets = torch.arange(12.0).view(3, 4)
    samples = Samples(torch.zeros(3, 2, 1), torch.tensor([1, 1, 2]), targets, torch.tensor([0, 3]))
    batch = gather(samples, torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
    assert torch.equal(batch.targets[0], targets[[1, 0]])
    assert batch.num_samples.tolist() == [1]


def test_local_steps():
    """9 samples in batches of 4 are 3 steps an epoch."""
    sizes = torch.tensor([1, 4, 9])
    assert local_steps(sizes, epochs=2, steps=None, batch_size=4).tolist() == [2, 2, 6]
    assert local_steps(sizes, epochs=2, steps=None, batch_size=None).tolist() == [2, 2, 2]
    assert local_steps(sizes, epochs=None, steps=5, batch_size=4).tolist() == [5, 5, 5]


def plan(sizes, clients, *, epochs=None, steps=None, batch_size, key=1):
    """The batches of each client, as lists of sample numbers."""
    samples = samples_of(sizes)
    wanted = local_steps(samples.sizes[clients], epochs=epochs, steps=steps, batch_size=batch_size)
    order = torch.argsort(wanted, descending=True, stable=True)
    ranked = clients[order]
    batches = {int(client): [] for client in clients}
    for index, real in batch_indices(samples, ranked, wanted[order], batch_size, key):
        for place, row in enumerate(index):
            kept = row if real is None else row[real[place]]
            batches[int(ranked[place])].append(kept.tolist())
    return batches


SIZES = st.lists(st.integers(1, 15), min_size=1, max_size=6)
BATCH = st.one_of(st.none(), st.integers(1, 8))


@given(sizes=SIZES, epochs=st.integers(1, 3), batch_size=BATCH)
def test_an_epoch_visits_every_sample_once(sizes, epochs, batch_size):
    batches = plan(sizes, torch.arange(len(sizes)), epochs=epochs, batch_size=batch_size)
    start = 0
    for client, size in enumerate(sizes):
        width = batch_size or size
        expected = [min(width, size - first) for first in range(0, size, width)] * epochs
        assert [len(batch) for batch in batches[client]] == expected
        per_epoch = len(expected) // epochs
        for epoch in range(epochs):
            seen = chain(*batches[client][epoch * per_epoch : (epoch + 1) * per_epoch])
            assert sorted(seen) == list(range(start, start + size))
        start += size


@given(sizes=SIZES, steps=st.integers(1, 20), batch_size=BATCH)
def test_local_steps_begin_a_new_epoch_when_one_is_over(sizes, steps, batch_size):
    """The first steps of a count of steps are those of epochs, whatever the number of steps."""
    clients = torch.arange(len(sizes))
    by_steps = plan(sizes, clients, steps=steps, batch_size=batch_size)
    by_epochs = plan(sizes, clients, epochs=steps, batch_size=batch_size)
    for client in range(len(sizes)):
        assert len(by_steps[client]) == steps
        assert by_steps[client] == by_epochs[client][:steps]


@given(sizes=SIZES, batch_size=BATCH, data=st.data())
def test_batches_depend_on_the_client_and_not_on_its_place(sizes, batch_size, data):
    clients = data.draw(st.permutations(range(len(sizes))))
    together = plan(sizes, torch.tensor(clients), epochs=2, batch_size=batch_size)
    for client in clients:
        assert plan(sizes, torch.tensor([client]), epochs=2, batch_size=batch_size)[client] == together[client]


def test_epochs_and_rounds_differ():
    batches = plan([12], torch.tensor([0]), epochs=3, batch_size=12)[0]
    other_round = plan([12], torch.tensor([0]), epochs=3, batch_size=12, key=2)[0]
    assert Counter(map(tuple, batches + other_round)).most_common(1)[0][1] == 1


def test_data_in_the_order_of_the_clients_are_not_copied():
    """So that large data, also those mapped from a file, are in memory once or not at all."""
    dataset = dataset_of(6, 3)
    given_out = assignment([[0, 1], [2, 3, 4, 5]], [[0], [1, 2]])
    population = build_population(dataset, given_out, validation_fraction=0, seed=0, dtype=torch.float32)
    assert np.shares_memory(population.train.inputs.numpy(), dataset.train.inputs)
    assert np.shares_memory(population.test.inputs.numpy(), dataset.test.inputs)
