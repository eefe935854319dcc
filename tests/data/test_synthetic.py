"""The teacher, the two dials, and that a client's samples are its own."""

import numpy as np
import pytest

from fedsim.data.dataset import Task
from fedsim.data.synthetic import Synthetic, _hidden
from fedsim.errors import FieldError
from fedsim.seeding import generator

SMALL = {"clients": 4, "samples_per_client": 7, "test_samples_per_client": 3, "length": 6, "features": 5}


def own(split, client):
    """The inputs, lengths and targets of one client."""
    rows = split.clients == client
    return split.inputs[rows], split.lengths[rows], split.targets[rows]


def test_shapes_classification():
    data = Synthetic(**SMALL, classes=3).load(0)
    assert (data.task, data.num_outputs, data.vocabulary_size) == (Task.CLASSIFICATION, 3, None)
    assert data.train.inputs.shape == (28, 6, 5)
    assert data.train.inputs.dtype == np.float32
    assert data.train.targets.shape == (28,)
    assert data.train.targets.dtype == np.int64
    assert set(data.train.targets) <= {0, 1, 2}
    assert data.test.clients.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert len(data.client_names) == 4


def test_shapes_regression():
    data = Synthetic(task="regression", **SMALL, outputs=2).load(0)
    assert (data.task, data.num_outputs) == (Task.REGRESSION, 2)
    assert data.train.targets.shape == (28, 2)
    assert data.train.targets.dtype == np.float32


def test_defaults_that_depend_on_the_task():
    assert Synthetic(**SMALL).load(0).num_outputs == 5
    assert Synthetic(task="regression", **SMALL).load(0).num_outputs == 1


def test_memory_is_the_leaky_integral():
    """Reference: the recursion of the docstring, step by step up to each sequence's own length."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4, 9, 3)).astype(np.float32)
    projection = rng.standard_normal((3, 8)).astype(np.float32)
    lengths = np.array([9, 1, 5, 8])
    expected = []
    for sequence, length in zip(inputs, lengths, strict=True):
        state = np.zeros(3)
        for step in sequence[:length]:
            state = 0.8 * state + 0.6 * step
        expected.append(np.tanh(state @ projection))
    np.testing.assert_allclose(_hidden(inputs, lengths, projection), expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0])
def test_regression_targets_have_unit_variance(alpha):
    """Standard error of a variance over 40 clients x 100 samples: about 2 %; the scaling sample adds about 3 %."""
    targets = Synthetic(task="regression", clients=40, outputs=3, alpha=alpha, noise=0).load(3).train.targets
    np.testing.assert_allclose(targets.var(0), 1, atol=0.15)
    np.testing.assert_allclose(targets.mean(0), 0, atol=0.1)


def test_without_dials_one_teacher_fits_all_clients():
    """At alpha=0 a client's read-out weights are the common ones, so equal inputs would get equal targets.

    The weights are recovered by least squares from the noiseless targets of each client.
    """

    def spread(alpha):
        data = Synthetic(task="regression", clients=3, samples_per_client=200, length=4, alpha=alpha, noise=0).load(0)
        fits = []
        for client in range(3):
            inputs, _, targets = own(data.train, client)
            fits.append(np.linalg.lstsq(inputs.reshape(200, -1), targets[:, 0], rcond=None)[0])
        fits = np.array(fits)
        return np.linalg.norm(fits - fits.mean(0)) / np.linalg.norm(fits.mean(0))

    assert spread(0.0) < 0.5 < spread(2.0)


def test_beta_moves_the_clients_inputs_apart():
    """A client's mean over n = 100 x 20 steps is beta * m_k plus N(0, 1/n); m_k is standard normal."""

    def between(beta):
        data = Synthetic(clients=30, beta=beta).load(0)
        return np.var([own(data.train, k)[0].mean((0, 1)) for k in range(30)], axis=0).mean()

    assert between(0.0) == pytest.approx(1 / 2000, rel=0.3)
    assert between(2.0) == pytest.approx(4, rel=0.3)


def read_out(data, client):
    """The weights of a client's noiseless targets, by least squares on the teacher's hidden states."""
    inputs, lengths, targets = own(data.train, client)
    projection = generator(0, "synthetic_teacher").standard_normal((inputs.shape[2], 32), np.float32)
    hidden = _hidden(inputs, lengths, projection / np.float32(inputs.shape[2] ** 0.5))
    return np.linalg.lstsq(hidden, targets, rcond=None)[0]


def test_each_group_has_a_labelling_function_of_its_own():
    """Clients 0, 2, 4 share the weights of a run without groups, 1 and 3 others; inputs are as without groups.

    The weights of two groups are independent: of lengths a and b with an angle near 90 degrees, in 3 x 32 dimensions
    its cosine has a standard deviation of 1 / sqrt(96).
    """
    settings = {"task": "regression", "clients": 5, "samples_per_client": 200, "length": 4, "outputs": 3, "noise": 0}
    plain, data = Synthetic(**settings).load(0), Synthetic(**settings, groups=2).load(0)
    assert (plain.groups, plain.facts) == (None, ())
    assert data.groups.tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_array_equal(data.train.inputs, plain.train.inputs)
    weights = [read_out(data, client) for client in range(5)]
    for client in range(5):
        np.testing.assert_allclose(weights[client], weights[client % 2], atol=2e-3)
        same = np.array_equal(own(data.train, client)[2], own(plain.train, client)[2])
        assert same == (client % 2 == 0)
    cosine = (weights[0] * weights[1]).sum() / np.linalg.norm(weights[0]) / np.linalg.norm(weights[1])
    assert abs(cosine) < 4 / 96**0.5
    np.testing.assert_allclose(data.train.targets.var(0), 1, atol=0.2)


def test_groups_do_not_depend_on_how_many_there_are():
    """The first two groups of three are those of two; alpha moves clients apart within a group."""
    two, three = (Synthetic(**(SMALL | {"clients": 6}), groups=groups).load(0) for groups in (2, 3))
    for client in (0, 1):
        np.testing.assert_array_equal(own(two.train, client)[2], own(three.train, client)[2])
    settings = {"task": "regression", "clients": 4, "samples_per_client": 200, "length": 4, "noise": 0, "groups": 2}
    data = Synthetic(**settings, alpha=1.0).load(0)
    assert not np.allclose(read_out(data, 0), read_out(data, 2), atol=0.1)


def test_who_is_in_which_group():
    """A client that holds samples of one group is of that group; if one holds samples of two, nothing is known."""
    data = Synthetic(**SMALL, groups=2).load(0)  # seven samples each, clients 0 to 3 in groups 0 1 0 1
    assert data.groups_of([np.array([0, 6]), np.array([7]), np.array([3, 20])]).tolist() == [0, 1, 0]
    assert data.groups_of([np.array([0, 6]), np.array([6, 7])]) is None
    assert Synthetic(**SMALL).load(0).groups_of([np.array([0])]) is None


def test_clients_do_not_depend_on_each_other_or_on_the_other_split():
    few = Synthetic(**SMALL, alpha=0.5, beta=0.5, min_length=2).load(0)
    many = Synthetic(**(SMALL | {"clients": 9}), alpha=0.5, beta=0.5, min_length=2).load(0)
    other_test = Synthetic(**(SMALL | {"test_samples_per_client": 11}), alpha=0.5, beta=0.5, min_length=2).load(0)
    for client in range(4):
        for a, b, c in zip(own(few.train, client), own(many.train, client), own(other_test.train, client), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
        for a, b in zip(own(few.test, client), own(many.test, client), strict=True):
            np.testing.assert_array_equal(a, b)


def test_seed_decides():
    a, b, c = (Synthetic(**SMALL).load(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.train.inputs, b.train.inputs)
    np.testing.assert_array_equal(a.test.targets, b.test.targets)
    assert not np.array_equal(a.train.inputs, c.train.inputs)
    assert not np.array_equal(a.train.inputs[:3], a.test.inputs[:3])


def test_lengths_and_padding():
    data = Synthetic(clients=3, length=9, min_length=4).load(0)
    assert set(data.train.lengths) == set(range(4, 10))
    padded = np.arange(9) >= data.train.lengths[:, None]
    assert not data.train.inputs[padded].any()
    assert data.train.inputs[~padded].all()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("task", {"task": "clasification"}),
        ("classes", {"task": "regression", "classes": 5}),
        ("outputs", {"outputs": 1}),
        ("classes", {"classes": 1}),
        ("clients", {"clients": 0}),
        ("min_length", {"min_length": 21}),
        ("min_length", {"min_length": 0}),
        ("groups", {"groups": 0}),
        ("groups", {"groups": 11}),
        ("alpha", {"alpha": -0.1}),
        ("beta", {"beta": float("nan")}),
        ("noise", {"noise": -1.0}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Synthetic(**values)
    assert error.value.field == field
