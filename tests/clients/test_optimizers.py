"""Local optimizers on rows against `torch.optim` on one model at a time, over several steps at real values."""

import numpy as np
import pytest
import torch

from fedsim.clients.optimizers import SGD, Adam, AdamW, step_of
from fedsim.errors import FieldError
from fedsim.models import numba_kernels, torch_kernels

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


@pytest.mark.parametrize("kernels", [torch_kernels, numba_kernels])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_steps_are_those_of_torch(optimizer, dtype, tolerance, kernels):
    take_step = step_of(optimizer, kernels)
    rows, slopes = start(dtype), gradients(dtype)
    state = optimizer.state(rows)
    kind, arguments = optimizer.reference()
    parameters = [torch.nn.Parameter(row.clone()) for row in start(dtype)]
    theirs = [kind([parameter], lr=optimizer.lr, **arguments) for parameter in parameters]
    for slope in slopes:
        take_step(rows, slope.clone(), state, optimizer.lr)
        for parameter, other, own in zip(parameters, theirs, slope, strict=True):
            parameter.grad = own.clone()
            other.step()
    moved = rows - start(dtype)
    expected = torch.stack([parameter.detach() for parameter in parameters]) - start(dtype)
    assert torch.all((moved - expected).norm(dim=1) <= tolerance * expected.norm(dim=1))


@pytest.mark.parametrize("kernels", [torch_kernels, numba_kernels])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_finished_client_does_not_move(optimizer, kernels):
    """The prefix of the clients that still train gets views; rows and state below it stay as they are, to the bit."""
    rows, slopes = start(), gradients()
    state = optimizer.state(rows)
    take_step = step_of(optimizer, kernels)
    take_step(rows, slopes[0].clone(), state, optimizer.lr)
    before = {name: value.clone() for name, value in {"rows": rows, **state}.items()}
    for active, slope in ((2, slopes[1]), (1, slopes[2])):
        take_step(rows[:active], slope[:active].clone(), {k: v[:active] for k, v in state.items()}, optimizer.lr)
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


@pytest.mark.parametrize("kernels", [torch_kernels, numba_kernels])
def test_adam_in_numpy(kernels):
    """Kingma and Ba 2015, Algorithm 1, as printed; the correction is for each row's own number of steps."""
    optimizer = Adam(lr=0.02, beta1=0.8, beta2=0.95, eps=1e-6)
    rows = start()
    state = optimizer.state(rows)
    for step, slope in enumerate(gradients()):
        active = 1 + step // 2  # the second client joins two steps after the first, the third after four
        mine = {name: value[:active] for name, value in state.items()}
        step_of(optimizer, kernels)(rows[:active], slope[:active].clone(), mine, optimizer.lr)
    for client, missed in enumerate((0, 2, 4)):
        x, m, v = start()[client].numpy().copy(), np.zeros(P), np.zeros(P)
        for t in range(1, STEPS - missed + 1):
            g = gradients()[missed + t - 1, client].numpy()
            m = 0.8 * m + 0.2 * g
            v = 0.95 * v + 0.05 * g**2
            x -= 0.02 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        np.testing.assert_allclose(rows[client], x, rtol=1e-12)
        assert state["steps"][client].item() == STEPS - missed


@pytest.mark.parametrize("count", [1, 8192, 8193, 20_001])
def test_the_kernel_of_adam_in_parts(count):
    """Rows of one item and of several, of which the last is smaller: the numbers of torch, whatever the threads."""
    draw = torch.Generator().manual_seed(count)
    rows, slope, mean = (torch.randn(5, count, generator=draw, dtype=torch.float64) for _ in range(3))
    square, steps = torch.rand(5, count, generator=draw, dtype=torch.float64), torch.arange(5.0)[:, None].double()
    optimizer, found = Adam(lr=0.01), []
    for kernels, threads in ((torch_kernels, 1), (numba_kernels, 1), (numba_kernels, 4)):
        numba_kernels.set_threads(threads)
        mine = {"mean": mean.clone(), "square": square.clone(), "steps": steps.clone()}
        moved = rows.clone()
        step_of(optimizer, kernels)(moved, slope.clone(), mine, 0.01)
        found.append((moved, *mine.values()))
    numba_kernels.set_threads(0)
    for expected, value, other in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-15)
        assert torch.equal(value, other)


def test_what_is_not_finite_stays_so():
    """NaN and infinite gradients show in the row, and in no other."""
    rows = torch.zeros(3, 40)
    slope = torch.ones(3, 40)
    slope[0, 7], slope[1, 33] = torch.nan, torch.inf
    optimizer = Adam(lr=0.01)
    step_of(optimizer, numba_kernels)(rows, slope, optimizer.state(rows), 0.01)
    assert rows.isfinite().sum(1).tolist() == [39, 39, 40]


def test_a_step_of_one_s_own_is_not_replaced():
    class Other(Adam):
        def step(self, rows, gradient, state, lr):
            raise NotImplementedError

    for optimizer in (Other(lr=0.01), SGD(lr=0.1)):
        assert step_of(optimizer, numba_kernels) == optimizer.step


def test_the_kernel_of_adam_refuses_other_shapes():
    rows = torch.zeros(2, 9)
    for wrong in (torch.zeros(2, 8), torch.zeros(2, 9, dtype=torch.float64), torch.zeros(9, 2).T):
        with pytest.raises(ValueError, match="expected rows"):
            numba_kernels.adam_step((rows, wrong, rows, rows), torch.ones(2, 2), (0.1, 0.9, 0.1, 1e-8))


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
