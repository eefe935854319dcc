"""Baselines: pooled data, and every client for itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim import seeding
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models.reference import ReferenceModel, load_row, read_row

SMALL = ("data=synthetic", "data.clients=3", "data.samples_per_client=7", "data.test_samples_per_client=2")
DOUBLE = ("dtype=float64", "device=cpu", "engine.kernels=torch")


def test_one_client_holds_every_sample(compose):
    natural = prepare(compose(*SMALL, "partition=natural", "device=cpu")).population
    sim = prepare(compose(*SMALL, "partition=natural", "device=cpu", "baseline=centralised", "aggregator=krum"))
    assert sim.population.client_names == ("everyone",)
    assert torch.equal(sim.population.train.inputs, natural.train.inputs)
    assert torch.equal(sim.population.test.targets, natural.test.targets)


def test_pooled_clients_keep_their_sensors(compose):
    shift = (*SMALL, "partition=feature_shift", "num_clients=4", "partition.noise=0.5", "device=cpu")
    apart, pooled = (prepare(compose(*shift, *extra)).population for extra in ((), ("baseline=centralised",)))
    assert not torch.equal(apart.train.inputs, pooled.train.inputs)  # in another order
    rows = [np.unique(p.train.inputs.flatten(1).numpy(), axis=0) for p in (apart, pooled)]
    np.testing.assert_array_equal(*rows)


def test_centralised_is_plain_training_that_goes_on_from_round_to_round(run, compose):
    """Four rounds of one epoch with a kept Adam state, against `torch.optim.Adam` on all samples."""
    settings = ("client/optimizer=adam", "client.optimizer.lr=0.01", "client.epochs=1", "rounds=4")
    replaced = ("aggregator=fedadam", "sampler.fraction=0.1")
    found = run(compose(*SMALL, *DOUBLE, *settings, *replaced, "baseline=centralised"))
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


def test_local_aggregates_nothing(run, compose):
    """The same as `aggregator=local` with everybody in every round (tests/test_algorithms.py) and a kept optimizer."""
    base = (*SMALL, *DOUBLE, "partition=natural", "rounds=3", "client/optimizer=adam")
    baseline = run(compose(*base, "baseline=local", "aggregator=fedprox", "sampler.fraction=0.4"))
    spelled = run(compose(*base, "aggregator=local", "client.keep_optimizer_state=true"))
    assert baseline.metrics == spelled.metrics
    assert baseline.metrics[-1]["bytes_up"] == 0
    assert baseline.metrics[-1]["clients"] == 3


@pytest.mark.parametrize("name", ["centralised", "local"])
def test_experiments_have_baselines(compose, name):
    """Whatever an experiment sets stays valid: nothing is swapped in the config."""
    sim = prepare(replace(compose("experiment=speech_japanese_vowels", f"baseline={name}"), rounds=1))
    assert sim.population.num_clients == (1 if name == "centralised" else 10)


@pytest.mark.parametrize("name", ["centralised", "local"])
@pytest.mark.parametrize("part", ["personalize=ditto", "attack=sign_flip", "link/up=topk", "privacy=local_dp"])
def test_what_needs_a_federation_is_refused(compose, name, part):
    off = part.split("=")[0].split("/")[0] + "=none"
    with pytest.raises(UserError, match=f"baseline={name}: is no federation, in which {part} would act; use {off}$"):
        compose(*SMALL, f"baseline={name}", part)
