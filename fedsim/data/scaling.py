"""Features brought to one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Pooled, Split
from fedsim.data.fitted import Column, Fitted, arrays, columns

if TYPE_CHECKING:
    from numpy.typing import NDArray


def standardised(
    train: Split, test: Split, names: Sequence[str] | None = None, fitted: Fitted | None = None
) -> tuple[Split, Split, tuple[Column, ...]]:
    """Bring each feature to zero mean and unit variance over the training steps; the padding stays zero.

    A feature that never varies there becomes zero, and its differences in the test samples are left in its own unit.

    Args:
        train: inputs ``[S, T, D]`` float.
        test: the same features.
        names: of the D features; None numbers them from 1.
        fitted: scaling that other data were given; if it has as many features, it is applied as it is.

    Returns:
        Both splits with inputs float32, and how each feature was scaled.
    """
    width = train.inputs.shape[2]
    if fitted is not None and len(fitted.scaling.features) == width:
        scaled = fitted.scaling.features
    else:
        steps = train.inputs[_valid(train)].astype(np.float64)
        mean, deviation = steps.mean(0), steps.std(0)
        constant = np.ptp(steps, 0) == 0
        scaled = columns(
            names or [f"feature_{k}" for k in range(1, width + 1)],
            np.where(constant, steps[0], mean),
            np.where(constant, 1.0, deviation),
        )
    shift, scale = arrays(scaled)

    def apply(split: Split) -> Split:
        inputs = split.inputs.astype(np.float64)
        inputs -= shift
        inputs /= scale
        inputs[~_valid(split)] = 0
        return replace(split, inputs=inputs.astype(np.float32))

    return apply(train), apply(test), scaled


def pooled_scale(standardise: bool, fitted: Fitted | None, way_out: str = "") -> tuple[Pooled, ...]:
    """Return what `standardised` takes from all clients' samples.

    Args:
        standardise: whether it is called at all.
        fitted: the scaling that it gets; None if it fits one.
        way_out: the setting that does without it.
    """
    if not standardise:
        return ()
    if fitted is not None:
        return (Pooled("the scale of the features (that of the saved model)"),)
    return (Pooled("the scale of the features", way_out),)


def _valid(split: Split) -> NDArray[np.bool_]:
    """Which steps are real, ``[S, T]``."""
    mask: NDArray[np.bool_] = np.arange(split.inputs.shape[1]) < split.lengths[:, None]
    return mask
