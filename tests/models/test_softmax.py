"""The kernel of heads with many outputs against autograd, and where it takes part in training."""

from dataclasses import replace

import pytest
import torch

from fedsim.clients.engine import StackedEngine
from fedsim.data.dataset import Task
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models import numba_kernels, stacked
from fedsim.models.numba_kernels import softmax


@pytest.fixture(autouse=True)
def _restore():
    yield
    numba_kernels.set_threads(0)


def drawn(shape, dtype):
    """Features, the rows of C clients (weights, biases and seven numbers more), targets and shares, some of them 0."""
    clients, rows, width, tokens = shape
    draw = torch.Generator().manual_seed(sum(shape))
    features = torch.randn(clients, rows, width, generator=draw, dtype=torch.float64).to(dtype)
    models = torch.randn(clients, tokens * width + tokens + 7, generator=draw, dtype=torch.float64).to(dtype) * 0.3
    targets = torch.randint(0, tokens, (clients, rows), generator=draw)
    shares = torch.rand(clients, rows, generator=draw, dtype=torch.float64).to(dtype) / rows
    shares[:, ::7] = 0
    return features, models, targets, shares


def parts(models, width, tokens):
    return models[:, : tokens * width].view(-1, tokens, width), models[:, tokens * width :][:, :tokens]


def by_autograd(features, models, targets, shares, tokens, bias):
    features, models = features.clone().requires_grad_(), models.clone().requires_grad_()
    weight, biases = parts(models, features.shape[2], tokens)
    outputs = features @ weight.transpose(1, 2) + (biases[:, None] if bias else 0)
    picked = outputs.log_softmax(2).gather(2, targets[..., None])[..., 0]
    loss = -(picked * shares).sum(1)
    loss.sum().backward()
    return loss.detach(), features.grad, models.grad


# one block of predictions and three; fewer tokens than a chunk, as many, and one more; one of everything
@pytest.mark.parametrize("shape", [(3, 301, 32, 1003), (2, 5, 16, 64), (1, 40, 48, 65), (4, 1, 16, 3), (1, 1, 16, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradients_are_those_of_autograd(shape, bias, dtype):
    """Nothing beside the gradients is written: the numbers after a client's part keep their value, 7."""
    features, models, targets, shares = drawn(shape, dtype)
    width, tokens = shape[2:]
    exact = (features.double(), models.double(), targets, shares.double())
    loss, d_features, d_models = by_autograd(*exact, tokens, bias)
    weight, biases = parts(models, width, tokens)
    close = {"rtol": 1e-11, "atol": 1e-15} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 1e-6}
    for threads in (1, 2):
        numba_kernels.set_threads(threads)
        written = torch.full_like(models, 7.0)
        into, into_bias = parts(written, width, tokens)
        got, d_got = numba_kernels.head_loss(
            features, weight, biases if bias else None, targets, shares, (into, into_bias if bias else None)
        )
        torch.testing.assert_close(got.double(), loss, **close)
        torch.testing.assert_close(d_got.double(), d_features, **close)
        end = tokens * width + (tokens if bias else 0)
        torch.testing.assert_close(written[:, :end].double(), d_models[:, :end], **close)
        assert bool((written[:, end:] == 7).all())


@pytest.mark.parametrize(("value", "shown"), [(torch.nan, torch.isnan), (torch.inf, torch.isnan)])
def test_what_is_not_finite_shows(value, shown):
    features, models, targets, shares = drawn((2, 9, 16, 70), torch.float32)
    weight, biases = parts(models, 16, 70)
    weight[1, 33, 2] = value
    shares[1] = 0.1
    into = parts(torch.empty_like(models), 16, 70)
    loss, d_features = numba_kernels.head_loss(features, weight, biases, targets, shares, into)
    assert loss[0].isfinite()
    assert shown(loss[1])
    assert shown(d_features[1]).any()


def test_logits_far_apart():
    """The largest is 1,000 above the rest: a loss of 0 there, and of 1,000 for a target that is not the largest."""
    features = torch.ones(1, 2, 16)
    weight = torch.zeros(1, 300, 16)
    weight[0, 5] = 1000 / 16
    targets, shares = torch.tensor([[5, 6]]), torch.tensor([[1.0, 0.5]])
    into = torch.empty_like(weight), None
    loss, _ = numba_kernels.head_loss(features, weight, None, targets, shares, into)
    assert loss.item() == 500.0
    expected = torch.zeros(300)
    expected[5], expected[6] = 0.5, -0.5  # p - 1 = 0 of the first; 0.5 (p - [target]) of the second
    torch.testing.assert_close(into[0][0], expected[:, None].expand(-1, 16), rtol=0, atol=1e-30)


def test_logits_far_below():
    """All are -1.6e31, below anything that might fill up a row: they are equally likely, p = 1/300."""
    features, weight = torch.ones(1, 1, 16), torch.full((1, 300, 16), -1e30)
    into = torch.empty_like(weight), None
    loss, _ = numba_kernels.head_loss(features, weight, None, torch.tensor([[7]]), torch.ones(1, 1), into)
    assert loss.item() == 0.0  # log(300) is beyond the digits of 1.6e31
    expected = torch.full((300,), 1 / 300)
    expected[7] -= 1
    torch.testing.assert_close(into[0][0], expected[:, None].expand(-1, 16), rtol=1e-5, atol=0)


def test_shapes_that_it_takes():
    lanes = softmax.VECTOR_BYTES // 4
    assert softmax.fits(2 * lanes, 256, torch.float32)
    assert not softmax.fits(2 * lanes, 255, torch.float32)
    assert not softmax.fits(2 * lanes + 1, 256, torch.float32)


TIED = ("model.embedding_size=8", "model.head_projection=8", "model.tied_embeddings=true")


@pytest.mark.parametrize(
    "overrides", [("model.head_projection=8",), TIED, ("model.hidden_size=16", "model.bias=false")]
)
def test_training_with_it(tiny, monkeypatch, overrides):
    """A tiny text, taken by this kernel and by torch's operations: the same deltas to rounding."""
    experiment = replace(tiny(*overrides, task=Task.SEQUENCE_LABELLING), engine=StackedEngine(kernels="numba"))
    sim = prepare(experiment)
    state, clients = initial_state(sim), torch.arange(3)
    expected, report = sim.trainer.train(state.row, clients, 1, state.store)
    seen = []
    monkeypatch.setattr(softmax, "FEWEST_TOKENS", 2)
    real = numba_kernels.head_loss
    monkeypatch.setattr(numba_kernels, "head_loss", lambda *arguments: seen.append(1) or real(*arguments))
    deltas, same = sim.trainer.train(state.row, clients, 1, state.store)
    assert seen
    torch.testing.assert_close(deltas, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(same.train_loss, report.train_loss, rtol=1e-12, atol=0)


def test_embeddings_of_many_tokens(tiny, monkeypatch):
    """More tokens than a batch has steps: embeddings are looked up one by one, and their gradients added one by one."""
    sim = prepare(replace(tiny(task=Task.SEQUENCE_LABELLING), engine=StackedEngine(kernels="torch")))
    arch = sim.task.arch
    tokens, targets = torch.tensor([[[3, 1, 3]], [[0, 0, 0]]]), torch.tensor([[[1, 3, 1]], [[0, 0, 2]]])
    batch = stacked.Batch(tokens, torch.full((2, 1), 3), targets, None, False)
    assert arch.vocabulary_size > 3
    table = torch.randn(2, arch.vocabulary_size, 4, dtype=torch.float64)
    found = stacked._embedded(table, batch)
    assert found.shape == (2, 3, 1, 4)
    for client in range(2):
        assert torch.equal(found[client, :, 0], table[client][batch.inputs[client, 0]])
    into = torch.full_like(table, 7.0)
    slopes = torch.randn(2, 3, 1, 4, dtype=torch.float64)
    stacked._embedding_gradient(slopes, None, batch, into)
    expected = torch.zeros_like(table)
    for client in range(2):
        for step, token in enumerate(batch.inputs[client, 0].tolist()):
            expected[client, token] += slopes[client, step, 0]
    assert torch.equal(into, expected)
