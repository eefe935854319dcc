"""Loss and gradient of a stack of models against autograd through the reference module, one client at a time."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fedsim
from fedsim.clients.engine import load_kernels
from fedsim.data.batches import Batch
from fedsim.data.dataset import IGNORE, Task
from fedsim.models import stacked, torch_kernels
from fedsim.models.recurrent import CIFG, GRU, LSTM, RNN, Architecture, GRUResetBefore
from fedsim.models.reference import ReferenceModel, load_row

_NUMBA = Path(fedsim.__file__).parent / "models" / "numba_kernels" / "__init__.py"
KERNELS = [
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(not _NUMBA.exists(), reason="there are no numba kernels yet")),
]
pytestmark = pytest.mark.usefixtures("one_thread")

C, B, T, D, V, K, H = 3, 4, 5, 3, 7, 4, 6
CELLS = {
    "rnn_tanh": (RNN, {}),
    "rnn_relu": (RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, {}),
    "cifg": (CIFG, {}),
    "gru": (GRU, {}),
    "gru_reset_before": (GRUResetBefore, {}),
}


def arch_of(cell, task, tokens, **settings):
    kind, extra = CELLS[cell]
    return Architecture(kind(hidden_size=H, **extra, **settings), 0 if tokens else D, V if tokens else None, K, task)


def case(arch, seed=0):
    """Rows and a batch with sequences of all lengths, clients with 4, 2 and 1 real samples, and ignored targets."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(C, arch.layout.num_parameters, generator=rng, dtype=torch.float64) * 0.5
    shape = (C, B, T)
    if arch.vocabulary_size is not None:
        inputs = torch.randint(0, V, shape, generator=rng)
    else:
        inputs = torch.randn(*shape, D, generator=rng, dtype=torch.float64)
    lengths = torch.randint(1, T + 1, (C, B), generator=rng)
    lengths[0, 0] = T
    real = torch.arange(B) < torch.tensor([4, 2, 1])[:, None]
    if arch.task is Task.REGRESSION:
        targets = torch.randn(C, B, K, generator=rng, dtype=torch.float64)
    elif arch.task is Task.CLASSIFICATION:
        targets = torch.randint(0, K, (C, B), generator=rng)
    else:
        targets = torch.randint(0, K, shape, generator=rng)
        targets[torch.arange(T) >= lengths[..., None]] = IGNORE
        targets[0, 1, 0] = IGNORE
    return rows, Batch(inputs, lengths, targets, real)


def reference(arch, rows, batch, dropout=None):
    """Each client's loss and gradient by autograd, from its real samples alone."""
    losses, gradients = [], []
    for client in range(C):
        kept = slice(None) if batch.real is None else batch.real[client]
        module = ReferenceModel(arch).double()
        load_row(module, arch, rows[client])

        def mask(layer, t_max, b, client=client, kept=kept):
            return dropout(layer, t_max, B)[client : client + 1, :, kept]

        masks = None if dropout is None else mask
        outputs = module(batch.inputs[client, kept], batch.lengths[client, kept], masks)
        targets = batch.targets[client, kept]
        if arch.task is Task.REGRESSION:
            loss = nn.functional.mse_loss(outputs, targets)
        else:
            loss = nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORE)
        gradient = torch.autograd.grad(loss, module.parameters_in_order())
        losses.append(loss.detach())
        gradients.append(torch.cat([g.flatten() for g in gradient]))
    return torch.stack(losses), torch.stack(gradients)


def loss_and_gradient(arch, rows, batch, kernels, dropout, gradient):
    views, grads = arch.layout.views(rows), arch.layout.views(gradient)
    return stacked.loss_and_gradient(arch, views, batch, kernels, dropout, grads)


def check(arch, rows, batch, kernels=torch_kernels, dropout=None):
    """Float64: a hundred products of some ten terms each lose at most three of sixteen digits."""
    gradient = torch.full_like(rows, float("nan"))
    loss = loss_and_gradient(arch, rows, batch, kernels, dropout, gradient)
    expected_loss, expected = reference(arch, rows, batch, dropout)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=0)
    assert torch.all((gradient - expected).norm(dim=1) <= 1e-13 * expected.norm(dim=1))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("cell", CELLS)
def test_gradient(cell, task, tokens, bias, layers):
    arch = arch_of(cell, task, tokens, bias=bias, num_layers=layers)
    check(arch, *case(arch))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("cell", ["lstm", "cifg"])
def test_gradient_with_a_recurrent_projection(cell, task, layers, bias, kernels):
    arch = arch_of(cell, task, False, num_layers=layers, bias=bias, recurrent_projection=4)
    check(arch, *case(arch), load_kernels(kernels))


@pytest.mark.parametrize("kernels", KERNELS)
def test_gradient_with_everything_that_projects(kernels):
    """Dropout acts on the states of width 3, which are the head's features through a dense layer of width 5."""
    model = CIFG(
        **{"hidden_size": H, "num_layers": 3, "dropout": 0.5, "gate_biases": 1, "recurrent_projection": 3},
        **{"head_projection": 5, "embedding_size": 5, "tied_embeddings": True, "head_activation": "tanh"},
    )
    arch = Architecture(model, 0, K, K, Task.SEQUENCE_LABELLING)
    rows, batch = case(arch)
    rng = torch.Generator().manual_seed(3)
    masks = 2.0 * (torch.rand(2, C, T, B, 3, generator=rng, dtype=torch.float64) < 0.5)
    batch = Batch(batch.inputs % K, batch.lengths, batch.targets, batch.real)
    check(arch, rows, batch, load_kernels(kernels), lambda layer, t_max, b: masks[layer])


BOTH_WAYS = {
    "last": {},
    "two layers, no bias": {"num_layers": 2, "bias": False},
    "attention": {"num_layers": 2, "pooling": "attention", "gate_biases": 1},
    "max": {"pooling": "max", "head_projection": 5},
}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("name", BOTH_WAYS)
@pytest.mark.parametrize("cell", ["rnn_tanh", "cifg", "gru"])
def test_gradient_of_layers_that_read_both_ways(cell, name, tokens, kernels):
    arch = arch_of(cell, Task.CLASSIFICATION, tokens, bidirectional=True, **BOTH_WAYS[name])
    check(arch, *case(arch), load_kernels(kernels))


@pytest.mark.parametrize("kernels", KERNELS)
def test_gradient_both_ways_with_projection_and_dropout(kernels):
    arch = arch_of(
        "lstm", Task.REGRESSION, False, num_layers=3, dropout=0.5, recurrent_projection=2, bidirectional=True
    )
    rng = torch.Generator().manual_seed(3)
    masks = 2.0 * (torch.rand(2, C, T, B, 4, generator=rng, dtype=torch.float64) < 0.5)
    check(arch, *case(arch), load_kernels(kernels), lambda layer, t_max, b: masks[layer])


HEADS = {
    "dense layer": {"head_projection": 5},
    "dense layer with tanh": {"head_projection": 9, "head_activation": "tanh"},
    "dense layer without bias": {"head_projection": 5, "head_activation": "tanh", "bias": False},
    "mean": {"pooling": "mean"},
    "max": {"pooling": "max", "head_projection": 5},
    "attention": {"pooling": "attention", "num_layers": 2},
    "one bias per gate": {"gate_biases": 1, "num_layers": 2},
}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("cell", ["cifg", "gru"])
def test_gradient_of_what_is_around_the_layers(cell, name, task, kernels):
    if task is Task.SEQUENCE_LABELLING and "pooling" in HEADS[name]:
        pytest.skip("there is a prediction at every step")
    arch = arch_of(cell, task, tokens=task is Task.SEQUENCE_LABELLING, **HEADS[name])
    check(arch, *case(arch), load_kernels(kernels))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_pooling_by_hand(pooling, kernels):
    """Of the states of the reference's layer, sample by sample, without the steps beyond a sequence's end."""
    arch = arch_of("gru", Task.REGRESSION, False, pooling=pooling)
    rows, batch = case(arch)
    views = arch.layout.views(rows)
    outputs = stacked.outputs_of(arch, views, batch, load_kernels(kernels))
    for client, sample in itertools.product(range(C), range(B)):
        if not batch.real[client, sample]:
            continue
        module = ReferenceModel(arch).double()
        load_row(module, arch, rows[client])
        length = int(batch.lengths[client, sample])
        states = module.layers[0](batch.inputs[client, sample, :length])[0].detach().numpy()
        if pooling == "mean":
            expected = states.mean(0)
        elif pooling == "max":
            expected = states.max(0)
        else:
            scores = np.exp(states @ views["pooling.weight"][client, 0].numpy())
            expected = scores @ states / scores.sum()
        head = views["head.weight"][client].numpy(), views["head.bias"][client].numpy()
        np.testing.assert_allclose(outputs[client, sample].numpy(), head[0] @ expected + head[1], rtol=1e-12)


def test_steps_that_share_a_maximum_share_its_gradient():
    """A ReLU network that is shut: every state is 0, the largest of all; the head's bias alone moves."""
    arch = arch_of("rnn_relu", Task.CLASSIFICATION, False, pooling="max")
    rows, batch = case(arch)
    for view in arch.layout.views(rows)["recurrent.bias_ih_l0"]:
        view.fill_(-100.0)
    check(arch, rows, batch)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("projection", [None, 5])
@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.SEQUENCE_LABELLING])
def test_gradient_of_an_embedding_that_is_the_head(task, projection, bias):
    """Tokens of the batch get gradients from both sides, all others of the vocabulary from the head alone."""
    size = projection or H
    model = LSTM(hidden_size=H, embedding_size=size, tied_embeddings=True, head_projection=projection, bias=bias)
    arch = Architecture(model, 0, K, K, task)  # labels are tokens
    rows, batch = case(arch)
    check(arch, rows, Batch(batch.inputs % K, batch.lengths, batch.targets, batch.real))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
def test_gradient_with_dropout(cell, kernels):
    arch = arch_of(cell, Task.CLASSIFICATION, True, num_layers=3, dropout=0.5)
    rng = torch.Generator().manual_seed(3)
    masks = 2.0 * (torch.rand(2, C, T, B, H, generator=rng, dtype=torch.float64) < 0.5)
    check(arch, *case(arch), load_kernels(kernels), lambda layer, t_max, b: masks[layer])


def test_gradient_of_whole_batches():
    arch = arch_of("gru", Task.CLASSIFICATION, False)
    rows, batch = case(arch)
    check(arch, rows, Batch(batch.inputs, batch.lengths, batch.targets, None))


@pytest.mark.parametrize("task", list(Task))
def test_what_is_padded_does_not_matter(task):
    """Neither steps beyond the end nor samples that are not real: not a bit of loss or gradient may change."""
    arch = arch_of("gru", task, False, num_layers=2)
    rows, batch = case(arch)
    kept = (torch.arange(T) < batch.lengths[..., None]) & batch.real[..., None]
    other = Batch(torch.where(kept[..., None], batch.inputs, 7.5), batch.lengths, batch.targets, batch.real)
    results = []
    for each in (batch, other):
        gradient = torch.empty_like(rows)
        loss = loss_and_gradient(arch, rows, each, torch_kernels, None, gradient)
        results.append((loss, gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=1e-15)


def test_a_batch_without_targets_has_no_loss_and_no_gradient():
    arch = arch_of("gru", Task.SEQUENCE_LABELLING, True)
    rows, batch = case(arch)
    targets = batch.targets.clone()
    targets[1] = IGNORE
    gradient = torch.empty_like(rows)
    loss = loss_and_gradient(
        arch, rows, Batch(batch.inputs, batch.lengths, targets, batch.real), torch_kernels, None, gradient
    )
    assert loss[1] == 0
    assert not gradient[1].any()
    assert gradient[0].any()


@pytest.mark.parametrize("task", list(Task))
def test_scores(task):
    """Sums per sample against NumPy on the outputs of the reference module."""
    arch = arch_of("lstm", task, False)
    rows, batch = case(arch)
    scored = stacked.score(arch, rows, batch, torch_kernels)
    sums = scored.columns()[:3]
    assert all(column.dtype == torch.float64 and column.shape == (C, B) for column in sums)
    for client in range(C):
        module = ReferenceModel(arch).double()
        load_row(module, arch, rows[client])
        outputs = module(batch.inputs[client], batch.lengths[client]).detach().numpy()
        for sample in range(B):
            found = [column[client, sample].item() for column in sums]
            if not batch.real[client, sample]:
                assert found == [0, 0, 0]
                continue
            output, target = outputs[sample], batch.targets[client, sample].numpy()
            if task is Task.REGRESSION:
                error = output - target
                expected = [(error**2).sum(), 0, K]
                assert scored.outputs[client, sample].numpy() == pytest.approx(output, rel=1e-12)
            else:
                output, target = np.atleast_2d(output), np.atleast_1d(target)
                output, target = output[target != IGNORE], target[target != IGNORE]
                log_sum = np.log(np.exp(output).sum(1))
                picked = output[np.arange(len(target)), target]
                expected = [(log_sum - picked).sum(), (output.argmax(1) == target).sum(), len(target)]
            assert found == pytest.approx(expected, rel=1e-12)


def test_clients_do_not_mix():
    """A client's loss and gradient are the same whoever shares the stack."""
    arch = arch_of("gru", Task.CLASSIFICATION, True, num_layers=2)
    rows, batch = case(arch)
    together = torch.empty_like(rows)
    loss = loss_and_gradient(arch, rows, batch, torch_kernels, None, together)
    for order in itertools.permutations(range(C)):
        index = list(order)
        gradient = torch.empty_like(rows)
        mixed = Batch(batch.inputs[index], batch.lengths[index], batch.targets[index], batch.real[index])
        again = loss_and_gradient(arch, rows[index], mixed, torch_kernels, None, gradient)
        torch.testing.assert_close(again, loss[index], rtol=1e-14, atol=0)
        torch.testing.assert_close(gradient, together[index], rtol=1e-13, atol=1e-16)
