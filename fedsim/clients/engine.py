"""Which engine trains the clients, and how many of them at a time."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedsim.clients.malloc import keep_freed_memory
from fedsim.clients.scores import EVALUATION_BATCH
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.errors import FieldError, check_one_of
from fedsim.models.recurrent import Architecture, RecurrentModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@runtime_checkable
class Engine(Protocol):
    """A way to train and evaluate clients."""

    def trainer(self, task: LocalTask, device: torch.device, dtype: torch.dtype) -> Trainer:
        """Bind the engine to a task."""
        ...

    def chunk_size(self, task: LocalTask, dtype: torch.dtype) -> int:
        """How many clients are trained at a time, before their deltas go to the combine rule."""
        ...

    def describe(self, device: torch.device, dtype: torch.dtype, model: RecurrentModel) -> str:
        """Return a phrase about the engine for the start of a run."""
        ...


@dataclass(frozen=True)
class StackedEngine:
    """A cohort trains as one stack of rows.

    Attributes:
        kernels: ``numba`` (fused, CPU), ``torch`` (batched operations, any device), ``cuda_graphs`` (those operations,
            recorded once per shape and replayed by one launch, unless there is dropout), or ``auto``: numba on a CPU,
            cuda_graphs on a GPU. The choice depends on the device alone, because the bytes of a result depend on it.
        memory_budget: memory that a chunk of clients may take, such as ``2GiB``. A fixed value, never derived from the
            machine's free memory, because the chunk size decides how sums are rounded.
    """

    kernels: str = "auto"
    memory_budget: str = "2GiB"

    def __post_init__(self) -> None:
        check_one_of(self, "kernels", ("auto", "numba", "torch", "cuda_graphs"))
        if self.budget_bytes < 2**20:
            raise FieldError("memory_budget", self.memory_budget, "must be at least 1MiB")

    @property
    def budget_bytes(self) -> int:
        """`memory_budget` in bytes."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", self.memory_budget)
        if match is None or match[2] not in _UNITS:
            raise FieldError("memory_budget", self.memory_budget, "must be a size such as 512MiB or 2GiB")
        return int(min(float(match[1]) * _UNITS[match[2]], float(2**62)))

    def _kernels(self, device: torch.device) -> str:
        place = f"(device={device.type}); use torch or auto"
        if self.kernels == "numba" and device.type != "cpu":
            raise FieldError("engine.kernels", self.kernels, f"runs on a CPU only {place}")
        if self.kernels == "cuda_graphs" and device.type != "cuda":
            raise FieldError("engine.kernels", self.kernels, f"needs device=cuda {place}")
        own = {"cpu": "numba", "cuda": "cuda_graphs"}.get(device.type, "torch")
        return own if self.kernels == "auto" else self.kernels

    def trainer(self, task: LocalTask, device: torch.device, dtype: torch.dtype) -> Trainer:
        """Bind the engine to a task, and import its kernels (only here: Numba takes half a second to import)."""
        from fedsim.clients.stacked import StackedTrainer
        from fedsim.models.cuda_graphs import Graphs

        if device.type == "cpu":
            keep_freed_memory()
        kernels = self._kernels(device)
        module = load_kernels("torch" if kernels == "cuda_graphs" else kernels)
        samples = EVALUATION_BATCH * sample_bytes(task.arch, task.population.train.steps, dtype)
        blocks = max(1, min(16, self.budget_bytes // samples))
        return StackedTrainer(task, module, blocks, Graphs(task.arch, module) if kernels == "cuda_graphs" else None)

    def chunk_size(self, task: LocalTask, dtype: torch.dtype) -> int:
        """As many clients as fit the budget, each with rows, gradients, optimizer state and one batch's activations."""
        return max(1, self.budget_bytes // client_bytes(task, dtype))

    def describe(self, device: torch.device, dtype: torch.dtype, model: RecurrentModel) -> str:
        """For instance ``stacked (numba kernels)``, with a warning if this machine has yet to compile the kernels."""
        kernels = self._kernels(device)
        if kernels == "numba" and not load_kernels("numba").compiled(model.cell, dtype):
            return "stacked (numba kernels; compiling them first, once on this machine, takes some seconds)"
        return "stacked (CUDA graphs)" if kernels == "cuda_graphs" else f"stacked ({kernels} kernels)"


@dataclass(frozen=True)
class SequentialEngine:
    """One client after another in plain `torch.nn`: the reference."""

    def trainer(self, task: LocalTask, device: torch.device, dtype: torch.dtype) -> Trainer:
        """Bind the engine to a task; plain modules need no preparation."""
        from fedsim.clients.sequential import SequentialTrainer  # which needs torch.nn

        return SequentialTrainer(task)

    def chunk_size(self, task: LocalTask, dtype: torch.dtype) -> int:
        """64: one client is trained at a time, but the deltas of a chunk are held together."""
        return 64

    def describe(self, device: torch.device, dtype: torch.dtype, model: RecurrentModel) -> str:
        """Return the engine's name and what it uses."""
        return "sequential (torch.nn, one client at a time)"


def load_kernels(name: str) -> ModuleType:
    """Import `fedsim.models.numba_kernels` or `fedsim.models.torch_kernels`."""
    return importlib.import_module(f"fedsim.models.{name}_kernels")


def sample_bytes(arch: Architecture, steps: int, dtype: torch.dtype) -> int:
    """Activations that training one sample holds: inputs, gates, states and their gradients, and the outputs."""
    m = arch.model
    units = len(arch.directions) * arch.hidden_size
    per_step = m.num_layers * units * (3 * m.gates + 5) + (arch.embedding_size or arch.input_size)
    if m.bidirectional:
        per_step += 3 * m.num_layers * arch.state_size  # both states beside each other, and what was read backwards
    if m.pooling != "last":
        per_step += 3 * arch.state_size
    dense = 3 * m.head_projection if m.head_projection is not None else 0
    outputs = (3 * arch.num_outputs + dense) * (steps if arch.task == "sequence_labelling" else 1)
    return (steps * per_step + outputs) * dtype.itemsize


def training_bytes(task: LocalTask, dtype: torch.dtype) -> Tensor:
    """``[N]`` int64 bytes that each client needs to train: rows, one batch's activations and its sample indices."""
    count = 8 + task.correction.held_rows  # anchor, row, gradient, two moments, temporaries; what corrections hold
    rows = count * task.arch.layout.num_parameters * dtype.itemsize
    samples = task.population.train
    batch = samples.sizes if task.config.batch_size is None else samples.sizes.clamp(max=task.config.batch_size)
    return rows + batch * sample_bytes(task.arch, samples.steps, dtype) + 24 * samples.sizes


def client_bytes(task: LocalTask, dtype: torch.dtype) -> int:
    """Bytes that the largest client needs to train."""
    return int(training_bytes(task, dtype).max())
