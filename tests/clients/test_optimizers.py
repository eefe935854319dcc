"""Local optimizers on rows against `torch.optim` on one model at a time, over several steps at real values."""

import numpy as np
import pytest
import torch

from fedsim.clients.optimizers import SGD, Adam, AdamW
from fedsim.errors import FieldError

C, P, STEPS = 3, 11, 6

OPTIMIZERS = [
    SGD(lr=0.3),
    SGD(lr=0.1, weight_decay=0.05),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.8, weight_decay=0.02),
    SGD(lr=0.1, momentum=0.9, nesterov=True),
    SGD(lr=0.1, momentum=0.7, nesterov=True, weight_decay=0.02),
    Adam(lr=0.01),
    Adam(lr=0.1, beta1=0.5, beta2=0.8, eps=1e-3),
    Adam(lr=0.01, weight_decay=0.1),
    AdamW(lr=0.01),
    AdamW(lr=0.05, beta1=0.8, weight_decay=0.5),
]


def gradients(dtype=torch.float64):
    """Gradients of different sizes, some of them zero."""
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(STEPS, C, P, generator=rng, dtype=torch.float64)
    values *= 10.0 ** torch.linspace(-4, 2, P, dtype=torch.float64)
    values[:, :, 3] = 0
    return values.to(dtype)


def start(dtype=torch.float64):
    return torch.randn(C, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_steps_are_those_of_torch(optimizer, dtype, tolerance):
    rows, slopes = start(dtype), gradients(dtype)
    state = optimizer.state(rows)
    kind, arguments = optimizer.reference()
    parameters = [torch.nn.Parameter(row.clone()) for row in start(dtype)]
    theirs = [kind([parameter], lr=optimizer.lr, **arguments) for parameter in parameters]
    for slope in slopes:
        optimizer.step(rows, slope.clone(), state, optimizer.lr)
        for parameter, other, own in zip(parameters, theirs, slope, strict=True):
            parameter.grad = own.clone()
            other.step()
    moved = rows - start(dtype)
    expected = torch.stack([parameter.detach() for parameter in parameters]) - start(dtype)
    assert torch.all((moved - expected).norm(dim=1) <= tolerance * expected.norm(dim=1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_finished_client_does_not_move(optimizer):
    """The prefix of the clients that still train gets views; rows and state below it stay as they are, to the bit."""
    rows, slopes = start(), gradients()
    state = optimizer.state(rows)
    optimizer.step(rows, slopes[0].clone(), state, optimizer.lr)
    before = {name: value.clone() for name, value in {"rows": rows, **state}.items()}
    for active, slope in ((2, slopes[1]), (1, slopes[2])):
        optimizer.step(rows[:active], slope[:active].clone(), {k: v[:active] for k, v in state.items()}, optimizer.lr)
    for name, value in {"rows": rows, **state}.items():
        assert torch.equal(value[2], before[name][2])
        assert not torch.equal(value[0], before[name][0])


def test_sgd_by_hand():
    """g1 = 1, g2 = 2, momentum 0.5, decay 0.1, lr 0.1, from 1.

    Step 1: g = 1 + 0.1 * 1 = 1.1, v = 1.1, row = 1 - 0.11 = 0.89.
    Step 2: g = 2 + 0.089 = 2.089, v = 0.55 + 2.089 = 2.639, row = 0.89 - 0.2639 = 0.6261.
    """
    optimizer = SGD(lr=0.1, momentum=0.5, weight_decay=0.1)
    rows = torch.ones(1, 1, dtype=torch.float64)
    state = optimizer.state(rows)
    for value, expected in ((1.0, 0.89), (2.0, 0.6261)):
        optimizer.step(rows, torch.full_like(rows, value), state, 0.1)
        assert rows.item() == pytest.approx(expected, rel=1e-12)


def test_adam_in_numpy():
    """Kingma and Ba 2015, Algorithm 1, as printed; the correction is for each row's own number of steps."""
    optimizer = Adam(lr=0.02, beta1=0.8, beta2=0.95, eps=1e-6)
    rows = start()
    state = optimizer.state(rows)
    for step, slope in enumerate(gradients()):
        active = 1 + step // 2  # the second client joins two steps after the first, the third after four
        optimizer.step(rows[:active], slope[:active].clone(), {k: v[:active] for k, v in state.items()}, optimizer.lr)
    for client, missed in enumerate((0, 2, 4)):
        x, m, v = start()[client].numpy().copy(), np.zeros(P), np.zeros(P)
        for t in range(1, STEPS - missed + 1):
            g = gradients()[missed + t - 1, client].numpy()
            m = 0.8 * m + 0.2 * g
            v = 0.95 * v + 0.05 * g**2
            x -= 0.02 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        np.testing.assert_allclose(rows[client], x, rtol=1e-12)
        assert state["steps"][client].item() == STEPS - missed


def test_decoupled_decay():
    """Without a gradient AdamW shrinks a row by 1 - lr * decay a step, and Adam's L2 penalty moves it by about lr."""
    rows = torch.full((1, 2), 4.0, dtype=torch.float64)
    optimizer = AdamW(lr=0.1, weight_decay=0.5)
    optimizer.step(rows, torch.zeros_like(rows), optimizer.state(rows), 0.1)
    assert rows[0].tolist() == pytest.approx([3.8, 3.8])
    rows = torch.full((1, 2), 4.0, dtype=torch.float64)
    optimizer = Adam(lr=0.1, weight_decay=0.5)
    optimizer.step(rows, torch.zeros_like(rows), optimizer.state(rows), 0.1)
    assert rows[0].tolist() == pytest.approx([3.9, 3.9])


def test_the_learning_rate_of_a_step_is_what_it_is_given():
    for optimizer in OPTIMIZERS:
        rows = start()
        optimizer.step(rows, gradients()[0], optimizer.state(rows), 1e-30)
        torch.testing.assert_close(rows, start(), rtol=1e-25, atol=1e-25)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SGD, {"lr": 0.0}),
        (SGD, {"momentum": 1.0}),
        (SGD, {"nesterov": True}),
        (SGD, {"weight_decay": -1}),
        (Adam, {"beta1": 1.0}),
        (Adam, {"eps": 0}),
        (AdamW, {"beta2": -0.1}),
        (AdamW, {"lr": float("nan")}),
    ],
)
def test_values_out_of_range_are_refused(kind, values):
    with pytest.raises(FieldError, match=next(iter(values))):
        kind(**values)
