"""onnxruntime computes from the graph what the reference model computes, for every cell, task and shape of model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.data.dataset import Task
from fedsim.models.onnx_graph import build_graph
from fedsim.models.recurrent import CIFG, GRU, LSTM, RNN, Architecture, GRUResetBefore
from fedsim.models.reference import ReferenceModel, load_row

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

MODELS = (RNN(hidden_size=5), RNN(hidden_size=5, nonlinearity="relu"), LSTM(hidden_size=5), GRU(hidden_size=5))
MODELS += (GRUResetBefore(hidden_size=5), CIFG(hidden_size=5))
DEEP = [type(model)(hidden_size=4, num_layers=3, bias=False) for model in MODELS]
HEADS = [GRU(hidden_size=5, head_projection=6, gate_biases=1), RNN(hidden_size=5, head_projection=6, bias=False)]
HEADS += [LSTM(hidden_size=5, head_projection=8, head_activation="tanh", gate_biases=1)]
HEADS += [kind(hidden_size=5, num_layers=2, recurrent_projection=3, bias=kind is CIFG) for kind in (LSTM, CIFG)]
BATCH, TIME = 6, 9


@pytest.fixture(autouse=True)
def _small(one_thread):
    """Tiny tensors."""


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("tokens", [None, 7], ids=["numbers", "tokens"])
@pytest.mark.parametrize(
    "model", [*MODELS, *DEEP, *HEADS], ids=lambda model: f"{model.cell}-{model.num_layers}-{model.head_projection}"
)
def test_it_computes_what_the_model_does(model, tokens, task):
    compare(Architecture(model, 0 if tokens else 3, tokens, 4, task))


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION])
@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_pooling(pooling, task):
    compare(Architecture(LSTM(hidden_size=5, num_layers=2, pooling=pooling), 3, None, 4, task))
    compare(Architecture(CIFG(hidden_size=5, recurrent_projection=3, pooling=pooling), 0, 7, 4, task))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("model", [*MODELS, LSTM(hidden_size=5, recurrent_projection=3, gate_biases=1)])
def test_both_directions(model, pooling):
    for layers in (1, 2):
        both = replace(model, num_layers=layers, bidirectional=True, pooling=pooling)
        compare(Architecture(both, 3, None, 4, Task.CLASSIFICATION))


@pytest.mark.parametrize("projection", [None, 8])
def test_tied_embeddings(projection):
    model = GRU(hidden_size=8, num_layers=2, tied_embeddings=True, head_projection=projection)
    compare(Architecture(model, 0, 7, 7, Task.SEQUENCE_LABELLING))


def compare(arch):
    """The outputs of the graph and of the module, with the same parameters on the same random inputs."""
    tokens = arch.vocabulary_size
    rng = torch.Generator().manual_seed(1)
    # Large enough that every gate is far from its middle: a gate in another's place changes the outputs.
    row = 1.5 * torch.randn(arch.layout.num_parameters, generator=rng)
    module = ReferenceModel(arch)
    load_row(module, arch, row)
    inputs = (
        torch.randint(0, tokens, (BATCH, TIME), generator=rng) if tokens else torch.randn(BATCH, TIME, 3, generator=rng)
    )
    lengths = torch.tensor([TIME, 1, 4, 2, 8, TIME])
    with torch.no_grad():
        expected = module(inputs, lengths).numpy()
    graph = build_graph(arch, {name: view.numpy() for name, view in arch.layout.views(row).items()})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"inputs": inputs.numpy(), "lengths": lengths.numpy()})
    assert outputs.shape == expected.shape
    if arch.task is Task.SEQUENCE_LABELLING:
        real = np.arange(TIME) < lengths.numpy()[:, None]
        outputs, expected = outputs[real], expected[real]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected) > 0.1


def test_what_is_beyond_a_sequence_does_not_matter():
    arch = Architecture(GRU(hidden_size=5), 3, None, 4, Task.CLASSIFICATION)
    row = torch.randn(arch.layout.num_parameters, generator=torch.Generator().manual_seed(1))
    graph = build_graph(arch, {name: view.numpy() for name, view in arch.layout.views(row).items()})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(0).standard_normal((1, 5, 3)).astype(np.float32)
    other = inputs.copy()
    other[:, 3:] = 100
    lengths = np.array([3])
    results = [session.run(None, {"inputs": x, "lengths": lengths})[0] for x in (inputs, other, inputs[:, :3])]
    assert (results[0] == results[1]).all()
    np.testing.assert_allclose(results[0], results[2], rtol=1e-6)
