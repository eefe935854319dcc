"""Any data set of the UCR and UEA archives of time series classification, by its name."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.data.cache import Arrays, cache_directory, cached_arrays
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.download import fetch, fetch_json
from fedsim.data.fitted import Fitted, Scaling, columns
from fedsim.data.scaling import standardised
from fedsim.data.table_frame import shorten
from fedsim.data.user_files import content_identity, existing
from fedsim.errors import FieldError, UserError, check_one_of, did_you_mean

RECORDS = "https://zenodo.org/api/records"
"""Where the archives' files are, with their MD5 digests; aeon knows each data set's record."""

_DIGESTS = "digests.json"
_SPLITS = ("TRAIN", "TEST")
_PARTS = ("inputs", "lengths", "targets")


@dataclass(frozen=True)
class Ucr:
    """A data set of the UCR (Dau et al. 2019) or UEA (Bagnall et al. 2018) archive, with the archive's own split.

    The files are ``.ts``, ``.tsv`` (the archive of 2018: a label and the values of a series in each line, empty values
    at its end), ``.txt`` (the same, between blanks or commas, as in earlier archives) or ``.arff`` (Weka's, with a
    relation for several channels). They are looked for in `path`, in this order; else among those that come with the
    aeon library (ACSF1, ArrowHead, BasicMotions, GunPoint, ItalyPowerDemand, JapaneseVowels, OSULeaf,
    PickupGestureWiimoteZ); else in the cache; else they are fetched from Zenodo once and compared with the digests
    there. Their converted arrays are cached.

    Series of unequal length are padded with zeros at the end, which the model does not look at. Labels are numbered in
    sorted order, by value if all are numbers. The archives do not say who was measured, so there are no natural
    clients.

    Attributes:
        name: the data set's name, such as ``ECG5000``, in the archive's spelling.
        path: folder with ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` (or another ending), or None.
        standardise: whether each channel is brought to zero mean and unit variance over the training steps.
        missing: ``refuse`` series with missing values, or ``interpolate`` linearly between the values around them (a
            channel without any value becomes zero).
    """

    name: str = "BasicMotions"
    path: str | None = None
    standardise: bool = True
    missing: str = "refuse"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if the name cannot be one, or a value is not allowed.
        """
        if not re.fullmatch(r"\w[\w-]*", self.name, re.ASCII):
            raise FieldError("name", self.name, "must be the name of a data set, such as ECG5000")
        if self.path == "":
            raise FieldError("path", self.path, f"name the folder with {self.name}_TRAIN.ts, or leave it null")
        check_one_of(self, "missing", ("refuse", "interpolate"))

    def load(self, seed: int) -> Dataset:
        """Return inputs ``[S, T, channels]`` float32 (zeros after the end) and labels ``[S]`` int64.

        Args:
            seed: not used, the data are always the same.

        Raises:
            UserError: if the files cannot be found, fetched or read, or do not hold a classification.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the labels and the scaling of others; see `load`."""
        return self._load(fitted)

    def _load(self, fitted: Fitted | None) -> Dataset:
        files = self._files()
        identity = f"{content_identity(self.path, files)} {self.name} {self.missing} aeon {version('aeon')}"
        names = [f"{split}_{part}" for split in _SPLITS for part in _PARTS] + ["labels"]
        arrays = cached_arrays("ucr", identity, names, partial(_convert, self, files))
        train, test = (
            Split(arrays[f"{split}_inputs"], arrays[f"{split}_lengths"].astype(np.int64), arrays[f"{split}_targets"])
            for split in _SPLITS
        )
        labels = tuple(arrays["labels"].tolist())
        if fitted is not None and fitted.labels:
            if new := [label for label in labels if label not in fitted.labels]:
                raise UserError(
                    f"data.name={self.name}: has labels that the model does not know: {shorten(new)}; it knows "
                    f"{shorten(fitted.labels)}"
                )
            number = np.array([fitted.labels.index(label) for label in labels], np.int64)
            train, test = (replace(split, targets=number[split.targets.astype(np.int64)]) for split in (train, test))
            labels = fitted.labels
        features = columns([f"channel_{k}" for k in range(1, train.inputs.shape[2] + 1)])
        if self.standardise:
            train, test, features = standardised(train, test, [column.name for column in features], fitted)
        return Dataset(
            name=self.name,
            task=Task.CLASSIFICATION,
            train=train,
            test=test,
            num_outputs=len(labels),
            why_not_natural=f"the archive does not say who was measured in {self.name}",
            fitted=Fitted(Scaling(features), labels=labels),
        )

    def _files(self) -> tuple[Path, ...]:
        """The training and the test file, fetched if need be."""
        names = [f"{self.name}_{split}.ts" for split in _SPLITS]
        if self.path is not None:
            folder = Path(self.path).expanduser()
            found = [[folder / f"{self.name}_{split}{ending}" for split in _SPLITS] for ending in _READERS]
            return existing(self.path, *next((pair for pair in found if all(f.is_file() for f in pair)), found[0]))
        aeon = importlib.util.find_spec("aeon")  # finds it without importing it, which takes seconds
        places = [Path(p, "datasets", "data", self.name) for p in (aeon and aeon.submodule_search_locations) or ()]
        if (cache := cache_directory()) is not None:
            places.append(cache / "ucr" / self.name)
        for place in places:
            files = tuple(place / name for name in names)
            if all(file.is_file() for file in files):
                _check_digests(self.name, place, files)
                return files
        return _download(self.name, names)


def _download(name: str, files: list[str]) -> tuple[Path, ...]:
    """Fetch the files from the Zenodo record that aeon names.

    aeon's own download is not used: it does not notice a connection that breaks off.
    """
    from aeon.datasets.tsc_datasets import tsc_zenodo  # here because importing it takes seconds

    if name not in tsc_zenodo:
        raise UserError(
            f"data.name={name}: is not in the UCR and UEA archives{did_you_mean(name, tsc_zenodo)}; "
            "https://timeseriesclassification.com lists what is"
        )
    number = tsc_zenodo[name]
    by_hand = f"download {' and '.join(files)} from https://zenodo.org/records/{number} and set data.path=FOLDER"
    url = f"{RECORDS}/{number}"
    record = fetch_json(url, by_hand)
    try:
        listed = {entry["key"]: (str(entry["links"]["self"]), str(entry["checksum"])) for entry in record["files"]}
        found = tuple(fetch(*listed[file], f"ucr/{name}", file, by_hand) for file in files)
    except (KeyError, TypeError) as error:
        raise UserError(f"{url}: does not list {files[0]} and its digest; {by_hand}") from error
    with suppress(OSError):  # without them, the next run compares nothing
        (found[0].parent / _DIGESTS).write_text(json.dumps({file: listed[file][1] for file in files}))
    return found


def _check_digests(name: str, place: Path, files: tuple[Path, ...]) -> None:
    """Raise `UserError` if files in the cache are no longer those that were fetched, whose digests lie beside them."""
    try:
        digests = json.loads((place / _DIGESTS).read_text())
    except (OSError, ValueError):
        return  # aeon's own, or put there by hand
    for file in files:
        kind, _, digest = str(digests.get(file.name) if isinstance(digests, dict) else "").partition(":")
        if kind == "md5" and hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() != digest:
            raise UserError(f"data.name={name}: {file} is not what was fetched (its MD5 has changed); delete it")


def _convert(ucr: Ucr, files: tuple[Path, ...]) -> Arrays:
    """Read both files and pad their series to the longest of all."""
    raw = [_read(ucr, file) for file in files]
    labels = _sorted({label for _, names in raw for label in names})
    number = {label: k for k, label in enumerate(labels)}
    longest = max(series.shape[1] for cases, _ in raw for series in cases)
    channels = raw[0][0][0].shape[0]
    arrays: Arrays = {"labels": np.array(labels)}
    for split, file, (cases, names) in zip(_SPLITS, files, raw, strict=True):
        inputs = np.zeros((len(cases), longest, channels), np.float32)
        for row, series in zip(inputs, cases, strict=True):  # a series is [channels, steps]
            if len(series) != channels:
                raise UserError(f"data.name={ucr.name}: {file} has series of {len(series)} channels and of {channels}")
            row[: series.shape[1]] = series.T
        arrays[f"{split}_inputs"] = inputs
        arrays[f"{split}_lengths"] = np.array([series.shape[1] for series in cases], np.int64)
        arrays[f"{split}_targets"] = np.array([number[name] for name in names], np.int64)
    return arrays


def _read(ucr: Ucr, file: Path) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Return series ``[channels, steps]`` and labels."""
    where = f"data.name={ucr.name}: {file}"
    try:
        series, labels = _READERS[file.suffix](file)
    except NoLabels:
        raise UserError(f"{where} has no class labels; data=ucr is for classification") from None
    except (OSError, ValueError, TypeError, IndexError, KeyError) as error:  # what aeon and pandas raise on damage
        reason = " ".join(str(error).split())
        raise UserError(f"{where} cannot be read as a {file.suffix} file ({type(error).__name__}: {reason})") from error
    if not series:
        raise UserError(f"{where} has no series")
    if any(not case.shape[1] for case in series):
        raise UserError(f"{where} has a series without values")
    if any(np.isinf(case).any() for case in series):
        raise UserError(f"{where} has infinite values")
    gaps = sum(bool(np.isnan(case).any()) for case in series)
    if gaps and ucr.missing == "refuse":
        raise UserError(f"{where} has missing values in {gaps} of {len(series)} series; set data.missing=interpolate")
    return [_interpolate(case) for case in series], labels


class NoLabels(Exception):
    """A file of series without labels."""


_Cases = tuple[list[NDArray[np.float64]], list[str]]


def _read_ts(file: Path) -> _Cases:
    from aeon.datasets import load_from_ts_file  # here because importing it takes seconds

    cases, labels, about = load_from_ts_file(str(file), return_meta_data=True)
    if not about["classlabel"]:
        raise NoLabels
    return [np.asarray(case, np.float64) for case in cases], [str(label) for label in labels]


def _read_arff(file: Path) -> _Cases:
    from aeon.datasets import load_from_arff_file

    cases, labels = load_from_arff_file(str(file))
    return [_until_the_end(np.asarray(case, np.float64)) for case in cases], [str(label) for label in labels]


def _read_lines(file: Path, separator: str) -> _Cases:
    """Read a label and the values of one series from each line."""
    import pandas as pd  # here because importing it takes half a second

    table = pd.read_csv(file, sep=separator, header=None, engine="python", skipinitialspace=True)
    table = table.dropna(axis=1, how="all")  # blanks at the beginning or the end of lines
    if table.shape[1] < 2:
        raise ValueError("a line must be a label and at least one value")
    values = table.iloc[:, 1:].to_numpy(np.float64)
    if table.iloc[:, 0].isna().any():
        raise ValueError(f"line {int(table.iloc[:, 0].isna().to_numpy(bool).argmax()) + 1} has no label")
    return [_until_the_end(row[None]) for row in values], [_whole(label) for label in table.iloc[:, 0]]


def _until_the_end(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut off the steps ``[channels, steps]`` at the end that no channel has: such files pad short series so."""
    known = np.flatnonzero(~np.isnan(series).all(0))
    return series[:, : known[-1] + 1] if len(known) else series[:, :0]


def _whole(label: object) -> str:
    """A label as text, 1 for ``1.0000000e+00``."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


_READERS: dict[str, Callable[[Path], _Cases]] = {
    ".ts": _read_ts,
    ".tsv": partial(_read_lines, separator="\t"),
    ".txt": partial(_read_lines, separator=r"[,\s]+"),
    ".arff": _read_arff,
}


def _interpolate(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill each channel's gaps on straight lines, and its ends with the nearest value."""
    if not np.isnan(series).any():
        return series
    filled = np.zeros_like(series)
    steps = np.arange(series.shape[1])
    for channel, values in zip(filled, series, strict=True):
        known = ~np.isnan(values)
        if known.any():
            channel[:] = np.interp(steps, steps[known], values[known])
    return filled


def _sorted(labels: set[str]) -> list[str]:
    """By value if all are numbers, else as text."""
    try:
        return sorted(labels, key=lambda label: (float(label), label))
    except ValueError:
        return sorted(labels)
