"""Japanese Vowels: nine speakers say the same two vowels, and the model tells who speaks."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.fitted import Column, Fitted, Scaling, columns
from fedsim.data.scaling import pooled_scale, standardised

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUM_SPEAKERS = 9
_SPLITS = ("train", "test")

_WHY_NOT_NATURAL = (
    "in japanese_vowels the label is the speaker, so a client per speaker is a client per label; for such an extreme "
    "label skew use partition=labels_per_client partition.labels=1 num_clients=9"
)


@dataclass(frozen=True)
class JapaneseVowels:
    """Speaker recognition from 12 LPC cepstrum coefficients per frame (Kudo, Toyama, Shimbo 1999).

    270 training and 370 test utterances of 7 to 29 frames, 9 labels, 30 training utterances each. The data come with
    fedsim (UCI Machine Learning Repository, doi:10.24432/C5NS47, CC BY 4.0; made by ``scripts/japanese_vowels.py``).

    Attributes:
        standardise: whether each coefficient is brought to zero mean and unit variance over the training frames. The
            raw coefficients differ in scale by a factor of five, and every model learns them more slowly.
    """

    standardise: bool = True

    def load(self, seed: int) -> Dataset:
        """Return inputs ``[S, 29, 12]`` float32 (zeros after the end) and labels ``[S]`` 0..8.

        Args:
            seed: not used, the data are always the same.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data scaled as others were; see `load`."""
        return self._load(fitted)

    def _load(self, fitted: Fitted | None) -> Dataset:
        arrays = _arrays()
        train, test = (
            Split(*(arrays[f"{split}_{part}"].copy() for part in ("inputs", "lengths", "targets"))) for split in _SPLITS
        )
        names = [f"coefficient_{k}" for k in range(1, train.inputs.shape[2] + 1)]
        features: tuple[Column, ...] = columns(names)
        if self.standardise:
            train, test, features = standardised(train, test, names, fitted)
        return Dataset(
            name="japanese_vowels",
            task=Task.CLASSIFICATION,
            train=train,
            test=test,
            num_outputs=_NUM_SPEAKERS,
            why_not_natural=_WHY_NOT_NATURAL,
            fitted=Fitted(Scaling(features), labels=tuple(f"speaker_{k}" for k in range(1, _NUM_SPEAKERS + 1))),
            pooled=pooled_scale(self.standardise, fitted),
        )


@cache
def _arrays() -> dict[str, NDArray[Any]]:
    """Both splits, padded to the longest utterance of all."""
    from safetensors.numpy import load  # here because it needs numpy at once

    file = importlib.resources.files("fedsim.data").joinpath("japanese_vowels.safetensors")
    packed = load(file.read_bytes())
    longest = max(int(packed[f"{split}_lengths"].max()) for split in _SPLITS)
    arrays: dict[str, NDArray[Any]] = {}
    for split in _SPLITS:
        frames, lengths = packed[f"{split}_frames"], packed[f"{split}_lengths"]
        inputs = np.zeros((len(lengths), longest, frames.shape[1]), np.float32)
        inputs[np.arange(longest) < lengths[:, None]] = frames
        arrays |= {
            f"{split}_inputs": inputs,
            f"{split}_lengths": lengths,
            f"{split}_targets": packed[f"{split}_targets"],
        }
    return arrays
