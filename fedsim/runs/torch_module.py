"""The saved model of a run as a module of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.federation.prepare import prepare
from fedsim.models.reference import ReferenceModel, load_row
from fedsim.runs.record import started_elsewhere
from fedsim.runs.resume import read_experiment
from fedsim.runs.saved_model import read_model

if TYPE_CHECKING:
    from torch import nn


def torch_module(directory: Path, which: str = "last", allow_modules: Sequence[str] = ()) -> nn.Module:
    """The global model of a run as a module, on the CPU, in evaluation mode.

    Args:
        directory: the run's directory.
        which: ``last`` or ``best``, see `fedsim.runs.saved_model.read_model`.
        allow_modules: modules other than fedsim whose dataclasses the record may name.

    Raises:
        UserError: if there is no saved model, or it is not a whole one.
    """
    experiment = read_experiment(directory, allow_modules)
    saved = read_model(directory, which)
    with started_elsewhere(directory, experiment):
        arch = prepare(experiment, saved.fitted).task.arch
    saved.check(arch)
    module = ReferenceModel(arch).to(saved.state.row.dtype).train(False)
    load_row(module, arch, saved.state.row)
    return module
