"""Shapes and initial values of the models, and their rows in plain `torch.nn` modules."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fedsim.clients.engine import load_kernels
from fedsim.data.batches import Batch
from fedsim.data.dataset import IGNORE, Task
from fedsim.data.population import Population, Samples
from fedsim.errors import FieldError, UserError
from fedsim.models import stacked, torch_kernels
from fedsim.models.recurrent import CIFG, GRU, LSTM, RNN, Architecture, GRUResetBefore, architecture, initial_row
from fedsim.models.reference import ReferenceModel, load_row, read_row

MODELS = [RNN, LSTM, CIFG, GRU, GRUResetBefore]
PLAIN = {RNN: nn.RNN, LSTM: nn.LSTM, GRU: nn.GRU}
LENGTHS = torch.tensor([5, 1, 3, 4])


class Plain(nn.Module):
    """What a user would write: the names of its parameters are those of the layout."""

    def __init__(self, arch):
        super().__init__()
        m = arch.model
        if arch.vocabulary_size is not None:
            self.embedding = nn.Embedding(arch.vocabulary_size, arch.embedding_size)
        extra = {"nonlinearity": m.nonlinearity} if isinstance(m, RNN) else {}
        width = arch.embedding_size or arch.input_size
        extra |= {"proj_size": m.projection} if m.projection else {}
        extra |= {"bidirectional": m.bidirectional}
        self.recurrent = PLAIN[type(m)](width, m.hidden_size, m.num_layers, bias=m.bias, batch_first=True, **extra)
        self.head = nn.Linear((m.projection or m.hidden_size) * (1 + m.bidirectional), arch.num_outputs, bias=m.bias)
        self.double()

    def forward(self, x, lengths):
        """Outputs at the last valid step, by packing."""
        x = self.embedding(x) if hasattr(self, "embedding") else x
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.recurrent(packed)
        states = last[0] if isinstance(last, tuple) else last  # forwards and backwards in turn, layer by layer
        return self.head(torch.cat([*states[-2:]], 1) if self.recurrent.bidirectional else states[-1])

    def every_step(self, x):
        x = self.embedding(x) if hasattr(self, "embedding") else x
        return self.head(self.recurrent(x)[0])


def arch_of(model, tokens=False, task=Task.CLASSIFICATION):
    return Architecture(model, 0 if tokens else 3, 7 if tokens else None, 4, task)


def inputs_of(arch):
    rng = torch.Generator().manual_seed(1)
    if arch.vocabulary_size is not None:
        return torch.randint(0, arch.vocabulary_size, (4, 5), generator=rng)
    return torch.randn(4, 5, arch.input_size, generator=rng, dtype=torch.float64)


CASES = [
    (kind(hidden_size=6, num_layers=layers, bias=bias), tokens)
    for kind in PLAIN
    for layers in (1, 2)
    for bias in (True, False)
    for tokens in (True, False)
] + [(RNN(hidden_size=6, nonlinearity="relu"), False)]
CASES += [(kind(hidden_size=6, num_layers=2, bidirectional=True), kind is GRU) for kind in PLAIN]
CASES += [(LSTM(hidden_size=6, recurrent_projection=2, bidirectional=True), False)]
CASES += [(LSTM(hidden_size=6, num_layers=n, recurrent_projection=4, bias=n > 1), n > 1) for n in (1, 2)]


def name_of(value):
    return f"{type(value).__name__}-{value.num_layers}-{value.bias}" if isinstance(value, GRU | LSTM | RNN) else None


@pytest.mark.parametrize(("model", "tokens"), CASES, ids=name_of)
def test_a_row_loads_into_a_plain_module(model, tokens):
    """By the names of the layout; the last valid states are those of packed sequences."""
    arch = arch_of(model, tokens)
    row = initial_row(arch, 0, torch.float64)
    plain = Plain(arch)
    plain.load_state_dict(arch.layout.views(row))
    assert torch.equal(arch.layout.flatten(plain.state_dict()), row)
    assert list(plain.state_dict()) == list(arch.layout.names)
    x = inputs_of(arch)
    batch = Batch(x[None], LENGTHS[None], torch.zeros(1, 4, dtype=torch.int64), None)
    ours, _ = stacked._forward(arch, arch.layout.views(row[None]), batch, torch_kernels, None)
    torch.testing.assert_close(ours[0], plain(x, LENGTHS).detach(), rtol=1e-12, atol=1e-14)
    module = ReferenceModel(arch).double()
    load_row(module, arch, row)
    torch.testing.assert_close(module(x, LENGTHS), plain(x, LENGTHS), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("model", [LSTM(hidden_size=6, num_layers=2), GRU(hidden_size=6), RNN(hidden_size=6)])
def test_outputs_at_every_step(model):
    arch = arch_of(model, True, Task.SEQUENCE_LABELLING)
    row = initial_row(arch, 0, torch.float64)
    plain = Plain(arch)
    plain.load_state_dict(arch.layout.views(row))
    x = inputs_of(arch)
    batch = Batch(x[None], LENGTHS[None], torch.full((1, 4, 5), IGNORE), None)
    ours, _ = stacked._forward(arch, arch.layout.views(row[None]), batch, torch_kernels, None)
    expected = plain.every_step(x).detach().transpose(0, 1)  # step-major
    torch.testing.assert_close(ours.view(5, 4, 4), expected, rtol=1e-12, atol=1e-14)


def test_the_gru_of_cho_by_hand():
    """One unit, two steps, in plain arithmetic: ``h' = (1 - z) h + z tanh(w x + b + u (r h) + c)``."""
    arch = Architecture(GRUResetBefore(hidden_size=1), 1, None, 1, Task.REGRESSION)
    w, u, b, c = (0.5, -0.4, 0.9), (0.3, 0.8, -0.7), (0.1, 0.2, -0.3), (0.05, -0.1, 0.4)
    row = torch.tensor([*w, *u, *b, *c, 2.0, 0.25], dtype=torch.float64)

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    h = 0.0
    for x in (0.7, -1.2):
        r = sigmoid(w[0] * x + b[0] + u[0] * h + c[0])
        z = sigmoid(w[1] * x + b[1] + u[1] * h + c[1])
        n = math.tanh(w[2] * x + b[2] + u[2] * (r * h) + c[2])
        h = (1 - z) * h + z * n
    x = torch.tensor([[[0.7], [-1.2]]], dtype=torch.float64)
    module = ReferenceModel(arch).double()
    load_row(module, arch, row)
    assert module(x, torch.tensor([2])).item() == pytest.approx(2 * h + 0.25, rel=1e-14)
    batch = Batch(x[None], torch.tensor([[2]]), torch.zeros(1, 1, 1), None)
    ours, _ = stacked._forward(arch, arch.layout.views(row[None]), batch, torch_kernels, None)
    assert ours.item() == pytest.approx(2 * h + 0.25, rel=1e-14)


def test_coupled_gates_by_hand():
    """One step of two units, all weights 0.5, the forget gate's bias 1, and no other; x of four ones, c = h = 0.1.

    Every gate gets ``4 * 0.5 * 1 + 2 * 0.5 * 0.1 = 2.1``, the forget gate 3.1: ``f = 1 / (1 + exp(-3.1)) = 0.956893``,
    ``g = tanh(2.1) = 0.970452`` and ``o = 1 / (1 + exp(-2.1)) = 0.890903``, so that
    ``c = 0.956893 * 0.1 + 0.043107 * 0.970452 = 0.137523`` and ``h = 0.890903 * tanh(0.137523) = 0.121753``.
    """
    layer = ReferenceModel(Architecture(CIFG(hidden_size=2), 4, None, 1, Task.REGRESSION)).double().layers[0]
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.5 if parameter.dim() == 2 else 0.0)
    nn.init.constant_(layer.bias_ih_l0[:2], 1.0)
    start = torch.full((1, 2), 0.1, dtype=torch.float64)
    gates = nn.functional.linear(torch.ones(1, 4, dtype=torch.float64), layer.weight_ih_l0, layer.bias_ih_l0)
    h, c = layer.step(gates, start, start)
    assert c.flatten().tolist() == pytest.approx([0.137523] * 2, abs=5e-7)
    assert h.flatten().tolist() == pytest.approx([0.121753] * 2, abs=5e-7)


@pytest.mark.parametrize("cell", ["torch", "numba"])
def test_coupled_gates_from_an_empty_state(cell):
    """Two steps of one unit in plain arithmetic, from c = h = 0, with gates in the order f, g, o."""
    w, u, b, c_bias = (0.5, -0.4, 0.9), (0.3, 0.8, -0.7), (0.1, 0.2, -0.3), (0.05, -0.1, 0.4)
    row = torch.tensor([*w, *u, *b, *c_bias, 2.0, 0.25], dtype=torch.float64)
    h = c = 0.0
    for x in (0.7, -1.2):
        f, g, o = (w[k] * x + b[k] + u[k] * h + c_bias[k] for k in range(3))
        f, g, o = 1 / (1 + math.exp(-f)), math.tanh(g), 1 / (1 + math.exp(-o))
        c = f * c + (1 - f) * g
        h = o * math.tanh(c)
    arch = Architecture(CIFG(hidden_size=1), 1, None, 1, Task.REGRESSION)
    batch = Batch(
        torch.tensor([[[[0.7], [-1.2]]]], dtype=torch.float64), torch.tensor([[2]]), torch.zeros(1, 1, 1), None
    )
    ours, _ = stacked._forward(arch, arch.layout.views(row[None]), batch, load_kernels(cell), None)
    assert ours.item() == pytest.approx(2 * h + 0.25, rel=1e-14)


@pytest.mark.parametrize("kind", MODELS)
def test_rows_pass_through_the_reference_module(kind):
    arch = arch_of(kind(hidden_size=3, num_layers=2), tokens=True)
    row = initial_row(arch, 3, torch.float32)
    module = ReferenceModel(arch)
    load_row(module, arch, row)
    assert torch.equal(read_row(module), row)


@pytest.mark.parametrize(("kind", "gates"), [(RNN, 1), (LSTM, 4), (GRU, 3), (CIFG, 3), (GRUResetBefore, 3)])
def test_number_of_parameters(kind, gates):
    """Two layers of H = 5 on D = 3 and 4 outputs: gates * H * (D + H + 2) + gates * H * (2 H + 2) + 4 * (H + 1)."""
    assert arch_of(kind(hidden_size=5, num_layers=2)).layout.num_parameters == gates * 5 * (10 + 12) + 24
    assert arch_of(kind(hidden_size=5, num_layers=2, bias=False)).layout.num_parameters == gates * 5 * (8 + 10) + 20


def test_known_numbers_of_parameters():
    """Of the next-word models of the field, with one bias per gate, as Keras has them.

    An LSTM of 670 on embeddings of 96, a dense layer of 96, and 10,004 words: 10,004 * 96 + 4 * 670 * (96 + 670 + 1) +
    96 * (670 + 1) + 10,004 * (96 + 1) = 4,050,748 (Reddi 2021, Stack Overflow).

    A CIFG of 670 projected to 96, whose head is the embedding of 10,000 words: 10,000 * 96 + 3 * 670 * (96 + 96 + 1) +
    670 * 96 = 1,412,250 (Hard 2018). That head has no bias; ours has one, which is taken off here.
    """
    sizes = {"hidden_size": 670, "embedding_size": 96, "gate_biases": 1}
    coupled = CIFG(recurrent_projection=96, tied_embeddings=True, **sizes)
    arch = Architecture(coupled, 0, 10_000, 10_000, Task.SEQUENCE_LABELLING)
    assert arch.layout.num_parameters - 10_000 == 1_412_250
    words = 10_004
    arch = Architecture(LSTM(head_projection=96, **sizes), 0, words, words, Task.SEQUENCE_LABELLING)
    assert arch.layout.num_parameters == 4_050_748
    layers = nn.Embedding(words, 96), nn.LSTM(96, 670), nn.Linear(670, 96), nn.Linear(96, words)
    assert sum(p.numel() for layer in layers for p in layer.parameters()) - 4 * 670 == 4_050_748


def test_tied_embeddings_are_there_once():
    """7 tokens of width 5: the head has no weights of its own, only 7 biases."""
    untied, tied = (
        Architecture(GRU(hidden_size=5, embedding_size=5, tied_embeddings=both), 0, 7, 7, Task.SEQUENCE_LABELLING)
        for both in (False, True)
    )
    assert untied.layout.num_parameters - tied.layout.num_parameters == 7 * 5
    assert [*tied.layout.names][-1] == "head.bias"
    assert "head.weight" not in tied.layout.names
    module = ReferenceModel(tied)
    assert module.head.weight is module.embedding.weight


@pytest.mark.parametrize(
    ("values", "data", "message"),
    [
        ({"embedding_size": 6}, (None, 4), r"the inputs are numbers, not tokens"),
        ({"embedding_size": 6}, (7, 4), r"there are 7 tokens and 4 outputs"),
        (
            {},
            (7, 7),
            r"the embedding has 8 numbers per token and the head gets 6; set model\.embedding_size=6 or model\.he",
        ),
        ({"embedding_size": 6, "head_projection": 5}, (7, 7), r"6 numbers per token and the head gets 5"),
    ],
)
def test_an_embedding_that_cannot_be_the_head(values, data, message):
    vocabulary, outputs = data
    if vocabulary is None:
        values = {}
    empty = Samples(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(1))
    population = Population(Task.CLASSIFICATION, empty, empty, None, outputs, 3, vocabulary, ("a",))
    with pytest.raises(UserError, match=rf"^model\.tied_embeddings=true: .*{message}"):
        architecture(GRU(hidden_size=6, tied_embeddings=True, **values), population)


def test_reading_backwards_needs_one_target_per_sequence():
    empty = Samples(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(1))
    population = Population(Task.SEQUENCE_LABELLING, empty, empty, None, 4, 3, None, ("a",))
    with pytest.raises(UserError, match=r"^model\.bidirectional=true: would read the targets, because these data have"):
        architecture(GRU(bidirectional=True), population)


def test_pooling_needs_one_target_per_sequence():
    empty = Samples(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(1))
    population = Population(Task.SEQUENCE_LABELLING, empty, empty, None, 4, 3, None, ("a",))
    with pytest.raises(UserError, match=r"^model\.pooling=mean: has no effect, because these data have a target at ev"):
        architecture(GRU(pooling="mean"), population)


def test_attention_is_a_vector_of_the_width_of_the_states():
    arch = arch_of(LSTM(hidden_size=9, recurrent_projection=4, pooling="attention"))
    plain = arch_of(LSTM(hidden_size=9, recurrent_projection=4))
    assert arch.layout.num_parameters - plain.layout.num_parameters == 4
    assert "pooling" in arch.layout.blocks
    found = views_of(LSTM(hidden_size=9, recurrent_projection=4, pooling="attention"))["pooling.weight"]
    assert found.shape == (1, 4)
    assert np.abs(found).max() <= 0.5


def test_dense_layers_begin_by_the_width_of_what_they_get():
    """As ``torch.nn.Linear``: uniform in +-1/sqrt(in), 64 for the dense layer and 9 for the head, biases too."""
    for name, width in (("projection", 64), ("head", 9)):
        found = views_of(GRU(head_projection=9, embedding_size=9), tokens=True)
        for kind in ("weight", "bias"):
            assert 0.4 * width**-0.5 < np.abs(found[f"{name}.{kind}"]).max() <= width**-0.5
    keras = views_of(GRU(head_projection=9, initialisation="keras"), tokens=True)
    assert 0.9 * (6 / 73) ** 0.5 < np.abs(keras["projection.weight"]).max() <= (6 / 73) ** 0.5
    assert not keras["projection.bias"].any()


def of(parameters, kind, tokens=False, **changes):
    return arch_of(kind(hidden_size=None, parameters=parameters, **changes), tokens)


@pytest.mark.parametrize(
    ("kind", "count", "size"),
    [
        # One layer on D = 3 with 4 outputs: G H (D + H + 2) + 4 (H + 1) = G H^2 + (5 G + 4) H + 4.
        (RNN, lambda h: h**2 + 9 * h + 4, 27),  # 976 is nearer to 1000 than the 1040 of 28
        (GRU, lambda h: 3 * h**2 + 19 * h + 4, 15),  # 964; 16 have 1076
        (GRUResetBefore, lambda h: 3 * h**2 + 19 * h + 4, 15),
        (CIFG, lambda h: 3 * h**2 + 19 * h + 4, 15),
        (LSTM, lambda h: 4 * h**2 + 24 * h + 4, 13),  # 992; 12 have 868
    ],
)
def test_the_hidden_size_for_a_number_of_parameters(kind, count, size):
    arch = of(1000, kind)
    assert arch.hidden_size == size
    assert arch.layout.num_parameters == count(size)
    assert min((1, 2, 5, 12, 13, 14, 15, 16, 26, 27, 28, 100), key=lambda h: abs(count(h) - 1000)) == size
    if kind in PLAIN:
        modules = PLAIN[kind](3, size), nn.Linear(size, 4)
        assert sum(p.numel() for module in modules for p in module.parameters()) == count(size)


def test_of_two_that_are_equally_near_it_is_the_smaller():
    """An RNN of 1 has 1 + 9 + 4 = 14 parameters, one of 2 has 4 + 18 + 4 = 26: 20 is between them."""
    assert [of(wanted, RNN).hidden_size for wanted in (14, 19, 20, 21, 26)] == [1, 1, 1, 2, 2]


@given(
    wanted=st.integers(200, 20_000),
    kind=st.sampled_from(MODELS),
    tokens=st.booleans(),
    layers=st.integers(1, 3),
    bias=st.booleans(),
)
def test_no_other_hidden_size_comes_nearer(wanted, kind, tokens, layers, bias):
    """And more parameters never make a smaller model."""
    shape = {"num_layers": layers, "bias": bias}
    arch = of(wanted, kind, tokens, **shape)
    gap = abs(arch.layout.num_parameters - wanted)
    for other in {max(1, arch.hidden_size - 1), arch.hidden_size + 1} - {arch.hidden_size}:
        far = abs(arch_of(kind(hidden_size=other, **shape), tokens).layout.num_parameters - wanted)
        assert far > gap or (far == gap and other > arch.hidden_size)
    assert of(wanted + 100, kind, tokens, **shape).hidden_size >= arch.hidden_size
    if tokens:  # the embedding counts, and keeps its width
        assert arch.layout.shapes[0] == (7, 8)


def test_too_few_parameters_for_one_unit():
    """3 (3 + 1 + 2) + 4 * 2 = 26."""
    assert of(26, GRU).hidden_size == 1
    with pytest.raises(UserError, match=r"^model\.parameters=25: GRU has at least 26 parameters on these data"):
        _ = of(25, GRU).hidden_size


def test_a_projection_needs_more_units_than_it_leaves():
    """5 units are the fewest with a projection to 4: 4 * 5 * (3 + 4 + 2) + 4 * 5 + 4 * 5 = 220."""
    assert of(220, LSTM, recurrent_projection=4).hidden_size == 5
    with pytest.raises(UserError, match=r"LSTM has at least 220 parameters on these data \(with 5 units per layer\)"):
        _ = of(219, LSTM, recurrent_projection=4).hidden_size
    with pytest.raises(FieldError, match=r"^recurrent_projection=6: must be below hidden_size=6"):
        LSTM(hidden_size=6, recurrent_projection=6)
    with pytest.raises(FieldError, match=r"^recurrent_projection=0: must be at least 1"):
        CIFG(recurrent_projection=0)


@pytest.mark.parametrize("style", ["torch", "keras", "keras_he", "orthogonal"])
def test_a_projected_layer_begins_as_others_do(style):
    """Columns of the recurrent matrix, ``[3 H, P]`` or per gate ``[H, P]``, are orthonormal where they are to be."""
    found = views_of(CIFG(hidden_size=20, recurrent_projection=6, initialisation=style))
    whole, down = found["recurrent.weight_hh_l0"], found["recurrent.weight_hr_l0"]
    assert down.shape == (6, 20)
    limit = 20**-0.5 if style in ("torch", "orthogonal") else (6 / 26) ** 0.5
    assert 0.9 * limit < np.abs(down).max() <= limit
    blocks = {"torch": [], "orthogonal": np.split(whole, 3)}.get(style, [whole])
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(6), atol=1e-12)


@pytest.mark.parametrize("values", [{"hidden_size": None}, {"hidden_size": 3, "parameters": 100}])
def test_either_units_or_parameters(values):
    with pytest.raises(FieldError, match="set exactly one of hidden_size and parameters"):
        GRU(**values)


def test_initial_values():
    """Uniform in +-1/sqrt(H): at H = 16, n = 16384 draws have deviation 0.25 / sqrt(3); 4 standard errors each."""
    arch = Architecture(GRU(hidden_size=16), 16, 4096, 1000, Task.CLASSIFICATION)
    views = arch.layout.views(initial_row(arch, 0, torch.float64))
    head = views["head.weight"].flatten()
    assert 0.249 < head.abs().max() <= 0.25
    assert abs(head.mean()) < 4 * 0.25 / 3**0.5 / len(head) ** 0.5
    table = views["embedding.weight"].flatten()
    assert abs(table.mean()) < 4 / len(table) ** 0.5
    assert abs(table.var() - 1) < 4 * (2 / len(table)) ** 0.5


def test_initial_values_are_keyed():
    def row(seed=0, dtype=torch.float64, **changes):
        return initial_row(arch_of(GRU(hidden_size=6, **changes)), seed, dtype)

    assert torch.equal(row(), row())
    assert not torch.equal(row(), row(seed=1))
    assert torch.equal(row(dtype=torch.float32), row().float())
    # Another layer leaves the draws of the first where they were.
    size = 3 * 6 * (3 + 6 + 2)
    assert torch.equal(row()[:size], row(num_layers=2)[:size])


def test_embedding_size():
    def population(vocabulary):
        empty = Samples(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(1))
        return Population(Task.CLASSIFICATION, empty, empty, None, 2, 0 if vocabulary else 3, vocabulary, ("a",))

    assert architecture(GRU(), population(10)).embedding_size == 8
    assert architecture(GRU(embedding_size=5), population(10)).layout.shapes[0] == (10, 5)
    assert architecture(GRU(), population(None)).embedding_size == 0
    with pytest.raises(UserError, match=r"model\.embedding_size=5"):
        architecture(GRU(embedding_size=5), population(None))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 0},
        {"parameters": 0, "hidden_size": None},
        {"num_layers": 0},
        {"dropout": 1.0, "num_layers": 2},
        {"dropout": 0.1},
        {"gate_biases": 3},
        {"gate_biases": 1, "bias": False},
        {"head_projection": 0},
        {"pooling": "sum"},
        {"head_activation": "tanh"},
        {"head_activation": "relu", "head_projection": 3},
    ],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(FieldError, match=f"^{next(iter(values))}="):
        GRU(**values)


# ---------------------------------------------------------------------------------------------------------------------
# initial values

KINDS = [RNN, LSTM, CIFG, GRU, GRUResetBefore]


def views_of(model, seed=0, tokens=True):
    arch = Architecture(model, 0 if tokens else 3, 7 if tokens else None, 4, Task.CLASSIFICATION)
    return {name: view.numpy() for name, view in arch.layout.views(initial_row(arch, seed, torch.float64)).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_keras_begins_with_orthonormal_columns_and_glorot_kernels(kind):
    """The whole recurrent matrix ``[gates H, H]``, as Keras draws it; limits are ``sqrt(6 / (in + gates H))``."""
    found = views_of(kind(hidden_size=40, num_layers=2, initialisation="keras", embedding_size=30))
    rows = kind.gates * 40
    for layer, width in ((0, 30), (1, 40)):
        square = found[f"recurrent.weight_hh_l{layer}"]
        np.testing.assert_allclose(square.T @ square, np.eye(40), atol=1e-12)
        limit = (6 / (width + rows)) ** 0.5
        weights = found[f"recurrent.weight_ih_l{layer}"]
        assert np.abs(weights).max() <= limit
        assert weights.std() == pytest.approx(limit / 3**0.5, rel=0.05)  # of a uniform distribution
        for side, bias in (("ih", 1.0), ("hh", 0.0)):
            expected = np.zeros(rows)
            if kind.forget is not None:
                assert kind.forget == {LSTM: "ifgo", CIFG: "fgo"}[kind].index("f")
                expected[kind.forget * 40 :][:40] = bias
            assert found[f"recurrent.bias_{side}_l{layer}"].tolist() == expected.tolist()
    assert np.abs(found["embedding.weight"]).max() <= 0.05
    assert np.abs(found["head.weight"]).max() <= (6 / 44) ** 0.5
    assert not found["head.bias"].any()


def test_he_counts_inputs_alone():
    """Variance 2 / 8, and no number beyond two standard deviations of the normal distribution that is cut off.

    That of a standard normal number between -2 and 2 is ``1 - 4 phi(2) / (2 Phi(2) - 1)``.
    """
    found = views_of(LSTM(hidden_size=100, initialisation="keras_he", embedding_size=8))
    plain = views_of(LSTM(hidden_size=100, initialisation="keras", embedding_size=8))
    weights = found.pop("recurrent.weight_ih_l0")
    inside = math.erf(2 / 2**0.5)
    deviation = (1 - 4 * math.exp(-2) / (2 * math.pi) ** 0.5 / inside) ** 0.5
    assert weights.var() == pytest.approx(0.25, rel=0.05)
    assert np.abs(weights).max() <= 2 * 0.5 / deviation * (1 + 1e-12)
    assert all(np.array_equal(values, plain[name]) for name, values in found.items())


@pytest.mark.parametrize("kind", KINDS)
def test_orthogonal_matrices_gate_by_gate_and_the_rest_as_torch(kind):
    plain = views_of(kind(hidden_size=9, embedding_size=5))
    found = views_of(kind(hidden_size=9, embedding_size=5, initialisation="orthogonal"))
    for gate in np.split(found["recurrent.weight_hh_l0"], kind.gates):
        np.testing.assert_allclose(gate @ gate.T, np.eye(9), atol=1e-12)
    for name, values in found.items():
        if name == "recurrent.weight_hh_l0":
            continue
        if kind in (LSTM, CIFG) and "recurrent.bias" in name:
            gate = range(9, 18) if kind is LSTM else range(9)  # i, f, g, o and f, g, o
            assert values[gate].tolist() == [1.0 if "ih" in name else 0.0] * 9
            values, plain[name] = np.delete(values, gate), np.delete(plain[name], gate)
        assert np.array_equal(values, plain[name]), name


def test_orthonormal_matrices_are_uniform():
    """The first entry of a rotation or reflection of the plane is cos(a) with a uniform: mean 0, mean square 1/2."""
    model = RNN(hidden_size=2, initialisation="orthogonal")
    first = np.array([views_of(model, seed)["recurrent.weight_hh_l0"] for seed in range(2000)])
    assert first[:, 0, 0].mean() == pytest.approx(0, abs=0.05)  # three standard errors
    assert np.square(first[:, 0, 0]).mean() == pytest.approx(0.5, abs=0.03)
    assert np.linalg.det(first).mean() == pytest.approx(0, abs=0.07)  # as many rotations as reflections


def test_models_without_biases_have_no_forget_bias():
    found = views_of(LSTM(hidden_size=3, bias=False, initialisation="keras"))
    assert not any("bias" in name for name in found)
    with pytest.raises(FieldError, match="initialisation"):
        LSTM(initialisation="zeros")
