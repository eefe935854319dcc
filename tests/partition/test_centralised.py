"""One client with everything."""

from dataclasses import replace

import pytest
import torch

from fedsim import seeding
from fedsim.errors import UserError
from fedsim.models.reference import ReferenceModel, load_row, read_row
from fedsim.simulation import initial_state, prepare


def test_one_client_holds_every_sample(compose):
    centralised = compose("data=synthetic", "data.clients=5", "baseline=centralised", "device=cpu")
    natural = prepare(compose("data=synthetic", "data.clients=5", "partition=natural", "device=cpu")).population
    population = prepare(centralised).population
    assert population.client_names == ("everyone",)
    assert torch.equal(population.train.inputs, natural.train.inputs)
    assert torch.equal(population.test.targets, natural.test.targets)
    assert centralised.client.keep_optimizer_state


def test_it_is_plain_training_that_goes_on_from_round_to_round(run, compose):
    """Four rounds of one epoch with a kept Adam state, against `torch.optim.Adam` on all samples."""
    settings = ("client/optimizer=adam", "client.optimizer.lr=0.01", "client.epochs=1", "rounds=4")
    experiment = compose(
        *("data=synthetic", "data.clients=3", "data.samples_per_client=7", "baseline=centralised", "dtype=float64"),
        *("device=cpu", "engine.kernels=torch", *settings),
    )
    found = run(experiment)
    arch, train = found.simulation.task.arch, found.simulation.population.train
    module = ReferenceModel(arch).double()
    load_row(module, arch, initial_state(found.simulation).row)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for number in range(1, 5):
        key, one = seeding.stream_key(0, "batches", number), torch.tensor([0])
        order = seeding.permutations(key, one, torch.tensor([21]), one)[0]
        for batch in order.split(8):
            outputs = module(train.inputs[batch], train.lengths[batch])
            loss = torch.nn.functional.cross_entropy(outputs, train.targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(found.rows[number - 1], read_row(module), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("count", [2, 50])
def test_more_clients_are_refused(compose, count):
    experiment = replace(compose("baseline=centralised", "data=synthetic", "device=cpu"), num_clients=count)
    with pytest.raises(UserError, match=f"num_clients={count}: partition=centralised has 1 client"):
        prepare(experiment)
