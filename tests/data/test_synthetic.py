"""The teacher, the two dials, and that a client's samples are its own."""

import numpy as np
import pytest

from fedsim.data.dataset import Task
from fedsim.data.synthetic import Synthetic, _hidden
from fedsim.errors import FieldError

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
        ("alpha", {"alpha": -0.1}),
        ("beta", {"beta": float("nan")}),
        ("noise", {"noise": -1.0}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Synthetic(**values)
    assert error.value.field == field
