"""What an exported model does not say itself: its shape, and what its inputs and outputs mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fedsim
from fedsim.data.population import Population
from fedsim.errors import UserError
from fedsim.federation.experiment import Experiment
from fedsim.models.recurrent import Architecture
from fedsim.runs.saved_model import SavedModel


def describe(arch: Architecture, experiment: Experiment, population: Population, saved: SavedModel) -> dict[str, Any]:
    """Return the facts needed to use an exported model, as plain data."""
    return {
        "cell": arch.model.cell,
        "task": str(arch.task),
        "input_size": arch.input_size or None,
        "vocabulary_size": arch.vocabulary_size,
        "embedding_size": arch.embedding_size or None,
        "hidden_size": arch.hidden_size,
        "recurrent_projection": arch.model.projection,
        "num_layers": arch.model.num_layers,
        "bias": arch.model.bias,
        "gate_biases": arch.model.gate_biases,
        "bidirectional": arch.model.bidirectional,
        "pooling": arch.model.pooling,
        "head_projection": arch.model.head_projection,
        "head_activation": arch.model.head_activation,
        "tied_embeddings": arch.model.tied_embeddings,
        "num_outputs": arch.num_outputs,
        "prepared": population.fitted.record(),
        "dtype": experiment.dtype,
        "data": type(experiment.data).__name__,
        "round": saved.state.round,
        "fedsim": fedsim.__version__,
    }


def preprocessing(path: Path, population: Population) -> dict[Path, bytes]:
    """What is written beside the models: how to prepare inputs and to read outputs; nothing if there is nothing to say.

    Raises:
        UserError: if there is another such file.
    """
    forecast, record = population.forecast, population.fitted.record()
    if forecast is not None:
        record |= {"horizon": forecast.horizon, "quantiles": [*forecast.quantiles]}
    if not record:
        return {}
    content = (json.dumps(record, indent=2) + "\n").encode()
    if path.exists() and path.read_bytes() != content:
        raise UserError(f"--out {path.parent}: {path.name} is there, and of other data; choose another folder")
    return {path: content}
