"""Multiply-accumulates, counted by hand."""

import pytest

from fedsim.data.dataset import Task
from fedsim.models.macs import forward_macs, macs_per_sequence, macs_per_step
from fedsim.models.recurrent import CIFG, GRU, LSTM, RNN, Architecture, GRUResetBefore


@pytest.mark.parametrize(("kind", "gates"), [(RNN, 1), (GRU, 3), (GRUResetBefore, 3), (CIFG, 3), (LSTM, 4)])
def test_a_layer_on_features_and_a_head_at_the_end(kind, gates):
    """H = 5 on D = 3: G matrices [5, 3] and as many [5, 5] at every step; the head [4, 5] once."""
    arch = Architecture(kind(hidden_size=5), 3, None, 4, Task.CLASSIFICATION)
    assert macs_per_step(arch) == gates * (5 * 3 + 5 * 5)
    assert macs_per_sequence(arch) == 4 * 5
    assert forward_macs(arch, 7) == 7 * gates * 40 + 20


def test_two_layers_on_tokens_and_a_head_at_every_step():
    """Embedding of width 6, looked up; layers [4, 6], [4, 4] and [4, 4], [4, 4], times 4 gates; the head [10, 4]."""
    model = LSTM(hidden_size=4, num_layers=2, embedding_size=6, bias=False)
    arch = Architecture(model, 0, 10, 10, Task.SEQUENCE_LABELLING)
    assert macs_per_step(arch) == 4 * (4 * 6 + 4 * 4) + 4 * (4 * 4 + 4 * 4) + 40
    assert macs_per_sequence(arch) == 0
    assert forward_macs(arch, 3) == 3 * macs_per_step(arch)


def test_a_recurrent_projection():
    """Two layers of 5 units on D = 3, whose states are projected to 2 by [2, 5]; the head [4, 2] at the end."""
    arch = Architecture(CIFG(hidden_size=5, num_layers=2, recurrent_projection=2), 3, None, 4, Task.CLASSIFICATION)
    assert macs_per_step(arch) == 3 * (5 * 3 + 5 * 2) + 2 * 5 + 3 * (5 * 2 + 5 * 2) + 2 * 5
    assert macs_per_sequence(arch) == 4 * 2


def test_both_directions():
    """Two layers of 5 units either way: on D = 3, then on the 10 states below; the head [4, 10]."""
    arch = Architecture(GRU(hidden_size=5, num_layers=2, bidirectional=True), 3, None, 4, Task.CLASSIFICATION)
    assert macs_per_step(arch) == 2 * 3 * (5 * 3 + 5 * 5) + 2 * 3 * (5 * 10 + 5 * 5)
    assert macs_per_sequence(arch) == 4 * 10


def test_attention():
    """A score of 5 products at every step, and as many to weigh the states."""
    plain, pooled = (
        Architecture(GRU(hidden_size=5, pooling=pooling), 3, None, 4, Task.CLASSIFICATION)
        for pooling in ("last", "attention")
    )
    assert macs_per_step(pooled) == macs_per_step(plain) + 5 + 5


@pytest.mark.parametrize("tied", [False, True])
def test_a_dense_layer_before_the_head(tied):
    """The dense layer is [6, 4] and the head [10, 6], at every step, whosever weights these are."""
    model = GRU(hidden_size=4, embedding_size=6, head_projection=6, tied_embeddings=tied)
    arch = Architecture(model, 0, 10, 10, Task.SEQUENCE_LABELLING)
    assert macs_per_step(arch) == 3 * (4 * 6 + 4 * 4) + 6 * 4 + 10 * 6


@pytest.mark.parametrize("kind", [RNN, GRU, CIFG, LSTM])
def test_they_are_as_many_as_weights(kind):
    """Every weight of a product is used once per step (or sequence)."""
    arch = Architecture(kind(hidden_size=5, num_layers=3, bias=False), 3, None, 2, Task.REGRESSION)
    assert forward_macs(arch, 1) == arch.layout.num_parameters
