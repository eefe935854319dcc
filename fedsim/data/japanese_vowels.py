"""Japanese Vowels: nine speakers say the same two vowels, and the model tells who speaks."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.aeon_files import aeon_folders, import_aeon
from fedsim.data.cache import Arrays, cached_arrays
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.fitted import Column, Fitted, Scaling, columns
from fedsim.data.scaling import standardised

_NUM_SPEAKERS = 9
_SPLITS = ("train", "test")
_PARTS = ("inputs", "lengths", "targets")

_WHY_NOT_NATURAL = (
    "in japanese_vowels the label is the speaker, so a client per speaker is a client per label; for such an extreme "
    "label skew use partition=labels_per_client partition.labels=1 num_clients=9"
)


@dataclass(frozen=True)
class JapaneseVowels:
    """Speaker recognition from 12 LPC cepstrum coefficients per frame (Kudo, Toyama, Shimbo 1999).

    270 training and 370 test utterances of 7 to 29 frames, 9 labels, 30 training utterances each. The data come with
    the aeon library; their converted arrays are cached (`fedsim.data.cache`), since importing aeon takes seconds.

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
        names = [f"{split}_{part}" for split in _SPLITS for part in _PARTS]
        arrays = cached_arrays("japanese_vowels", f"aeon {version('aeon')}", names, _convert)
        train, test = (
            Split(arrays[f"{split}_inputs"], arrays[f"{split}_lengths"].astype(np.int64), arrays[f"{split}_targets"])
            for split in _SPLITS
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
        )


def _convert() -> Arrays:
    """Read both splits from aeon and pad them to the longest utterance of all."""
    read = import_aeon("aeon.datasets").load_from_ts_file  # its own loader makes a folder in the home directory
    files = {s: aeon_folders()[0] / "JapaneseVowels" / f"JapaneseVowels_{s.upper()}.ts" for s in _SPLITS}
    raw: dict[str, tuple[list[NDArray[Any]], NDArray[Any]]] = {s: read(str(file)) for s, file in files.items()}
    longest = max(series.shape[1] for cases, _ in raw.values() for series in cases)
    arrays: Arrays = {}
    for split, (cases, labels) in raw.items():
        inputs = np.zeros((len(cases), longest, cases[0].shape[0]), np.float32)
        for row, series in zip(inputs, cases, strict=True):  # a series is [features, steps]
            row[: series.shape[1]] = series.T
        arrays[f"{split}_inputs"] = inputs
        arrays[f"{split}_lengths"] = np.array([series.shape[1] for series in cases], np.int64)
        arrays[f"{split}_targets"] = labels.astype(np.int64) - 1  # aeon's labels are '1'..'9'
    return arrays
