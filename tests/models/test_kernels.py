"""The fused CPU kernels against the torch kernels, and both against autograd through the reference model."""

import itertools

import pytest
import torch
from torch import Tensor

from fedsim.data.dataset import Task
from fedsim.models import numba_kernels, torch_kernels
from fedsim.models.numba_kernels import plans
from fedsim.models.recurrent import CIFG, GRU, LSTM, RNN, Architecture, GRUResetBefore
from fedsim.models.reference import ReferenceModel
from fedsim.models.torch_kernels import Gradients, StateGradient, Weights

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "cifg": 3, "gru": 3, "gru_reset_before": 3}
KINDS = [*GATES, "lstm projected", "cifg projected"]
DTYPES = [torch.float32, torch.float64]
# C, b, T, D, H: ordinary, odd everything, ones, H over two vectors and a bit, more rows than one block of steps
SHAPES = [(3, 8, 6, 4, 16), (2, 7, 5, 3, 7), (1, 1, 1, 1, 1), (2, 13, 4, 33, 50), (1, 40, 9, 2, 19)]


class Case:
    """Inputs, weights, lengths and state gradients drawn for one shape.

    A ``projected`` cell has a state of two thirds of its units, of which it needs two.
    """

    def __init__(self, kind: str, shape: tuple[int, ...], dtype: torch.dtype, bias: bool = True) -> None:
        c, b, steps, d, hidden = shape
        cell, _, projected = kind.partition(" ")
        hidden = max(hidden, 2) if projected else hidden
        state = max(1, 2 * hidden // 3) if projected else hidden
        draw = torch.Generator().manual_seed(sum(shape))
        rows = GATES[cell] * hidden

        def uniform(*size: int) -> Tensor:
            return (torch.rand(*size, generator=draw, dtype=torch.float64) * 2 - 1).mul(hidden**-0.5).to(dtype)

        self.cell = cell
        self.x = torch.randn(c, steps, b, d, generator=draw, dtype=torch.float64).to(dtype)
        biases = (uniform(c, rows), uniform(c, rows)) if bias else (None, None)
        down = uniform(c, state, hidden) if projected else None
        self.weights = Weights(uniform(c, rows, d), uniform(c, rows, state), *biases, down)
        self.lengths = torch.randint(1, steps + 1, (c, b), generator=draw)
        self.every = torch.randn(c, steps, b, state, generator=draw, dtype=torch.float64).to(dtype)
        self.last = torch.randn(c, b, state, generator=draw, dtype=torch.float64).to(dtype)
        self.valid = (torch.arange(steps)[None, :, None] < self.lengths[:, None, :])[..., None]

    def gradient(self, kind: str) -> StateGradient:
        every = None if kind == "last" else self.every
        return StateGradient(every, None if kind == "every" else self.last, self.lengths)

    def run(self, kernels, gradient: StateGradient, need_x: bool = True, **options) -> tuple[Tensor, Gradients]:
        states, saved = kernels.forward(self.cell, self.x, self.weights, **options)
        return states, kernels.backward(self.cell, self.x, self.weights, states, saved, gradient, need_x)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, torch's threads wait for busy cores when tests run side by side
    numba_kernels.set_threads(1)
    yield
    numba_kernels.set_threads(0)
    torch.set_num_threads(before)


def flat(result: tuple[Tensor, Gradients]) -> dict[str, Tensor]:
    states, gradients = result
    named = {"states": states, "x": gradients.x, **gradients.weights._asdict()}
    return {name: value for name, value in named.items() if value is not None}


def assert_close(result: tuple[Tensor, Gradients], expected: tuple[Tensor, Gradients], slack: float = 1) -> None:
    """Each client's row of every result, relative to its norm."""
    result, expected = flat(result), flat(expected)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = slack * (2e-6 if value.dtype == torch.float32 else 1e-12)
        error = (result[name] - value).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1).clamp_min(1e-3)
        assert error.max() <= tolerance, name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", KINDS)
def test_agrees_with_torch_kernels(cell, dtype, bias):
    for shape, kind in itertools.product(SHAPES, ["every", "last", "both"]):
        case = Case(cell, shape, dtype, bias)
        gradient = case.gradient(kind)
        assert_close(case.run(numba_kernels, gradient), case.run(torch_kernels, gradient))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", KINDS)
def test_lengths_skip_padded_steps(cell, dtype):
    for shape in SHAPES:
        case = Case(cell, shape, dtype)
        # A padded step's state is zero instead of computed, and its gradient counts for nothing.
        gradient = StateGradient(case.every, case.last, case.lengths)
        states, gradients = case.run(numba_kernels, gradient, lengths=case.lengths)
        masked = StateGradient(case.every * case.valid, case.last, case.lengths)
        expected_states, expected = case.run(torch_kernels, masked)
        expected_states[:, 1:] *= case.valid
        assert_close((states, gradients), (expected_states, expected))


@pytest.mark.parametrize("kernels", [numba_kernels, torch_kernels])
@pytest.mark.parametrize(
    "model",
    [
        RNN(hidden_size=9),
        RNN(hidden_size=9, nonlinearity="relu"),
        LSTM(hidden_size=9),
        CIFG(hidden_size=9),
        GRU(hidden_size=9, bias=False),
        GRU(hidden_size=9),
        GRUResetBefore(hidden_size=9),
        LSTM(hidden_size=9, recurrent_projection=6),
        LSTM(hidden_size=9, recurrent_projection=6, bias=False),
        CIFG(hidden_size=9, recurrent_projection=6),
    ],
)
def test_agrees_with_autograd(model, kernels):
    """Through ``torch.nn``'s own modules where it has them, ``LSTM(proj_size=)`` among them."""
    kind = model.cell if model.projection is None else f"{model.cell} projected"
    case = Case(kind, (2, 5, 6, 3, 9), torch.float64, model.bias)
    arch = Architecture(model, 3, None, 2, Task.CLASSIFICATION)
    rows = []
    for client in range(2):
        layer = ReferenceModel(arch).double().layers[0]
        parameters = [value[client] for value in case.weights if value is not None]
        for parameter, value in zip(layer.parameters(), parameters, strict=True):
            parameter.data.copy_(value)
        x = case.x[client].transpose(0, 1).clone().requires_grad_()
        states, _ = layer(x)  # [b, T, H]
        last = states[torch.arange(5), case.lengths[client] - 1]
        loss = (states * case.every[client].transpose(0, 1)).sum() + (last * case.last[client]).sum()
        gradients = torch.autograd.grad(loss, [x, *layer.parameters()])
        initial = torch.zeros(1, 5, states.shape[2], dtype=torch.float64)
        padded = torch.cat([initial, states.detach().transpose(0, 1)])
        rows.append([padded, gradients[0].transpose(0, 1), *gradients[1:]])
    expected = [torch.stack(values) for values in zip(*rows, strict=True)]
    result = flat(case.run(kernels, case.gradient("both"))).values()
    for value, wanted in zip(result, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", KINDS)
def test_threads_change_rounding_at_most(cell):
    case = Case(cell, (3, 16, 12, 5, 24), torch.float32)
    # The smallest work is not worth a second thread; make this large enough by repeating clients.
    wide = Case(cell, (65, 16, 16, 40, 40), torch.float32)
    for one in (case, wide):
        single = one.run(numba_kernels, one.gradient("last"))
        numba_kernels.set_threads(2)
        double = one.run(numba_kernels, one.gradient("last"))
        again = one.run(numba_kernels, one.gradient("last"))
        numba_kernels.set_threads(1)
        assert_close(double, single)
        assert all(torch.equal(a, b) for a, b in zip(flat(double).values(), flat(again).values(), strict=True))


@pytest.mark.parametrize("cell", KINDS)
def test_few_clients_share_their_samples(cell):
    case = Case(cell, (1, 33, 5, 40, 70), torch.float32)
    expected = case.run(torch_kernels, case.gradient("both"))
    for threads in (1, 2, 3, 8):
        numba_kernels.set_threads(threads)
        assert_close(case.run(numba_kernels, case.gradient("both")), expected)
        states, gradients = case.run(numba_kernels, case.gradient("last"), lengths=case.lengths)
        wanted_states, wanted = case.run(torch_kernels, case.gradient("last"))
        wanted_states[:, 1:] *= case.valid
        assert_close((states, gradients), (wanted_states, wanted))


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "cifg projected"])
def test_large_layers(cell):
    """Their backward pass has longer blocks of steps: two of them here, 13 and 3 steps of 24 samples."""
    case = Case(cell, (1, 24, 16, 8, 520), torch.float32)
    assert case.weights.w_hh[0].numel() > plans._LARGE
    assert_close(case.run(numba_kernels, case.gradient("both")), case.run(torch_kernels, case.gradient("both")), 2)


@pytest.mark.parametrize("cell", KINDS)
def test_a_client_without_any_step_has_gradients_of_zero(cell):
    """Whatever an earlier call has left in the scratch memory."""
    case = Case(cell, (3, 7, 5, 4, 19), torch.float64)
    case.run(numba_kernels, case.gradient("both"))
    case.lengths[1] = 0
    _, gradients = case.run(numba_kernels, case.gradient("both"), lengths=case.lengths)
    for value in (gradients.x, *gradients.weights):
        if value is not None:
            assert not value[1].any()
            assert value[[0, 2]].flatten(1).any(1).all()


@pytest.mark.parametrize("cell", KINDS)
def test_reads_views_and_leaves_inputs_alone(cell):
    case = Case(cell, (2, 5, 6, 16, 16), torch.float32)
    expected = case.run(numba_kernels, case.gradient("every"))
    # As the trainer has them: weights are slices of wide rows, the input is a slice of the states below.
    weights = [w for w in case.weights if w is not None]
    rows = torch.cat([torch.full((2, 3), torch.nan), *(w.flatten(1) for w in weights)], 1)
    parts = rows[:, 3:].split([w[0].numel() for w in weights], 1)
    below = torch.cat([torch.full((2, 1, 5, 16), torch.nan), case.x], 1)
    case.x = below[:, 1:]
    case.weights = Weights(*(part.view(w.shape) for part, w in zip(parts, weights, strict=True)))
    kept = rows.clone(), below.clone()
    result = case.run(numba_kernels, case.gradient("every"))
    assert all(torch.equal(a, b) for a, b in zip(flat(result).values(), flat(expected).values(), strict=True))
    assert torch.equal(rows[:, 3:], kept[0][:, 3:])
    assert torch.equal(below[:, 1:], kept[1][:, 1:])


def test_results_outlive_the_next_call():
    first, second = Case("gru", (3, 8, 6, 4, 16), torch.float32), Case("gru", (4, 9, 7, 5, 16), torch.float32)
    states, saved = numba_kernels.forward("gru", first.x, first.weights)
    kept = states.clone()
    numba_kernels.backward(
        "gru",
        second.x,
        second.weights,
        *numba_kernels.forward("gru", second.x, second.weights),
        second.gradient("last"),
        True,
    )
    assert torch.equal(states, kept)
    result = numba_kernels.backward("gru", first.x, first.weights, states, saved, first.gradient("last"), True)
    assert_close((states, result), first.run(torch_kernels, first.gradient("last")))


@pytest.mark.parametrize("cell", ["gru", "lstm projected"])
@pytest.mark.parametrize("clients", [1, 4])
def test_gradients_go_where_they_are_wanted(clients, cell):
    numba_kernels.set_threads(2)
    case = Case(cell, (clients, 16, 6, 16, 16), torch.float32)
    weights = [w for w in case.weights if w is not None]
    row = torch.full((clients, 3 + sum(w[0].numel() for w in weights)), torch.nan)
    parts = row[:, 3:].split([w[0].numel() for w in weights], 1)
    into = Weights(*(part.view(w.shape) for part, w in zip(parts, weights, strict=True)))
    states, saved = numba_kernels.forward(case.cell, case.x, case.weights)
    arguments = case.cell, case.x, case.weights, states, saved, case.gradient("last")
    expected = numba_kernels.backward(*arguments, need_x=True)
    result = numba_kernels.backward(*arguments, need_x=True, into=into)
    assert result.weights is into
    assert all(torch.equal(into[i], expected.weights[i]) for i in range(len(weights)))
    assert row[:, :3].isnan().all()


def test_x_gradient_only_if_wanted():
    case = Case("lstm", (2, 3, 4, 5, 6), torch.float64)
    _, gradients = case.run(numba_kernels, case.gradient("last"), need_x=False)
    assert gradients.x is None
    _, expected = case.run(torch_kernels, case.gradient("last"), need_x=False)
    torch.testing.assert_close(gradients.weights.w_ih, expected.weights.w_ih)


PLACES = [(cell, where) for cell in KINDS for where in ("x", "w_ih", "w_hh", "b_ih", "last")]
PLACES += [(cell, "w_hr") for cell in KINDS if "projected" in cell]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("cell", "where"), PLACES)
def test_what_is_not_finite_shows_and_stays_with_its_client(cell, value, where):
    for hidden in (16, 11):
        case = Case(cell, (3, 5, 6, 4, hidden), torch.float32)
        clean = flat(case.run(numba_kernels, case.gradient("last")))
        target = {"x": case.x, "last": case.last, **case.weights._asdict()}[where]
        target[1].view(-1)[0] = value
        result = flat(case.run(numba_kernels, case.gradient("last")))
        expected = flat(case.run(torch_kernels, case.gradient("last")))
        for name, values in expected.items():
            assert torch.equal(result[name][[0, 2]], clean[name][[0, 2]]), name
            if not values[1].isfinite().all():
                assert not result[name][1].isfinite().all(), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_gates_saturate(dtype):
    for cell, scale in itertools.product(KINDS, [30.0, 1e4]):
        case = Case(cell, (2, 3, 2, 4, 8), dtype)
        case.x *= scale
        # Where a gate is nearly shut, 1 - z is a difference of almost equal numbers.
        assert_close(case.run(numba_kernels, case.gradient("last")), case.run(torch_kernels, case.gradient("last")), 10)


def test_compiled_is_known():
    case = Case("gru", (1, 1, 1, 1, 1), torch.float32)
    case.run(numba_kernels, case.gradient("last"))
    assert numba_kernels.compiled("gru", torch.float32)


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="float16"):
        numba_kernels.compiled("gru", torch.float16)


def test_wrong_shapes_are_refused():
    case = Case("gru", (2, 3, 4, 5, 6), torch.float32)
    with pytest.raises(ValueError, match=r"expected \[2, 18, 5\]"):
        numba_kernels.forward("gru", case.x, case.weights._replace(w_ih=case.weights.w_ih[:, :, :4]))
    with pytest.raises(ValueError, match=r"expected \[2, 18, 6\]"):
        numba_kernels.forward("gru", case.x, case.weights._replace(w_hh=case.weights.w_hh[:, :, :5]))
    wide = Case("lstm projected", (2, 3, 4, 5, 6), torch.float32)
    with pytest.raises(ValueError, match=r"expected \[2, 24, 3\]"):
        numba_kernels.forward("lstm", wide.x, wide.weights._replace(w_hr=wide.weights.w_hr[:, :3]))
    with pytest.raises(ValueError, match="fewer than the 6 units after a projection, not 6"):
        numba_kernels.forward("lstm", wide.x, wide.weights._replace(w_hr=torch.zeros(2, 6, 6)))
    with pytest.raises(ValueError, match="int64"):
        numba_kernels.forward("gru", case.x, case.weights, case.lengths.int())


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 40, 30, 2, 5)])  # the last: ten blocks of steps
def test_without_a_backward_pass_the_states_are_the_same_bytes(cell, shape):
    for threads in (1, 2):
        numba_kernels.set_threads(threads)
        case = Case(cell, shape, torch.float32)
        for lengths in (None, case.lengths):
            kept, saved = numba_kernels.forward(case.cell, case.x, case.weights, lengths)
            states, left = numba_kernels.forward(case.cell, case.x, case.weights, lengths, keep=False)
            assert torch.equal(states, kept)
            assert saved[0].numel() > 0
            assert left[0].numel() == 0
