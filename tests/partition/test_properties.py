"""What holds for every partition in configs/partition/, those added later too.

Each training and test sample is given to at most one client, and to exactly one unless the partition leaves some out on
purpose; no client is without training samples; a seed decides; and what cannot be done is a `UserError` with numbers.
"""

import importlib.resources
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from fedsim import build
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.population import observed
from fedsim.errors import UserError
from fedsim.federation.experiment import Partition

FILES = {
    path.stem: path for path in sorted(Path(str(importlib.resources.files("fedsim.configs"))).glob("partition/*.yaml"))
}

# Values to try in addition to the defaults; a partition without an entry is tried with its defaults only.
OTHERS = {
    "iid": {"spread": [0.0, 0.5, 3.0]},
    "dirichlet": {"alpha": [0.1, 1.0, 100.0], "min_samples": [1, 3]},
    "shards": {"shards_per_client": [1, 2, 5]},
    "labels_per_client": {"labels": [1, 2, 4]},
    "quantity": {"exponent": [None, 0.0, 2.0], "min_samples": [1, 3]},
    "natural": {"min_samples": [1, 4], "max_clients": [None, 2]},
    "time_blocks": {"gap": [0, 1, 3]},
    "length": {"mixing": [0.0, 0.5, 1.0]},
    "feature_shift": {"noise": [0.1, 2.0], "scale": [0.0, 0.3], "bias": [0.0, 1.0]},
}

LEAVES_OUT = {"natural": ("min_samples", "max_clients"), "time_blocks": ("gap",)}
"""Partitions that may leave samples unassigned, and the fields that decide it."""


def make_partition(name, **values):
    return build.build(yaml.safe_load(FILES[name].read_text()) | values, Partition, "partition")


@st.composite
def settings_of(draw, name):
    return {key: draw(st.sampled_from(values)) for key, values in OTHERS.get(name, {}).items()}


def make_dataset(train, test, labels, clients, task=Task.CLASSIFICATION, seed=0):
    """Data that suit every partition: labels, own clients, an order in time, lengths and features that differ."""
    rng = np.random.default_rng(seed)

    def split(samples):
        inputs, lengths = rng.standard_normal((samples, 4, 2), np.float32), rng.integers(1, 5, samples)
        inputs[np.arange(4) >= lengths[:, None]] = 0
        targets = rng.integers(0, labels, samples) if task is Task.CLASSIFICATION else rng.standard_normal((samples, 1))
        return Split(inputs, lengths, targets, np.sort(rng.integers(0, clients, samples)))

    names = tuple(f"site_{k}" for k in range(clients))
    return Dataset("toy", task, split(train), split(test), labels, client_names=names, ordered=True)


DATASETS = st.builds(
    make_dataset,
    train=st.integers(1, 120),
    test=st.integers(1, 60),
    labels=st.integers(1, 6),
    clients=st.integers(1, 4),
    task=st.sampled_from([Task.CLASSIFICATION, Task.REGRESSION]),
    seed=st.integers(0, 5),
)


def everything(assignment):
    return [*assignment.train, *assignment.test]


@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), dataset=DATASETS, clients=st.one_of(st.none(), st.integers(1, 15)), seed=st.integers(0, 99))
def test_samples_are_conserved_or_the_request_refused(name, data, dataset, clients, seed):
    values = data.draw(settings_of(name))
    partition = make_partition(name, **values)
    try:
        assignment = partition.assign(dataset, clients, seed)
    except UserError as error:
        assert re.search(r"\d|no label per sequence", str(error))  # noqa: PT017
        assert len(str(error)) < 400  # noqa: PT017
        return
    names = assignment.client_names
    assert len(names) == len(set(names)) == len(assignment.train) == len(assignment.test)
    if clients is not None:
        assert len(names) == clients
    assert all(len(own) for own in assignment.train)
    may_leave_out = any(values.get(key) not in (None, 0) for key in LEAVES_OUT.get(name, ())) or (
        name == "natural" and clients is not None
    )
    for split, members in ((dataset.train, assignment.train), (dataset.test, assignment.test)):
        given_out = np.concatenate(members)
        assert given_out.dtype == np.int64
        assert len(np.unique(given_out)) == len(given_out)
        assert ((given_out >= 0) & (given_out < len(split))).all()
        if not may_leave_out:
            assert len(given_out) == len(split)
    seen = observed(dataset, assignment).train.inputs
    assert seen.shape == dataset.train.inputs.shape
    assert np.isfinite(seen).all()


@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), seed=st.integers(0, 2**62))
def test_a_reasonable_request_is_met_and_the_seed_decides(name, data, seed):
    dataset = make_dataset(400, 200, labels=4, clients=3)
    partition = make_partition(name, **data.draw(settings_of(name)))
    clients = 3 if name == "natural" and partition.max_clients is None else None if name == "natural" else 6
    first = partition.assign(dataset, clients, seed)
    again = make_partition(name, **vars(partition)).assign(dataset, clients, seed)
    assert all(np.array_equal(a, b) for a, b in zip(everything(first), everything(again), strict=True))
    np.testing.assert_array_equal(observed(dataset, first).test.inputs, observed(dataset, again).test.inputs)
    other = partition.assign(dataset, clients, seed + 1)
    differs = [not np.array_equal(a, b) for a, b in zip(everything(first), everything(other), strict=False)]
    assert any(differs) or name in ("natural", "time_blocks")  # everybody, and by position


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("clients", [0, -1, 101, 2**31 - 1])
def test_impossible_numbers_of_clients_are_refused(name, clients):
    with pytest.raises(UserError, match=rf"^num_clients={clients}: .*\d"):
        make_partition(name).assign(make_dataset(100, 50, labels=4, clients=3), clients, 0)


@pytest.mark.parametrize("name", FILES)
def test_the_global_generator_is_left_alone(name):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    make_partition(name).assign(make_dataset(100, 50, labels=4, clients=3), None, 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", FILES)
@given(dataset=DATASETS, clients=st.integers(1, 8))
def test_train_and_test_follow_the_same_partition(name, dataset, clients):
    """With the training samples as test samples, clients are given test sets as large as their training sets."""
    assume(name not in ("shards", "labels_per_client") or dataset.task is Task.CLASSIFICATION)
    dataset = replace(dataset, test=dataset.train)
    try:
        assignment = make_partition(name).assign(dataset, clients, 0)
    except UserError:
        return
    # Each label's counts are rounded; gaps are left out of training only.
    slack = {"time_blocks": 2 * clients}.get(name, dataset.num_outputs + 10)
    for own, own_test in zip(assignment.train, assignment.test, strict=True):
        assert abs(len(own) - len(own_test)) <= slack


def test_the_values_to_try_belong_to_fields():
    assert OTHERS.keys() <= FILES.keys()
    for name, values in OTHERS.items():
        assert values.keys() <= yaml.safe_load(FILES[name].read_text()).keys()
