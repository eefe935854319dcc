"""Any data set of the UCR and UEA archives of time series classification, by its name."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedsim.data.aeon_files import aeon_folders, import_aeon
from fedsim.data.cache import Arrays, cache_directories, cached_arrays
from fedsim.data.dataset import Dataset, Pooled, Split, Task
from fedsim.data.download import fetch, fetch_json
from fedsim.data.fitted import Column, Fitted, Scaling, columns
from fedsim.data.scaling import pooled_scale, standardised
from fedsim.data.ucr_files import KINDS, SPLITS, Cases, Floats, find_files, read_cases
from fedsim.data.user_files import content_identity
from fedsim.errors import FieldError, UserError, check_one_of, did_you_mean
from fedsim.extras import version

RECORDS = "https://zenodo.org/api/records"
"""Where the archives' files are, with their MD5 digests; aeon knows each data set's record."""

_DIGESTS = "digests.json"
_PARTS = ("inputs", "lengths", "targets")


@dataclass(frozen=True)
class Ucr:
    """A data set of the UCR (Dau et al. 2019) or UEA (Bagnall et al. 2018) archive, with the archive's own split.

    The files are looked for in `path`; else among those that come with the aeon library (ACSF1, ArrowHead,
    BasicMotions, GunPoint, ItalyPowerDemand, JapaneseVowels, OSULeaf, PickupGestureWiimoteZ); else in the cache; else
    they are fetched from Zenodo once and compared with the digests there. Their converted arrays are cached.

    Files of the user's own may be of any kind that the archives were published in, of which the first that is there is
    read: ``.ts``; ``.tsv`` (UCR 2018: label and values between tabs); ``.txt``, or no suffix (older UCR: between
    commas or spaces, with labels such as ``1.0000000e+00``); ``.arff`` (Weka, several channels as a relation). But for
    ``.ts``, such files fill up what is shorter with missing values, so that those at a series' end are taken for its
    end, with a note.

    Series of unequal length are padded with zeros at the end, which the model does not look at. Labels are in lower
    case and numbered in sorted order, by value if all are numbers. The archives do not say who was measured, so there
    are no natural clients.

    Attributes:
        name: the data set's name, such as ``ECG5000``, in the archive's spelling.
        path: folder with ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` (or another kind of file), or with a folder ``NAME`` of
            them; or None.
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
        identity = f"{content_identity(self.path, files)} {self.name} {self.missing} aeon {version('aeon') or 'none'}"
        names = [f"{split}_{part}" for split in SPLITS for part in _PARTS] + ["words"]
        arrays = cached_arrays("ucr", identity, names, partial(_convert, self, files))
        words = json.loads(arrays["words"].tobytes())
        labels = tuple(words["labels"])
        known = labels if fitted is None or not fitted.labels else fitted.labels
        if new := [label for label in labels if label not in known]:
            raise UserError(
                f"data.name={self.name}: these data have labels that the model does not know: "
                f"{', '.join(map(repr, new[:6]))}; it knows {', '.join(map(repr, known[:6]))}"
                + (f", ... ({len(known)} in all)" if len(known) > 6 else "")
            )
        number = np.array([known.index(label) for label in labels], np.int64)
        train, test = (
            Split(
                arrays[f"{split}_inputs"],
                arrays[f"{split}_lengths"].astype(np.int64),
                number[arrays[f"{split}_targets"].astype(np.int64)],
            )
            for split in SPLITS
        )
        channels = [f"channel_{k}" for k in range(1, train.features + 1)]
        features: tuple[Column, ...] = columns(channels)
        if self.standardise:
            train, test, features = standardised(train, test, channels, fitted)
        return Dataset(
            name=self.name,
            task=Task.CLASSIFICATION,
            train=train,
            test=test,
            num_outputs=len(known),
            why_not_natural=f"the archive does not say who was measured in {self.name}",
            fitted=Fitted(Scaling(features), labels=known),
            pooled=(
                *pooled_scale(self.standardise, fitted, "take data.standardise=false"),
                *([] if fitted else [Pooled("the list of classes")]),
            ),
            notes=tuple(words["notes"]),
        )

    def _files(self) -> tuple[Path, ...]:
        """The training and the test file, fetched if need be."""
        names = [f"{self.name}_{split}.ts" for split in SPLITS]
        if self.path is not None:
            folder = Path(self.path).expanduser()
            if (found := find_files((folder, folder / self.name), self.name)) is None:
                others = ", ".join(kind for kind in KINDS if kind not in ("", ".ts"))
                there = [folder / name for name in names if not (folder / name).is_file()]
                raise UserError(
                    f"data.path={self.path}: there is no file {there[0]}, nor are there both files in another kind "
                    f"({others}, or no suffix), or in a folder {self.name}"
                )
            return found
        places = [folder / self.name for folder in aeon_folders()]
        places += [cache / "ucr" / self.name for cache in cache_directories()]
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
    tsc_zenodo = import_aeon("aeon.datasets.tsc_datasets", "data=ucr").tsc_zenodo
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
    notes: list[str] = []
    raw = [_read(ucr, file, notes) for file in files]
    labels = _sorted({label for _, names in raw for label in names})
    number = {label: k for k, label in enumerate(labels)}
    longest = max(series.shape[1] for cases, _ in raw for series in cases)
    channels = raw[0][0][0].shape[0]
    arrays: Arrays = {"words": np.frombuffer(json.dumps({"labels": labels, "notes": notes}).encode(), np.uint8)}
    for split, file, (cases, names) in zip(SPLITS, files, raw, strict=True):
        inputs = np.zeros((len(cases), longest, channels), np.float32)
        for row, series in zip(inputs, cases, strict=True):  # a series is [channels, steps]
            if len(series) != channels:
                raise UserError(f"data.name={ucr.name}: {file} has series of {len(series)} channels and of {channels}")
            row[: series.shape[1]] = series.T
        arrays[f"{split}_inputs"] = inputs
        arrays[f"{split}_lengths"] = np.array([series.shape[1] for series in cases], np.int64)
        arrays[f"{split}_targets"] = np.array([number[name] for name in names], np.int64)
    return arrays


def _read(ucr: Ucr, file: Path, notes: list[str]) -> Cases:
    """Return series ``[channels, steps]`` without missing values, and labels."""
    where = f"data.name={ucr.name}: {file}"
    (series, labels), cut = read_cases(file, where)
    if any(np.isinf(case).any() for case in series):
        raise UserError(f"{where} has infinite values")
    if cut:
        notes.append(
            f"{file.name}: {cut:,} of {len(series):,} series end in missing values, which are taken for their end (the "
            "archive fills up what is shorter); a .ts file in data.path says what is missing"
        )
    gaps = sum(bool(np.isnan(case).any()) for case in series)
    if gaps and ucr.missing == "refuse":
        raise UserError(f"{where} has missing values in {gaps} of {len(series)} series; set data.missing=interpolate")
    if gaps:
        notes.append(
            f"{file.name}: missing values in {gaps:,} of {len(series):,} series are filled on straight lines "
            "(data.missing=interpolate)"
        )
    return [_interpolate(case) for case in series], labels


def _interpolate(series: Floats) -> Floats:
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
