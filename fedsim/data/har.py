"""What people are doing, recognised from the motion of the smartphone at their waist."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from fedsim.data.cache import Arrays, cached_arrays
from fedsim.data.contents import check_zip
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.download import fetch
from fedsim.data.fitted import Column, Fitted, Scaling, columns
from fedsim.data.scaling import pooled_scale, standardised
from fedsim.data.user_files import content_identity, existing
from fedsim.errors import FieldError, UserError, check_above, check_between

if TYPE_CHECKING:
    from numpy.typing import NDArray

URL = "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip"
SHA256 = "c00b803081a5c797cd5e4b83700a9810b38d53d9d84e01917e090e1fdbc81031"
"""UCI publishes no digest; this is the one that many users of the file have noted independently."""

SIGNALS = tuple(f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
ACTIVITIES = ("walking", "walking_upstairs", "walking_downstairs", "sitting", "standing", "laying")

_FOLDER = "UCI HAR Dataset"
_STEPS = 128
_PARTS = ("train", "test")
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What a damaged zip or table raises."""

Opener = Callable[[str], IO[bytes]]


@dataclass(frozen=True)
class Har:
    """Human activity recognition from windows of 2.56 seconds (Anguita et al. 2013, UCI data set 240, CC BY 4.0).

    10,299 windows of 128 steps at 50 Hz of body acceleration, angular velocity and total acceleration along three axes;
    six activities: walking, upstairs, downstairs, sitting, standing, laying. One subject is one client: 30.

    The archive's own split puts 21 subjects into training and 9 others into test, so that no client would both train
    and test. Here the two are pooled, and every stretch of consecutive windows in which a subject does one thing is cut
    by time: its last `test_fraction` is for testing, and the window before that is left out, since windows overlap by
    half. Results cannot be compared with those on the archive's own split, which is harder because it tests on people
    that the model has never seen.

    Attributes:
        path: the archive as downloaded, the zip inside it, or the folder "UCI HAR Dataset" or one that holds it; None
            fetches the archive once (61 MB).
        standardise: whether each signal is brought to zero mean and unit variance over the training steps.
        test_fraction: share of each stretch to test on, above 0 and below 1.
    """

    path: str | None = None
    standardise: bool = True
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range.
        """
        if self.path == "":
            raise FieldError("path", self.path, "name the archive or its folder, or leave it null to fetch it")
        check_above(self, 0, "test_fraction")
        check_between(self, 0, 1, "test_fraction", open_high=True)

    def load(self, seed: int) -> Dataset:
        """Return inputs ``[S, 128, 9]`` float32 and labels ``[S]`` 0..5.

        Args:
            seed: not used, the split is by time.

        Raises:
            UserError: if the archive cannot be fetched or read, or no stretch is long enough to test.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data scaled as others were; see `load`."""
        return self._load(fitted)

    def _load(self, fitted: Fitted | None) -> Dataset:
        where = self._place()
        names = [f"{part}/{name}" for part in _PARTS for name in _members(part)]
        files = existing(self.path, *(where / name for name in names)) if where.is_dir() else (where,)
        identity = content_identity(self.path, files)
        arrays = cached_arrays("har", identity, ("inputs", "labels", "subjects"), lambda: self._convert(where))
        labels, subjects = arrays["labels"].astype(np.int64), arrays["subjects"].astype(np.int64)
        train, test = self._cut(labels, subjects)
        if not len(test):
            raise UserError(f"data.test_fraction={self.test_fraction}: no stretch is long enough to give a test window")
        people, clients = np.unique(subjects, return_inverse=True)
        splits = [
            Split(arrays["inputs"][at], np.full(len(at), _STEPS, np.int64), labels[at], clients[at].astype(np.int64))
            for at in (train, test)
        ]
        features: tuple[Column, ...] = columns(SIGNALS)
        if self.standardise:
            *splits, features = standardised(splits[0], splits[1], SIGNALS, fitted)
        return Dataset(
            name="har",
            task=Task.CLASSIFICATION,
            train=splits[0],
            test=splits[1],
            num_outputs=len(ACTIVITIES),
            client_names=tuple(f"subject_{k}" for k in people.tolist()),
            stretches=np.cumsum(np.diff(train, prepend=train[0]) > 1),
            overlap=1,
            fitted=Fitted(Scaling(features), labels=ACTIVITIES),
            pooled=pooled_scale(self.standardise, fitted, "take data.standardise=false"),
        )

    def _cut(self, labels: NDArray[np.int64], subjects: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return which windows train and which test."""
        starts = np.flatnonzero((np.diff(labels, prepend=-1) != 0) | (np.diff(subjects, prepend=-1) != 0))
        train, test = [], []
        for start, stop in zip(starts, np.append(starts[1:], len(labels)), strict=True):
            held_out, gap = round(self.test_fraction * (stop - start)), 1
            if held_out == 0 or start + gap >= stop - held_out:  # nothing to test, or nothing left to train on
                held_out = gap = 0
            train.append(np.arange(start, stop - held_out - gap))
            test.append(np.arange(stop - held_out, stop))
        return np.concatenate(train), np.concatenate(test)

    def _place(self) -> Path:
        """The folder that holds ``train`` and ``test``, or a zip."""
        if self.path is None:
            by_hand = "download it by hand and set data.path=FILE"
            return fetch(URL, f"sha256:{SHA256}", "har", "har.zip", by_hand)
        path = Path(self.path).expanduser()
        if not path.exists():
            raise UserError(f"data.path={self.path}: there is no file or folder {path}")
        return path / _FOLDER if (path / _FOLDER).is_dir() else path

    def _convert(self, where: Path) -> Arrays:
        """Read all windows, those of the archive's training part first."""
        if where.is_dir():
            return self._read(lambda name: (where / name).open("rb"))
        try:
            with zipfile.ZipFile(where) as outer:
                check_zip(outer)
                nested = next((name for name in outer.namelist() if name.endswith(f"{_FOLDER}.zip")), None)
                if nested is None:
                    return self._read(lambda name: outer.open(f"{_FOLDER}/{name}"))
                with zipfile.ZipFile(io.BytesIO(outer.read(nested))) as inner:
                    check_zip(inner)
                    return self._read(lambda name: inner.open(f"{_FOLDER}/{name}"))
        except _DAMAGED as error:
            raise UserError(
                f"data.path={self.path}: {where} is damaged or not the data's zip ({type(error).__name__}: {error})"
            ) from error

    def _read(self, opener: Opener) -> Arrays:
        inputs, labels, subjects = [], [], []
        for part in _PARTS:
            *signals, label, subject = (self._table(opener, f"{part}/{name}") for name in _members(part))
            for name, table in zip(_members(part), [*signals, label, subject], strict=True):
                width = _STEPS if name.startswith("Inertial") else 1
                if table.shape != (len(label), width):
                    raise UserError(
                        f"data.path={self.path}: {part}/{name} has {table.shape[0]} rows of {table.shape[1]} numbers "
                        f"and must have {len(label)} of {width}"
                    )
            if not np.isin(label, range(1, len(ACTIVITIES) + 1)).all() or (subject < 0).any():
                raise UserError(f"data.path={self.path}: the labels in {part} must be 1 to 6, and subjects at least 0")
            inputs.append(np.stack(signals, 2))
            labels.append(label[:, 0].astype(np.int64) - 1)
            subjects.append(subject[:, 0].astype(np.int64))
        return {
            "inputs": np.concatenate(inputs),
            "labels": np.concatenate(labels),
            "subjects": np.concatenate(subjects),
        }

    def _table(self, opener: Opener, name: str) -> NDArray[np.float32]:
        import pandas as pd  # here because a cached run needs none of it

        try:
            with opener(name) as file:
                table = pd.read_csv(file, sep=r"\s+", header=None, dtype=np.float32).to_numpy()
        except KeyError as error:
            raise UserError(f"data.path={self.path}: the zip has no {_FOLDER}/{name}") from error
        except _DAMAGED as error:  # pandas' own exceptions are ValueErrors
            reason = str(error).splitlines()[0]
            raise UserError(f"data.path={self.path}: {name} is not a table of numbers ({reason})") from error
        if not np.isfinite(table).all():
            raise UserError(f"data.path={self.path}: {name} has a value that is missing or not finite")
        return np.asarray(table, np.float32)


def _members(part: str) -> tuple[str, ...]:
    """Files of the archive's training or test part."""
    return (*(f"Inertial Signals/{name}_{part}.txt" for name in SIGNALS), f"y_{part}.txt", f"subject_{part}.txt")
