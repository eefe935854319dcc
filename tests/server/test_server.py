"""Server optimizers against a few lines of NumPy over three steps."""

import numpy as np
import pytest
import torch

from fedsim.errors import FieldError
from fedsim.server.optimizers import SGD, Adagrad, Adam, AdamCorrected, Momentum, Yogi, learning_rate
from fedsim.server.schedules import Cosine, Exponential

ROW = np.array([0.5, -1.25, 3.0, 0.0])
DELTAS = np.array([[0.1, -0.2, 0.003, 0.0], [-0.3, -0.1, 0.002, 1e-4], [0.05, 0.4, -0.01, -2e-4]])


def trace(optimizer, dtype=torch.float64):
    """The global row after each delta."""
    row = torch.tensor(ROW, dtype=dtype)
    state, rows = optimizer.init(row), []
    for delta in torch.tensor(DELTAS, dtype=dtype):
        row, state = optimizer.step(row, delta, state, optimizer.lr)
        rows.append(row.numpy())
    return np.array(rows)


def test_sgd_adds():
    np.testing.assert_allclose(trace(SGD(lr=0.7)), ROW + 0.7 * np.cumsum(DELTAS, 0), rtol=1e-15)


def test_momentum():
    """Written out: after step t the velocity is the sum of beta^(t - s) times delta s."""
    powers = 0.8 ** np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0]])
    velocities = np.tril(powers) @ DELTAS
    np.testing.assert_allclose(trace(Momentum(lr=0.5, beta=0.8)), ROW + 0.5 * np.cumsum(velocities, 0), rtol=1e-14)


def test_adam_is_algorithm_2_without_bias_correction():
    lr, beta1, beta2, tau = 0.1, 0.8, 0.9, 0.02
    x, m, v, expected = ROW.copy(), np.zeros(4), np.full(4, tau**2), []
    for d in DELTAS:
        m = beta1 * m + (1 - beta1) * d
        v = beta2 * v + (1 - beta2) * d * d
        x = x + lr * m / (np.sqrt(v) + tau)
        expected.append(x)
    np.testing.assert_allclose(trace(Adam(lr=lr, beta1=beta1, beta2=beta2, tau=tau)), expected, rtol=1e-14)


def test_adagrad_is_algorithm_2():
    lr, beta1, tau = 0.1, 0.3, 0.02
    x, m, v, expected = ROW.copy(), np.zeros(4), np.full(4, tau**2), []
    for d in DELTAS:
        m = beta1 * m + (1 - beta1) * d
        v = v + d * d
        x = x + lr * m / (np.sqrt(v) + tau)
        expected.append(x)
    np.testing.assert_allclose(trace(Adagrad(lr=lr, beta1=beta1, tau=tau)), expected, rtol=1e-14)


def test_yogi_is_algorithm_2():
    """With v both below and above the squares of the deltas."""
    lr, beta1, beta2, tau = 0.1, 0.8, 0.6, 0.15
    x, m, v, expected, signs = ROW.copy(), np.zeros(4), np.full(4, tau**2), [], set()
    for d in DELTAS:
        signs |= set(np.sign(v - d * d))
        m = beta1 * m + (1 - beta1) * d
        v = v - (1 - beta2) * d * d * np.sign(v - d * d)
        x = x + lr * m / (np.sqrt(v) + tau)
        expected.append(x)
    assert signs >= {-1, 1}
    np.testing.assert_allclose(trace(Yogi(lr=lr, beta1=beta1, beta2=beta2, tau=tau)), expected, rtol=1e-14)


def test_adam_corrected_is_that_of_torch():
    lr, beta1, beta2, tau = 0.1, 0.8, 0.9, 0.02
    x, expected = torch.nn.Parameter(torch.tensor(ROW)), []
    adam = torch.optim.Adam([x], lr=lr, betas=(beta1, beta2), eps=tau)
    for d in torch.tensor(DELTAS):
        x.grad = -d
        adam.step()
        expected.append(x.detach().numpy().copy())
    found = trace(AdamCorrected(lr=lr, beta1=beta1, beta2=beta2, tau=tau))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert abs(found - trace(Adam(lr=lr, beta1=beta1, beta2=beta2, tau=tau))).max() > 0.01


def test_the_learning_rate_follows_the_schedule():
    """lr 0.4: half way along the cosine to zero, and 0.9^4 in round 5."""
    assert learning_rate(SGD(lr=0.4), 6, 10) == 0.4
    assert learning_rate(Yogi(lr=0.4, schedule=Cosine()), 6, 10) == pytest.approx(0.2)
    assert learning_rate(Momentum(lr=0.4, schedule=Exponential(decay=0.9)), 5, 10) == pytest.approx(0.4 * 0.9**4)


def test_the_first_step_of_adam_by_hand():
    """m = 0.1 * 0.5 = 0.05; v = 0.99 * 0.1^2 + 0.01 * 0.25 = 0.0124; 2 + 0.01 * 0.05 / (0.111355 + 0.1) = 2.0023657."""
    optimizer = Adam(lr=0.01, beta1=0.9, beta2=0.99, tau=0.1)
    row = torch.tensor([2.0], dtype=torch.float64)
    row, state = optimizer.step(row, torch.tensor([0.5], dtype=torch.float64), optimizer.init(row), 0.01)
    assert row.item() == pytest.approx(2.0023657, abs=1e-7)
    assert state["mean"].item() == pytest.approx(0.05)
    assert state["square"].item() == pytest.approx(0.0124)


def test_momentum_zero_is_sgd():
    np.testing.assert_array_equal(trace(Momentum(lr=0.3, beta=0.0)), trace(SGD(lr=0.3)))


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_an_accumulator_starts_where_it_is_told(start):
    """The first step of each rule by hand, from v0 with the delta d.

    v0 + d^2; b v0 + (1 - b) d^2; v0 - (1 - b) d^2 sign(v0 - d^2).
    """
    lr, beta, tau, d = 0.1, 0.6, 0.15, DELTAS[0]
    squares = {
        Adagrad(lr=lr, tau=tau, initial_square=start): start + d * d,
        Adam(lr=lr, beta1=0, beta2=beta, tau=tau, initial_square=start): beta * start + (1 - beta) * d * d,
        Yogi(lr=lr, beta1=0, beta2=beta, tau=tau, initial_square=start): start
        - (1 - beta) * d * d * np.sign(start - d * d),
    }
    for optimizer, v in squares.items():
        np.testing.assert_allclose(trace(optimizer)[0], ROW + lr * d / (np.sqrt(v) + tau), rtol=1e-14)


@pytest.mark.parametrize("optimizer", [SGD(), Momentum(), Adagrad(), Adam(), Yogi(), AdamCorrected()])
def test_what_goes_in_is_left_alone(optimizer):
    """A checkpoint or a comparison may still hold the row and the state of the round before."""
    row = torch.ones(3)
    state = optimizer.init(row)
    kept = {name: value.clone() for name, value in state.items()}
    new_row, new_state = optimizer.step(row, torch.full((3,), 0.5), state, 0.1)
    assert torch.equal(row, torch.ones(3))
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    assert new_row.dtype == torch.float32
    assert set(new_state) == set(state)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SGD, {"lr": 0}),
        (Momentum, {"beta": 1.0}),
        (Momentum, {"lr": -1}),
        (Adam, {"tau": 0}),
        (Adam, {"beta2": 1.0}),
        (Adam, {"lr": float("inf")}),
        (Adagrad, {"tau": 0}),
        (Adagrad, {"beta1": 1}),
        (Yogi, {"beta2": -0.1}),
        (Yogi, {"initial_square": -1e-9}),
        (Adam, {"initial_square": float("inf")}),
        (AdamCorrected, {"beta1": 1.0}),
    ],
)
def test_values_out_of_range_are_refused(kind, values):
    with pytest.raises(FieldError, match=next(iter(values))):
        kind(**values)
