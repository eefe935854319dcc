"""``fedsim export``: write a run's model in formats that other software reads, each checked against the original."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fedsim.data.batches import gather
from fedsim.data.dataset import Task
from fedsim.data.population import Population, Samples, to_device
from fedsim.errors import UserError, did_you_mean
from fedsim.evaluation.evaluate import evaluate, evaluate_samples
from fedsim.extras import require
from fedsim.federation.prepare import Simulation, prepare
from fedsim.models.macs import macs_per_sequence, macs_per_step
from fedsim.models.onnx_graph import build_graph
from fedsim.models.plain import PlainModel, plain_parameters
from fedsim.models.recurrent import Architecture
from fedsim.models.reference import ReferenceModel, load_row
from fedsim.models.scan_model import exported_program
from fedsim.models.scores import Sums, concatenate
from fedsim.models.stacked import score_outputs
from fedsim.recording.run_directory import write_atomically, write_json
from fedsim.runs.evaluate import threads, warn_of_other_data
from fedsim.runs.export_facts import describe, preprocessing
from fedsim.runs.saved_model import SavedModel, read_model

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = ("torch", "exported", "onnx", "int8")
SUFFIXES = {"torch": ".safetensors", "exported": ".pt2", "onnx": ".onnx", "int8": ".int8.onnx"}
BATCH = 256
TOLERANCE = 1e-3
"""Largest difference allowed between the float32 outputs of two runtimes, relative to the largest output."""

Model = Callable[[Tensor, Tensor], Tensor]
"""Maps inputs ``[b, T, D]`` or ``[b, T]`` and lengths ``[b]`` to outputs ``[b, K]`` or ``[b, T, K]``."""


@dataclass(frozen=True)
class Line:
    """One line of the table: the original model, or an exported one.

    Attributes:
        model: the round of the original model, or the name of the file.
        size: bytes of the file; for the original model, of its parameters.
        compressed: bytes after zlib.
        parameters: number of parameters.
        nonzero: how many of them are not zero.
        macs: multiply-accumulates per time step, and those done once per sequence. Kernels for dense matrices multiply
            zeros as well.
        metrics: test metrics.
        difference: the largest difference of the outputs from those of the original model (after pruning), over the
            test data and random inputs, relative to the largest output; None for the original model.
        note: a note for the user, or nothing.
    """

    model: str
    size: int
    compressed: int
    parameters: int
    nonzero: int
    macs: tuple[int, int]
    metrics: dict[str, float]
    difference: float | None = None
    note: str = ""


def export_run(
    directory: Path,
    formats: Sequence[str],
    *,
    prune: float | None = None,
    out: Path | None = None,
    which: str = "last",
    allow_modules: Sequence[str] = (),
) -> list[Line]:
    """Write the model of a run in the given formats, and score the written files on the run's test data.

    Args:
        directory: the run's directory.
        formats: the formats to write, of `FORMATS`.
        prune: share of the entries of all weight matrices together that is set to zero first, or None.
        out: folder for the files; None is ``export`` in the run's directory.
        which: ``last`` or ``best``, see `fedsim.runs.saved_model.read_model`.
        allow_modules: modules other than fedsim whose dataclasses the record may name.

    Raises:
        UserError: if an option is wrong, the run has no such model, or a format cannot represent it.
        OSError: if a file cannot be written.
    """
    from fedsim.runs.resume import read_experiment

    _check(formats, prune)
    folder = directory / "export" if out is None else out
    stem = "model" if prune is None else f"pruned-{prune:g}"
    files = {name: folder / f"{stem}{SUFFIXES[name]}" for name in dict.fromkeys(formats)}
    experiment = read_experiment(directory, allow_modules)
    saved = read_model(directory, which)
    for path in [*files.values(), *([folder / f"{stem}.json"] if "torch" in files else [])]:
        if os.path.lexists(path):  # even if it is a link to nothing
            raise UserError(f"--out {folder}: already holds {path.name}; choose another folder, or delete it")
    threads(experiment)
    simulation = prepare(experiment, saved.fitted)
    aside = preprocessing(folder / f"{stem}.preprocessing.json", simulation.population)
    saved.check(simulation.task.arch)
    saved.check_dtype(experiment.torch_dtype())
    warn_of_other_data(simulation, saved)
    arch, population = simulation.task.arch, to_device(simulation.population, torch.device("cpu"))
    row = saved.state.row
    before = evaluate(simulation.trainer, row.to(experiment.torch_device()), simulation.population)
    plain_bytes = row.numpy().tobytes()
    parameters, macs = len(row), (macs_per_step(arch), macs_per_sequence(arch))

    def line(name: str, content: bytes, *scored: Any) -> Line:
        return Line(name, len(content), _zip(content), parameters, int((row != 0).sum()), macs, *scored)

    lines = [line(f"round {saved.state.round}", plain_bytes, before.metrics)]
    if prune is not None:
        row = pruned(row, arch, prune)
    exact = _reference(arch, row)
    beside = [folder / f"{stem}.json"] if "torch" in files else []
    with _all_or_nothing([*files.values(), *beside, *(path for path in aside if not path.exists())]):
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in aside.items():
            write_atomically(path, content)
        for name, path in files.items():
            model = _WRITERS[name](path, arch, row, simulation, saved)
            content = path.read_bytes()
            score, difference = _score(model, exact, population, arch)
            if difference != difference:
                raise UserError(
                    f"{saved.path}: the model's outputs are not finite, on its test data or on random inputs"
                )
            if name != "int8" and not difference <= TOLERANCE:
                raise UserError(
                    f"{path}: outputs would differ from those of the run's model by up to {difference:.3g} of the "
                    "largest; such numbers do not fit the file's type"
                )
            lines.append(line(path.name, content, score, difference, _note(name, arch)))
    return lines


@contextmanager
def _all_or_nothing(files: Sequence[Path]) -> Iterator[None]:
    """Remove these files, none of which was there before, if the context ends with an exception."""
    try:
        yield
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds something else, or is not there
            files[0].parent.rmdir()
        raise


def _check(formats: Sequence[str], prune: float | None) -> None:
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--to {name}: must be one of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
        if name in ("onnx", "int8"):
            require(f"--to {name}", "onnx", "onnx", "onnxruntime")
    if prune is not None and not 0 < prune < 1:
        raise UserError(f"--prune {prune:g}: must be above 0 and below 1, a share of the weights")


def pruned(row: Tensor, arch: Architecture, share: float) -> Tensor:
    """Set the entries of smallest magnitude to zero, over all weight matrices together; biases stay.

    Equivalent to ``torch.nn.utils.prune.global_unstructured`` with ``L1Unstructured`` over those matrices, which is Han
    2015, "Learning both weights and connections for efficient neural networks", without the retraining.

    Args:
        row: ``[P]``, the model.
        arch: its architecture.
        share: share of the entries, above 0 and below 1, rounded to a whole number of entries.
    """
    from torch.nn.utils.prune import L1Unstructured

    result = row.clone()
    weights = [view.reshape(-1) for view in arch.layout.views(result).values() if view.dim() == 2]
    together = torch.cat(weights)
    mask = L1Unstructured(float(share)).compute_mask(together, torch.ones_like(together))
    for weight, kept in zip(weights, mask.split([len(w) for w in weights]), strict=True):
        weight.mul_(kept)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# the formats: each function writes a file and returns the model that it reads back from it


def _write_torch(path: Path, arch: Architecture, row: Tensor, simulation: Simulation, saved: SavedModel) -> Model:
    facts = describe(arch, simulation.experiment, simulation.population, saved)
    parameters = plain_parameters(arch, row)
    write_atomically(path, save(parameters, metadata={"format": "pt", "fedsim": json.dumps(facts)}))
    write_json(path.with_name(path.name.removesuffix(SUFFIXES["torch"]) + ".json"), facts)
    loaded = load_file(path)
    if arch.model.cell == "gru_reset_before":
        return _reference(arch, arch.layout.flatten(loaded))
    module = PlainModel(arch).to(row.dtype).train(False)
    module.load_state_dict(loaded | ({"head.weight": loaded[arch.head_weight]} if arch.model.tied_embeddings else {}))
    return module


def _write_exported(path: Path, arch: Architecture, row: Tensor, simulation: Simulation, saved: SavedModel) -> Model:
    content = exported_program(
        arch, row, {"fedsim.json": json.dumps(describe(arch, simulation.experiment, simulation.population, saved))}
    )
    write_atomically(path, content)
    model: Model = torch.export.load(io.BytesIO(content)).module()  # the bytes that were written
    return model


def _write_onnx(path: Path, arch: Architecture, row: Tensor, simulation: Simulation, saved: SavedModel) -> Model:
    write_atomically(path, _onnx_model(arch, row, simulation, saved).SerializeToString())
    return _session(path)


def _write_int8(path: Path, arch: Architecture, row: Tensor, simulation: Simulation, saved: SavedModel) -> Model:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # silences advice to infer shapes first, which this graph does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "int8.onnx"
            quantize_dynamic(_onnx_model(arch, row, simulation, saved), made, weight_type=QuantType.QInt8)
            write_atomically(path, made.read_bytes())
    finally:
        root.setLevel(level)
    return _session(path)


_WRITERS = {"torch": _write_torch, "exported": _write_exported, "onnx": _write_onnx, "int8": _write_int8}


def _onnx_model(arch: Architecture, row: Tensor, simulation: Simulation, saved: SavedModel) -> Any:
    from onnx import helper

    parameters = {name: view.float().numpy() for name, view in arch.layout.views(row).items()}
    model = build_graph(arch, parameters)
    helper.set_model_props(
        model, {"fedsim": json.dumps(describe(arch, simulation.experiment, simulation.population, saved))}
    )
    return model


def _session(path: Path) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor, lengths: Tensor) -> Tensor:
        numbers = inputs.float() if inputs.is_floating_point() else inputs
        (outputs,) = session.run(None, {"inputs": numbers.numpy(), "lengths": lengths.numpy()})
        return torch.from_numpy(outputs)

    return run


# ---------------------------------------------------------------------------------------------------------------------
# scores and the table


def _reference(arch: Architecture, row: Tensor) -> ReferenceModel:
    module = ReferenceModel(arch).to(row.dtype).train(False)
    load_row(module, arch, row)
    return module


def _score(model: Model, exact: Model, population: Population, arch: Architecture) -> tuple[dict[str, float], float]:
    """Return test metrics, and the largest difference of outputs relative to the largest output."""
    test, parts = population.test, []
    gaps, sizes = [], []

    def both(inputs: Tensor, lengths: Tensor) -> Tensor:
        outputs, wanted = model(inputs, lengths), exact(inputs, lengths)
        gaps.append((_valid(arch, outputs, lengths) - _valid(arch, wanted, lengths)).abs().max().double())
        sizes.append(_valid(arch, wanted, lengths).abs().max().double())
        return outputs

    with torch.no_grad():
        for inputs, lengths in _random_inputs(test, arch):
            both(inputs, lengths)
        for index in torch.arange(len(test)).split(BATCH):
            batch = gather(test, index[None], None)
            outputs = both(batch.inputs[0], batch.lengths[0])
            if arch.task is Task.SEQUENCE_LABELLING:
                outputs = outputs.transpose(0, 1).flatten(0, 1)  # step-major, as `score_outputs` expects them
            sums = score_outputs(arch, outputs[None], batch)
            parts.append(Sums(*(column[0] for column in sums.columns())))
    largest = torch.stack(sizes).max().clamp(min=1e-30)  # NaN stays NaN
    return evaluate_samples(concatenate(parts), population).metrics, float(torch.stack(gaps).max() / largest)


def _valid(arch: Architecture, outputs: Tensor, lengths: Tensor) -> Tensor:
    """The outputs ``[R, K]`` of real steps, leaving out padding."""
    if arch.task is not Task.SEQUENCE_LABELLING:
        return outputs
    return outputs[torch.arange(outputs.shape[1]) < lengths[:, None]]


def _random_inputs(test: Samples, arch: Architecture) -> list[tuple[Tensor, Tensor]]:
    """Batches of sizes unlike those of the data: one sequence of one step, and seven of up to 23 steps."""
    rng = torch.Generator().manual_seed(0)
    batches = []
    for size, steps in ((1, 1), (7, 23)):
        lengths = torch.randint(1, steps + 1, (size,), generator=rng)
        if arch.vocabulary_size is not None:
            inputs = torch.randint(0, arch.vocabulary_size, (size, steps), generator=rng)
        else:
            inputs = torch.randn(size, steps, arch.input_size, generator=rng, dtype=test.inputs.dtype)
        batches.append((inputs, lengths))
    return batches


def _note(name: str, arch: Architecture) -> str:
    if name == "int8" and arch.model.cell not in ("lstm", "cifg"):
        kind = "GRU" if "gru" in arch.model.cell else "RNN"
        return f"onnxruntime quantises no {kind}: its weights stay float32, only those of embedding and head are int8"
    if name == "torch" and arch.model.cell == "gru_reset_before":
        return "torch.nn has no gru_reset_before: loaded into nn.GRU, these weights give other outputs"
    if name in ("onnx", "int8") and arch.model.projection is not None:
        return (
            "ONNX's LSTM has no projection: the file has it after each layer, and multiplied into the recurrent weights"
        )
    if name == "torch" and arch.model.cell == "cifg":
        return "written for nn.LSTM, whose input gate has the forget gate's weights with the other sign"
    return ""


def _zip(content: bytes) -> int:
    return len(zlib.compress(content))


def show(lines: Sequence[Line]) -> None:
    """Print the table and, below it, what all of its lines have in common."""
    from rich.console import Console

    Console(highlight=False, emoji=False).print(render(lines))
    first, last = lines[0], lines[-1]
    kept, dense = ("", "") if last.nonzero == first.nonzero else (f", {last.nonzero:,} of them not zero", ", zeros too")
    per_step, per_sequence = first.macs
    once = f" and {per_sequence:,} per sequence" if per_sequence else ""
    print(f"{first.parameters:,} parameters{kept}; {per_step:,} multiply-accumulates per time step{once}{dense}")
    if any(line.note for line in lines):
        print(next(line.note for line in lines if line.note))


def render(lines: Sequence[Line]) -> Table:
    """Return the table of sizes and test metrics, before and after export."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [name for name in ("test_loss", "test_accuracy", "test_rmse") if name in lines[0].metrics]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for name in ("bytes", "zipped", "zeros", *names, "outputs\ndiffer"):
        table.add_column(name, justify="right")
    for line in lines:
        numbers = [f"{line.metrics[name]:.4f}" for name in names]
        gap = "" if line.difference is None else f"{line.difference:.1e}"
        cells = [
            line.model,
            f"{line.size:,}",
            f"{line.compressed:,}",
            f"{1 - line.nonzero / line.parameters:.0%}",
            *numbers,
            gap,
        ]
        table.add_row(*map(Text, cells))
    return table
