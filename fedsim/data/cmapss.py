"""NASA's turbofan engines: how many flights are left before the engine fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from fedsim.data.cache import Arrays, cached_arrays
from fedsim.data.dataset import Dataset, Pooled, Score, Split, Task
from fedsim.data.fitted import Fitted, Scaling, arrays, columns
from fedsim.data.user_files import content_identity, existing
from fedsim.errors import FieldError, UserError, check_at_least, check_one_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SUBSETS = ("FD001", "FD002", "FD003", "FD004")
_COLUMNS = 26
"""Engine, cycle, three operational settings, sensors 1 to 21."""
_USUAL = [sensor + 4 for sensor in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)]
"""Columns of the fourteen sensors that vary in FD001 and FD003; the other seven are constant or nearly so."""

_NAMES = ("engine", "cycle", *(f"setting_{k}" for k in range(1, 4)), *(f"sensor_{k}" for k in range(1, 22)))

Floats: TypeAlias = "NDArray[np.float64]"


def nasa_score(error: Tensor) -> Tensor:
    """The score of the PHM 2008 challenge (Saxena et al. 2008): late predictions cost more than early ones.

    Args:
        error: ``[S]`` predicted minus true remaining cycles.

    Returns:
        ``[S]`` ``exp(-d/13) - 1`` for ``d < 0``, else ``exp(d/10) - 1``; to be added up, smaller is better.
    """
    return torch.expm1(torch.where(error < 0, -error / 13, error / 10))


@dataclass(frozen=True)
class Cmapss:
    """Remaining useful life of simulated turbofan engines (C-MAPSS; Saxena, Goebel, Simon, Eklund 2008).

    One engine is one client. Each training engine runs until it fails; its windows of `window` flights (cycles), each
    with the number of flights left after it, are the training samples. Test engines stop earlier, and the last window
    of each is its test sample. They are not the training engines: test engine k is given to client k, although the two
    have nothing to do with each other. FD001 and FD003 have 100 and 100, FD002 260 and 259, FD004 249 and 248, so that
    in the latter two the last client has no test sample. An engine with fewer than `window` cycles is one shorter
    sequence.

    The preprocessing is the usual one (Heimes 2008; Zheng et al. 2017; Li et al. 2018): 14 sensors, each scaled over
    all training rows together; remaining life is taken to be at most `rul_cap`, because a healthy engine shows no wear.
    In a real federation, the clients would have to agree on this scaling. FD002 and FD004 fly under
    six operating conditions, which move the sensors far more than wear does: nothing is scaled per condition here, but
    ``sensors=varying`` adds the operational settings, from which a model can tell the condition.

    The model learns remaining life divided by the cap (the longest training life if there is none), and losses are in
    that unit; ``test_rmse``, ``test_mae`` and ``test_nasa_score`` are in cycles.

    Attributes:
        path: folder with ``train_FD001.txt``, ``test_FD001.txt`` and ``RUL_FD001.txt`` (or another subset's), as in
            NASA's archive "Turbofan Engine Degradation Simulation Data Set".
        subset: ``FD001`` to ``FD004``.
        window: cycles per sample.
        stride: cycles from one training window of an engine to the next.
        rul_cap: upper limit of the remaining life to predict, in cycles; None for no limit.
        cap_test: whether the test engines' remaining life is limited too, as in most papers; the published RMSE of
            12 to 16 cycles on FD001 are of this kind. It has no effect without `rul_cap`.
        sensors: ``usual``: sensors 2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20 and 21; ``varying``: every setting and
            sensor that takes more than one value in the training data.
        scale: ``minmax``: to -1..1 over the training rows; ``standard``: to zero mean and unit variance.
    """

    path: str | None = None
    subset: str = "FD001"
    window: int = 30
    stride: int = 1
    rul_cap: int | None = 125
    cap_test: bool = True
    sensors: str = "usual"
    scale: str = "minmax"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing, out of range or has no effect.
        """
        if not self.path:
            raise FieldError("path", self.path, "name the folder with train_FD001.txt, test_FD001.txt, RUL_FD001.txt")
        check_one_of(self, "subset", SUBSETS)
        check_at_least(self, 1, "window", "stride", "rul_cap")
        check_one_of(self, "sensors", ("usual", "varying"))
        check_one_of(self, "scale", ("minmax", "standard"))
        if self.rul_cap is None and not self.cap_test:
            raise FieldError("cap_test", self.cap_test, "has no effect with rul_cap=null")

    def load(self, seed: int) -> Dataset:
        """Return inputs ``[S, window, features]`` float32 and targets ``[S, 1]`` float32, in units of the cap.

        Args:
            seed: not used, the data are always the same.

        Raises:
            UserError: if a file is missing or malformed.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the sensors, the scaling and the cap's unit of other data; see `load`."""
        return self._load(fitted)

    def _load(self, fitted: Fitted | None) -> Dataset:
        folder = Path(self.path or "").expanduser()
        files = existing(self.path, *(folder / f"{part}_{self.subset}.txt" for part in ("train", "test", "RUL")))
        tables = cached_arrays(
            "cmapss", content_identity(self.path, files), ("train", "test", "left"), lambda: _read(self.path, files)
        )
        train, test = (_engines(tables[part].astype(np.float64)) for part in ("train", "test"))
        left = tables["left"].astype(np.float64)
        _check_counts(train, test, left, self.path, files)
        rows = np.concatenate(train)
        used = _USUAL if self.sensors == "usual" else (np.flatnonzero(np.ptp(rows[:, 2:], 0) > 0) + 2).tolist()
        if not used:
            raise UserError(f"data.sensors=varying: no setting or sensor of {files[0].name} varies")
        shift, width = self._scaling(rows[:, used])
        if fitted is not None and fitted.scaling.features:
            used = [_NAMES.index(c.name) for c in fitted.scaling.features if c.name in _NAMES]
            shift, width = arrays(c for c in fitted.scaling.features if c.name in _NAMES)
        train, test = ([(engine[:, used] - shift) / width for engine in part] for part in (train, test))

        windows: list[Floats] = []
        lives: list[int] = []
        owners: list[int] = []
        for client, engine in enumerate(train):
            first = min(self.window, len(engine))
            for end in range(first, len(engine) + 1, self.stride):
                windows.append(engine[max(0, end - self.window) : end])
                lives.append(len(engine) - end)
                owners.append(client)
        cap = np.inf if self.rul_cap is None else self.rul_cap
        unit = float(self.rul_cap or max(1, *lives))
        if fitted is not None and len(fitted.scaling.targets) == 1:
            unit = fitted.scaling.targets[0].scale
        truth = np.minimum(left, cap) if self.cap_test else left
        return Dataset(
            name="cmapss",
            task=Task.REGRESSION,
            train=self._split(windows, np.minimum(lives, cap) / unit, owners),
            test=self._split([engine[-self.window :] for engine in test], truth / unit, list(range(len(test)))),
            num_outputs=1,
            client_names=tuple(f"engine_{k}" for k in range(1, len(train) + 1)),
            ordered=True,
            overlap=-(-self.window // self.stride) - 1,
            held_anywhere=True,
            fitted=Fitted(
                Scaling(
                    columns((_NAMES[k] for k in used), shift, width),
                    columns(["remaining cycles"], scale=unit),
                )
            ),
            score=Score("nasa_score", nasa_score),
            pooled=self._pooled(fitted),
        )

    def _pooled(self, fitted: Fitted | None) -> tuple[Pooled, ...]:
        if fitted is not None:
            return (Pooled("the scale of the sensors (that of the saved model)"),)
        more = [] if self.rul_cap else [Pooled("the longest life, which is the unit of the target")]
        more += [Pooled("which sensors vary")] if self.sensors == "varying" else []
        return (Pooled("the scale of the sensors"), *more)

    def _scaling(self, rows: Floats) -> tuple[Floats, Floats]:
        """What to subtract from each column ``[F]`` and what to divide it by; a constant column becomes zero."""
        if self.scale == "standard":
            shift, width = rows.mean(0), rows.std(0)
        else:
            low, high = rows.min(0), rows.max(0)
            shift, width = (low + high) / 2, (high - low) / 2
        constant = np.ptp(rows, 0) == 0
        return np.where(constant, rows[0], shift), np.where(constant, 1.0, width)

    def _split(self, windows: list[Floats], targets: Floats, owners: list[int]) -> Split:
        """Put windows ``[T, F]`` into one array, zeros after their end."""
        inputs = np.zeros((len(windows), self.window, windows[0].shape[1]), np.float32)
        for row, window in zip(inputs, windows, strict=True):
            row[: len(window)] = window
        lengths = np.array([len(window) for window in windows], np.int64)
        return Split(inputs, lengths, targets[:, None].astype(np.float32), np.array(owners, np.int64))


def _read(path: str | None, files: tuple[Path, ...]) -> Arrays:
    """Read the tables ``[rows, 26]`` and the test engines' remaining life."""
    train, test, left = (
        _table(path, file, columns) for file, columns in zip(files, (_COLUMNS, _COLUMNS, 1), strict=True)
    )
    return {"train": train, "test": test, "left": left[:, 0]}


def _table(path: str | None, file: Path, columns: int) -> Floats:
    text = file.read_text(encoding="ascii", errors="replace")
    if not text.strip():
        raise UserError(f"data.path={path}: {file} is empty")
    try:
        table = np.loadtxt(text.splitlines(), ndmin=2)
    except ValueError as error:
        raise UserError(f"data.path={path}: {file} is not a table of numbers ({error})") from error
    if table.shape[1] != columns:
        raise UserError(f"data.path={path}: {file} has {table.shape[1]} columns and must have {columns}")
    bad = ~np.isfinite(table).all(1)
    if columns == _COLUMNS:
        # Engines are numbered 1, 2, ... in this order, and each one's cycles 1, 2, ...
        engine, cycle = table[:, 0], table[:, 1]
        starts = np.diff(engine, prepend=0) != 0
        bad |= (engine != np.cumsum(starts)) | (cycle != np.where(starts, 1, np.roll(cycle, 1) + 1))
        allowed = "finite numbers, with engines and the cycles of each numbered 1, 2, ..."
    else:
        bad |= table[:, 0] < 0
        allowed = "a number of at least 0"
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        start = " ".join(f"{number:g}" for number in table[row, :3])
        raise UserError(f"data.path={path}: {file} row {row + 1} ({start} ...): must be {allowed}")
    return table


def _engines(table: Floats) -> list[Floats]:
    """Cut a table into one per engine."""
    return np.split(table, np.flatnonzero(np.diff(table[:, 0])) + 1)


def _check_counts(
    train: list[Floats], test: list[Floats], left: Floats, path: str | None, files: tuple[Path, ...]
) -> None:
    if len(left) != len(test):
        raise UserError(
            f"data.path={path}: {files[2]} has {len(left)} rows and must have one for each of the {len(test)} engines "
            f"of {files[1].name}"
        )
    if len(test) > len(train):
        raise UserError(
            f"data.path={path}: {files[1]} has {len(test)} engines and {files[0].name} {len(train)}: there must be a "
            "training engine, which is a client, for each test engine"
        )
