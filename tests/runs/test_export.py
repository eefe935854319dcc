"""Pruning as `torch.nn.utils.prune` does it, and state dicts that plain `torch.nn` modules take."""

import io
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from fedsim.config import compose as config
from fedsim.data.dataset import Task
from fedsim.errors import UserError
from fedsim.models.plain import PlainModel, plain_parameters
from fedsim.models.recurrent import CIFG, GRU, LSTM, RNN, Architecture, GRUResetBefore
from fedsim.models.reference import ReferenceModel, load_row
from fedsim.models.scan_model import exported_program
from fedsim.partition.natural import Natural
from fedsim.runs.checkpoints import checkpoint_path, load_checkpoint, read_run_facts, save_checkpoint
from fedsim.runs.export import export_run, pruned
from fedsim.runs.run import run_experiment

NUMBERS = Architecture(LSTM(hidden_size=4, num_layers=2), 3, None, 2, Task.CLASSIFICATION)
ARCHITECTURES = (
    NUMBERS,
    Architecture(GRU(hidden_size=4, embedding_size=3), 0, 6, 6, Task.SEQUENCE_LABELLING),
    Architecture(RNN(hidden_size=4, nonlinearity="relu", bias=False), 2, None, 1, Task.REGRESSION),
    Architecture(CIFG(hidden_size=4, num_layers=2), 0, 6, 6, Task.SEQUENCE_LABELLING),
    Architecture(
        LSTM(hidden_size=4, embedding_size=5, tied_embeddings=True, head_projection=5, head_activation="tanh"),
        *(0, 6, 6, Task.SEQUENCE_LABELLING),
    ),
    Architecture(LSTM(hidden_size=4, num_layers=2, recurrent_projection=3), 3, None, 2, Task.CLASSIFICATION),
    Architecture(CIFG(hidden_size=4, num_layers=2, recurrent_projection=3), 3, None, 2, Task.CLASSIFICATION),
    *(
        Architecture(LSTM(hidden_size=4, pooling=pooling), 3, None, 2, Task.CLASSIFICATION)
        for pooling in ("mean", "max", "attention")
    ),
    *(
        Architecture(
            kind(hidden_size=4, num_layers=2, bidirectional=True, pooling=pooling), 3, None, 2, Task.REGRESSION
        )
        for kind, pooling in ((GRU, "last"), (CIFG, "max"), (RNN, "attention"))
    ),
    Architecture(LSTM(hidden_size=4, recurrent_projection=3, bidirectional=True), 3, None, 2, Task.REGRESSION),
    Architecture(GRU(hidden_size=4, gate_biases=1, head_projection=3), 3, None, 2, Task.REGRESSION),
)


def draw(arch):
    return torch.randn(arch.layout.num_parameters, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.95])
def test_pruning_is_that_of_torch(share):
    row = draw(NUMBERS)
    views = NUMBERS.layout.views(row)
    holder = nn.Module()
    names = [name for name, view in views.items() if view.dim() == 2]
    for place, name in enumerate(names):
        holder.register_parameter(f"w{place}", nn.Parameter(views[name].clone()))
    weights = [(holder, f"w{place}") for place in range(len(names))]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=share)
    result = NUMBERS.layout.views(pruned(row, NUMBERS, share))
    for place, name in enumerate(names):
        assert torch.equal(result[name], getattr(holder, f"w{place}"))
    for name in set(views) - set(names):
        assert torch.equal(result[name], views[name])


def test_pruning_leaves_what_it_was_given():
    row = draw(NUMBERS)
    before = row.clone()
    assert (pruned(row, NUMBERS, 0.5) == 0).sum() == round(0.5 * sum(v.numel() for v in matrices(row)))
    assert torch.equal(row, before)


def matrices(row):
    return [view for view in NUMBERS.layout.views(row).values() if view.dim() == 2]


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.model.cell)
def test_the_plain_module_has_the_names_and_the_outputs_of_the_model(arch):
    row = draw(arch)
    plain, reference = PlainModel(arch), ReferenceModel(arch)
    found = plain.load_state_dict(plain_parameters(arch, row), strict=False)
    assert not found.unexpected_keys
    assert found.missing_keys == (["head.weight"] if arch.model.tied_embeddings else [])
    load_row(reference, arch, row)
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 6, (3, 5), generator=rng)
    if not arch.vocabulary_size:
        inputs = torch.randn(3, 5, arch.input_size, generator=rng)
    lengths = torch.tensor([5, 2, 1])
    with torch.no_grad():
        assert torch.allclose(plain(inputs, lengths), reference(inputs, lengths), atol=1e-6)


def test_there_is_no_plain_module_of_the_older_gru():
    with pytest.raises(Exception, match=r"torch\.nn has no such module"):
        PlainModel(Architecture(GRUResetBefore(), 2, None, 2, Task.CLASSIFICATION))


def test_what_does_not_fit_float32_is_told(tiny, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    experiment = tiny(task=Task.REGRESSION)
    directory = tmp_path / "run"
    directory.mkdir()
    record = config.to_yaml(config.record_of(replace(experiment, partition=Natural())))
    assert run_experiment(replace(experiment, partition=Natural()), record, directory) == "done"
    path = checkpoint_path(directory, 2)
    state = load_checkpoint(path, torch.device("cpu"))
    state.row *= 1e100
    save_checkpoint(directory, state, read_run_facts(path))
    with pytest.raises(UserError, match=r"model\.onnx: outputs would differ"):
        export_run(directory, ["onnx"])
    assert list((directory / "export").iterdir()) == []


@pytest.mark.parametrize(
    "arch",
    [*ARCHITECTURES, Architecture(GRUResetBefore(hidden_size=4, num_layers=2), 2, None, 1, Task.REGRESSION)],
    ids=lambda arch: arch.model.cell,
)
def test_an_exported_program_takes_batches_and_sequences_of_any_size(arch):
    """It was traced on two sequences of three steps; its loop runs as often as there are steps."""
    row, reference, facts = draw(arch), ReferenceModel(arch), {"fedsim.json": ""}
    load_row(reference, arch, row)
    content = exported_program(arch, row, {"fedsim.json": "{}"})
    program = torch.export.load(io.BytesIO(content), extra_files=facts).module()
    assert facts == {"fedsim.json": "{}"}
    rng = torch.Generator().manual_seed(0)
    for size, steps in ((1, 1), (5, 9), (2, 40)):
        lengths = torch.randint(1, steps + 1, (size,), generator=rng)
        inputs = torch.randint(0, 6, (size, steps), generator=rng)
        if not arch.vocabulary_size:
            inputs = torch.randn(size, steps, arch.input_size, generator=rng)
        assert torch.allclose(program(inputs, lengths), reference(inputs, lengths), atol=1e-5)
