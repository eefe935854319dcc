"""Features brought to one scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Split


def standardised(train: Split, test: Split) -> tuple[Split, Split]:
    """Bring each feature to zero mean and unit variance over the training steps; the padding stays zero.

    A feature that never varies there becomes zero, and its differences in the test samples are left in its own unit.

    Args:
        train: inputs ``[S, T, D]`` float.
        test: the same features.

    Returns:
        Both splits with inputs float32.
    """
    steps = train.inputs[_valid(train)].astype(np.float64)
    mean, deviation = steps.mean(0), steps.std(0)
    constant = np.ptp(steps, 0) == 0
    mean, deviation = np.where(constant, steps[0], mean), np.where(constant, 1.0, deviation)

    def scale(split: Split) -> Split:
        scaled = split.inputs.astype(np.float64)
        scaled -= mean
        scaled /= deviation
        scaled[~_valid(split)] = 0
        return replace(split, inputs=scaled.astype(np.float32))

    return scale(train), scale(test)


def _valid(split: Split) -> NDArray[np.bool_]:
    """Which steps are real, ``[S, T]``."""
    mask: NDArray[np.bool_] = np.arange(split.inputs.shape[1]) < split.lengths[:, None]
    return mask
