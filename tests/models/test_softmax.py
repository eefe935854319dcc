"""The kernels of heads, with few outputs and with many, and where they take part in training and evaluation."""

import math
from dataclasses import replace

import pytest
import torch

from fedsim.clients.engine import StackedEngine
from fedsim.data.dataset import Task, WordTokens
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models import numba_kernels, stacked
from fedsim.models.numba_kernels import head
from fedsim.models.numba_kernels.machine import VECTOR_BYTES


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


# many outputs: three blocks of predictions; whole chunks, and one more; few: one of everything; a vector of predictions
# that is not full; a block that is full, and two of them, the second one smaller; the most outputs
@pytest.mark.parametrize(
    "shape",
    [
        *((3, 301, 32, 1003), (2, 5, 16, 256), (1, 40, 48, 257)),
        *((1, 1, 16, 1), (4, 1, 16, 3), (2, 21, 32, 9), (3, 64, 16, 17), (2, 101, 48, 5), (1, 40, 48, 255)),
    ],
)
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


@pytest.mark.parametrize("shape", [(1, 1, 16, 1), (2, 21, 32, 3), (3, 64, 16, 1), (2, 101, 48, 5), (1, 9, 16, 300)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_squared_errors_are_those_of_autograd(shape, bias, dtype):
    """Targets are numbers: the weighted sum of squares over all outputs, whatever lies between the predictions."""
    features, models, _, shares = drawn(shape, dtype)
    width, tokens = shape[2:]
    targets = torch.randn(*shape[:2], tokens, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    exact, rows = features.double().requires_grad_(), models.double().requires_grad_()
    weight, biases = parts(rows, width, tokens)
    errors = exact @ weight.transpose(1, 2) + (biases[:, None] if bias else 0) - targets.double()
    loss = (errors.square().sum(2) * shares.double()).sum(1)
    loss.sum().backward()
    close = {"rtol": 1e-11, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 1e-5}
    weight, biases = parts(models, width, tokens)
    for threads in (1, 2):
        numba_kernels.set_threads(threads)
        written = torch.full_like(models, 7.0)
        into, into_bias = parts(written, width, tokens)
        got, d_got = numba_kernels.head_loss(
            features, weight, biases if bias else None, targets, shares, (into, into_bias if bias else None)
        )
        torch.testing.assert_close(got.double(), loss.detach(), **close)
        torch.testing.assert_close(d_got.double(), exact.grad, **close)
        end = tokens * width + (tokens if bias else 0)
        torch.testing.assert_close(written[:, :end].double(), rows.grad[:, :end], **close)
        assert bool((written[:, end:] == 7).all())


def test_targets_of_another_shape_are_refused():
    features, models, _, shares = drawn((2, 5, 16, 3), torch.float32)
    weight, _ = parts(models, 16, 3)
    for targets in (torch.zeros(2, 5, 2), torch.zeros(2, 4, 3), torch.zeros(2, 5, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match="expected targets"):
            numba_kernels.head_loss(features, weight, None, targets, shares, (torch.empty_like(weight), None))


@pytest.mark.parametrize("tokens", [3, 300])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_targets_that_are_no_outputs_are_refused(tokens, wrong):
    features, models, targets, shares = drawn((2, 5, 16, tokens), torch.float32)
    weight, _ = parts(models, 16, tokens)
    targets[1, 3] = -1 if wrong < 0 else tokens
    with pytest.raises(IndexError, match=f"where there are {tokens} outputs"):
        numba_kernels.head_loss(features, weight, None, targets, shares, (torch.empty_like(weight), None))
    targets[1, 3] = -2 if wrong < 0 else tokens
    with pytest.raises(IndexError, match=f"where there are {tokens} outputs"):
        numba_kernels.head_scores(features, weight, None, targets)


@pytest.mark.parametrize(("value", "shown"), [(torch.nan, torch.isnan), (torch.inf, torch.isnan)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tokens", [34, 70, 300])
def test_what_is_not_finite_shows(value, shown, dtype, tokens):
    """In the loss of the client that has it, whichever output it is in, and in no other's."""
    features, models, targets, shares = drawn((2, 9, 16, tokens), dtype)
    weight, biases = parts(models, 16, tokens)
    weight[1, 33, 2] = value
    shares[1] = 0.1
    into = parts(torch.empty_like(models), 16, tokens)
    loss, d_features = numba_kernels.head_loss(features, weight, biases, targets, shares, into)
    assert loss[0].isfinite()
    assert shown(loss[1])
    assert shown(d_features[1]).any()


@pytest.mark.parametrize("tokens", [7, 300])
def test_logits_far_apart(tokens):
    """The largest is 1,000 above the rest: a loss of 0 there, and of 1,000 for a target that is not the largest."""
    features = torch.ones(1, 2, 16)
    weight = torch.zeros(1, tokens, 16)
    weight[0, 5] = 1000 / 16
    targets, shares = torch.tensor([[5, 6]]), torch.tensor([[1.0, 0.5]])
    into = torch.empty_like(weight), None
    loss, _ = numba_kernels.head_loss(features, weight, None, targets, shares, into)
    assert loss.item() == 500.0
    expected = torch.zeros(tokens)
    expected[5], expected[6] = 0.5, -0.5  # p - 1 = 0 of the first; 0.5 (p - [target]) of the second
    torch.testing.assert_close(into[0][0], expected[:, None].expand(-1, 16), rtol=0, atol=1e-30)


@pytest.mark.parametrize(("tokens", "expected_loss"), [(12, math.log(12)), (300, 0.0)])
def test_logits_far_below(tokens, expected_loss):
    """All are -1.6e31, below anything that might fill up a row: they are equally likely, p = 1 / tokens.

    Of many, log(300) is added to the largest first, and is beyond the digits of 1.6e31.
    """
    features, weight = torch.ones(1, 1, 16), torch.full((1, tokens, 16), -1e30)
    into = torch.empty_like(weight), None
    loss, _ = numba_kernels.head_loss(features, weight, None, torch.tensor([[7]]), torch.ones(1, 1), into)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-6)
    expected = torch.full((tokens,), 1 / tokens)
    expected[7] -= 1
    torch.testing.assert_close(into[0][0], expected[:, None].expand(-1, 16), rtol=1e-5, atol=0)


def test_the_logarithm_of_a_softmax():
    """One output is above the others by x: log(1 + (count - 1) exp(-x)), between log(count) and 0, in float32.

    Each of the sum's additions rounds by up to 2^-24 of it, which the logarithm makes an absolute error; another 3e-7
    of the value are the last digits of the exponential and of the logarithm.
    """
    apart = torch.linspace(0, 20, 1001, dtype=torch.float64)
    for count in (2, 200):
        features = torch.zeros(1, 1001, 16)
        features[0, :, 0] = apart
        weight = torch.zeros(1, count, 16)
        weight[0, 0, 0] = 1
        targets, shares = torch.zeros(1, 1001, dtype=torch.int64), torch.zeros(1, 1001)
        expected = ((count - 1) * (-features[0, :, 0].double()).exp()).log1p()
        for place in range(0, 1001, 50):
            shares.zero_()[0, place] = 1
            loss, _ = numba_kernels.head_loss(features, weight, None, targets, shares, (torch.empty_like(weight), None))
            assert loss.item() == pytest.approx(expected[place].item(), rel=3e-7, abs=count * 2**-24)


def test_shapes_that_they_take():
    lanes = VECTOR_BYTES // 4
    assert head.fits(2 * lanes, torch.float32)
    assert not head.fits(2 * lanes + 1, torch.float32)
    assert numba_kernels.scores_fit(2 * lanes, 64, torch.float32)
    assert not numba_kernels.scores_fit(2 * lanes, 63, torch.float32)
    assert not numba_kernels.scores_fit(2 * lanes + 1, 64, torch.float32)


TIED = ("model.embedding_size=8", "model.head_projection=8", "model.tied_embeddings=true")


@pytest.mark.parametrize("fewest", [2, 256])
@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        (Task.SEQUENCE_LABELLING, ("model.head_projection=8",)),
        (Task.SEQUENCE_LABELLING, TIED),
        (Task.SEQUENCE_LABELLING, ("model.hidden_size=16", "model.bias=false")),
        (Task.CLASSIFICATION, ("model.hidden_size=8",)),
        (Task.REGRESSION, ("model.hidden_size=8",)),
        (Task.REGRESSION, ("model.hidden_size=8", "client.batch_size=7", "model.num_layers=2")),
        (Task.CLASSIFICATION, ("model.hidden_size=8", "client.class_weights=[1,3,0.5,2]", "client.batch_size=7")),
    ],
)
def test_training_with_them(tiny, monkeypatch, task, overrides, fewest):
    """By the kernel of few outputs or of many, and by torch's operations: the same deltas to rounding."""
    experiment = replace(tiny(*overrides, task=task), engine=StackedEngine(kernels="numba"))
    sim = prepare(experiment)
    state, clients = initial_state(sim), torch.arange(3)
    with monkeypatch.context() as without:
        without.setattr(numba_kernels, "head_fits", lambda *shape: False)
        expected, report = sim.trainer.train(state.row, clients, 1, state.store)
    seen = []
    monkeypatch.setattr(head, "MANY", fewest)
    real = numba_kernels.head_loss
    monkeypatch.setattr(numba_kernels, "head_loss", lambda *arguments: seen.append(1) or real(*arguments))
    deltas, same = sim.trainer.train(state.row, clients, 1, state.store)
    assert seen
    torch.testing.assert_close(deltas, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(same.train_loss, report.train_loss, rtol=1e-12, atol=0)


# one row of everything; three parts of unequal size, of more than a block each; a row of less than a chunk
@pytest.mark.parametrize("shape", [(1, 1, 16, 1), (1, 800, 32, 1003), (3, 301, 16, 65), (2, 5, 48, 17)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_are_those_of_all_outputs(shape, bias, dtype):
    """Against all outputs in float64; with two threads, and of one model for several clients, the same bytes."""
    features, models, targets, _ = drawn(shape, dtype)
    width, tokens = shape[2:]
    models = models[:1].expand(len(features), -1)
    weight, biases = parts(models, width, tokens)
    biases = biases if bias else None
    targets[:, ::3] = -1
    outputs = features.double() @ weight.double().transpose(1, 2) + (biases.double()[:, None] if bias else 0)
    counted, at = targets >= 0, targets.clamp(min=0)[..., None]
    expected = -outputs.log_softmax(2).gather(2, at)[..., 0] * counted
    results = []
    for threads, given in ((1, models), (2, models), (8, models.contiguous())):
        numba_kernels.set_threads(threads)
        weight, biases = parts(given, width, tokens)
        results.append(numba_kernels.head_scores(features, weight, biases if bias else None, targets))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    loss, hits, ahead = results[0]
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-5}
    torch.testing.assert_close(loss.double(), expected, **close)
    assert torch.equal(hits, (outputs.argmax(2) == targets) & counted)
    larger = (outputs > outputs.gather(2, at)).sum(2)
    apart = (outputs - outputs.gather(2, at)).abs().scatter(2, at, 1.0).amin(2) > 1e-5  # no rounding changes the order
    assert torch.equal(ahead[counted & apart], larger[counted & apart].to(dtype))
    assert bool((ahead[~counted] == tokens).all())
    assert apart.float().mean() > 0.9


def test_scores_of_ties_and_of_what_is_not_finite():
    """As ``argmax`` has it: the first of equal outputs, and NaN before any number. Features are 1, width is 16."""
    numbers = torch.tensor([0.0, 5, 5, 2, 5, *[-1] * 35])
    nan, inf = numbers.clone(), numbers.clone()
    nan[[2, 4]], inf[[2, 3]] = torch.nan, torch.tensor([-torch.inf, torch.inf])
    for row, cases in (
        (numbers, {1: (True, 0), 2: (False, 0), 4: (False, 0), 3: (False, 3), 0: (False, 4), 39: (False, 5)}),
        (nan, {1: (False, 0), 2: (True, 0), 4: (False, 0), 3: (False, 1)}),
        (inf, {3: (True, 0), 1: (False, 1), 2: (False, 39)}),
    ):
        weight = torch.zeros(1, 40, 16)
        targets = torch.tensor([[*cases]])
        features = torch.ones(1, len(cases), 16)
        _, hits, ahead = numba_kernels.head_scores(features, weight, row[None], targets)
        assert [*zip(hits[0].tolist(), ahead[0].tolist(), strict=True)] == [*cases.values()]
        assert hits[0].tolist() == (row.argmax() == targets[0]).tolist()
        assert ahead[0].tolist() == [(row > row[target]).sum().item() for target in cases]


@pytest.mark.parametrize("words", [None, WordTokens((1, 3), 4)])
@pytest.mark.parametrize("task", [Task.SEQUENCE_LABELLING, Task.CLASSIFICATION])
def test_evaluation_with_it(tiny, monkeypatch, task, words):
    """The global model and own ones, by this kernel and by torch's operations, padded steps and samples included."""
    sim = prepare(replace(tiny("model.head_projection=8", task=task), engine=StackedEngine(kernels="numba")))
    trainer = replace(sim.trainer, task=replace(sim.task, arch=replace(sim.task.arch, words=words)))
    row, clients, samples = initial_state(sim).row * 3, torch.arange(3), sim.population.test
    rows = row * torch.tensor([[1.0], [2.0], [-1.0]], dtype=row.dtype)

    def scored():
        sums = (trainer.score_samples(row, samples), trainer.score_clients(rows, clients, samples))
        return [column for one in sums for column in one.columns()]

    expected = scored()
    seen = []
    monkeypatch.setattr(head, "FEWEST_SCORED", 2)
    real = numba_kernels.head_scores
    monkeypatch.setattr(numba_kernels, "head_scores", lambda *arguments: seen.append(1) or real(*arguments))
    found = scored()
    assert len(seen) == 2
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    assert expected[3].shape[1] == (0 if words is None else 5)


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
