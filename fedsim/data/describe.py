"""What the data are, in lines for someone who has never seen them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import IGNORE, Dataset, Task
from fedsim.data.population import Population

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MOST = 12
"""Names shown in a line."""


def describe(data: Dataset | Population) -> dict[str, str]:
    """Return what the inputs and the targets are, text by label; tables add their rows and times."""
    return {**dict(data.facts), **_inputs(data), **_targets(data)}


def _inputs(data: Dataset | Population) -> dict[str, str]:
    lengths = np.asarray(data.train.lengths)
    low, high = int(lengths.min()), int(lengths.max())
    steps = f"{low}" if low == high else f"{low} to {high}, median {np.median(lengths):g}"
    if data.vocabulary_size is not None:
        known = [name for name in data.fitted.vocabulary if len(name) == 1]
        shown = f": {''.join(known)!r}" if 0 < len(known) <= 100 else ""
        return {"inputs": f"tokens, a vocabulary of {data.vocabulary_size:,}{shown}", "steps per sample": steps}
    names = [column.name for column in data.fitted.scaling.features]
    count = int(data.train.inputs.shape[-1])
    return {"features": f"{count}{': ' + _some(map(repr, names)) if names else ''}", "steps per sample": steps}


def _targets(data: Dataset | Population) -> dict[str, str]:
    if data.task is not Task.REGRESSION:
        counts = [_counts(part.targets, data.num_outputs) for part in (data.train, data.test)]
        names = data.fitted.labels or data.fitted.vocabulary or tuple(map(str, range(data.num_outputs)))
        kind = "labels" if data.task is Task.CLASSIFICATION else "targets at every step"
        order = range(len(names)) if len(names) <= MOST else np.argsort(-counts[0], kind="stable").tolist()
        found = (f"{_shown(names[k])} {counts[0][k]:,} + {counts[1][k]:,}" for k in order)
        return {kind: f"{_some(found)} (training + test)"}
    known, forecast = data.fitted.scaling.targets, data.forecast
    wide = max(len(known), 1) * max(len(forecast.quantiles) if forecast else 0, 1)
    values = np.asarray(data.train.targets, np.float64).reshape(len(data.train.targets), -1, wide)
    if not known:
        return {
            "targets": f"{data.num_outputs}, training mean {values.mean():.4g}, standard deviation {values.std():.4g}"
        }
    step = wide // len(known)
    parts = []
    for k, column in enumerate(known):
        own = values[..., k * step] * column.scale + column.shift
        own_unit = "" if not data.fitted.clients else " (each client scaled by itself)"
        parts.append(f"{column.name!r}, training mean {own.mean():.4g}, standard deviation {own.std():.4g}{own_unit}")
    lines = {"targets": _some(parts)}
    if forecast is not None:
        levels = f", quantiles {', '.join(map(str, forecast.quantiles))}" if forecast.quantiles else ""
        lines["horizon"] = f"{forecast.horizon} rows ahead{levels}"
    return lines


def _counts(targets: ArrayLike, number: int) -> NDArray[np.int64]:
    values = np.asarray(targets)
    counts: NDArray[np.int64] = np.bincount(values[values != IGNORE].reshape(-1), minlength=number)
    return counts


def _shown(name: str) -> str:
    return repr(name) if len(name) == 1 else name


def _some(texts: Iterable[str]) -> str:
    texts = [*texts]
    more = len(texts) - MOST
    return ", ".join(texts[:MOST]) + (f" and {more:,} more" if more > 0 else "")
