"""What a reproduction is, how its runs are made and resumed, and how its cells are judged."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

import fedsim
from fedsim.api.run import Run
from fedsim.config.compose import check_request
from fedsim.config.loader import make_loader
from fedsim.config.request import Request, normalise
from fedsim.errors import UserError
from fedsim.runs.estimate import duration, estimate
from fedsim.runs.facts import versions
from fedsim.runs.saved_model import prepared

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment

SAME = ("device=cpu", "threads=1", "console=none")
"""Settings of every run: one thread, so that results do not depend on the machine's cores."""
OWN: dict[str, Any] = {
    "config_dir": str(Path(__file__).parent / "configs"),
    "allow_modules": ("reproductions.stragglers",),
}
"""Where the parts are that fedsim does not bring."""
NOT_JUDGED = (-math.inf, math.inf)
"""Limits of a value that is shown next to a figure, and not judged."""

Results = Mapping[str, Sequence[Run]]
"""The finished runs of each case, by its label, in the order of the seeds."""


@dataclass(frozen=True)
class Case:
    """A setting in a publication's table.

    Attributes:
        label: its name there; also the name of its folder.
        overrides: what makes it, behind those that all cases share.
    """

    label: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A published number, or an order that a publication states, and what counts as reproducing it.

    Attributes:
        row: what is compared.
        column: what of it is measured.
        published: the number, or what the publication says, as text.
        low: the least that is within the tolerance.
        high: the most that is within the tolerance.
        measure: our values, one per seed, from the finished runs; KeyError where a run that it needs is missing.
        digits: decimals shown.
    """

    row: str
    column: str
    published: float | str
    low: float
    high: float
    measure: Callable[[Results], Sequence[float]]
    digits: int = 2

    def judged(self, results: Results) -> Judged:
        """Judge the mean over seeds; a cell whose runs are missing is not run."""
        try:
            values = [float(value) for value in self.measure(results)]
        except KeyError:
            values = []
        if not values:
            return Judged(self, (), "not run")
        mean = fmean(values)  # NaN, from a run that diverged or never came to its target, is within nothing
        verdict = "within" if self.low <= mean <= self.high else "outside"
        return Judged(self, tuple(values), "not judged" if (self.low, self.high) == NOT_JUDGED else verdict)


class Judged(NamedTuple):
    """A cell, our values of each seed, and the verdict: ``within``, ``outside``, ``not run`` or ``not judged``."""

    cell: Cell
    values: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class Version:
    """What is run, and what it is held against.

    Attributes:
        cells: judged in this order.
        tolerance: why the cells' limits are what they are; written before the first run.
        cases: the settings to run; none where the cells need no runs.
        common: overrides of all cases.
        seeds: of every case.
    """

    cells: tuple[Cell, ...]
    tolerance: str
    cases: tuple[Case, ...] = ()
    common: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Reproduction:
    """A published result.

    Attributes:
        name: how it is asked for.
        title: what it is, in a line.
        source: where the published numbers are.
        differences: what is not as published, and what that may do.
        short: takes minutes.
        full: the published size, or as near as fedsim comes.
        data: what ``--data`` must name; empty where nothing is needed.
        default: whether the short version has data of its own without ``--data``.
        make: writes the data into a folder and returns the overrides that read them.
        extra: another table to show.
    """

    name: str
    title: str
    source: str
    differences: str
    short: Version
    full: Version
    data: str = ""
    default: bool = False
    make: Callable[[Path], tuple[str, ...]] | None = None
    extra: Callable[[], str] | None = None


@dataclass
class Job:
    """One version of a reproduction, in its folder.

    Attributes:
        reproduction: what is reproduced.
        version: which of its versions.
        folder: where its runs and results are.
        data: what ``--data`` named.
        only: labels of the cases to run; empty: all.
        seeds: to run; empty: those of the version.
    """

    reproduction: Reproduction
    version: Version
    folder: Path
    data: str | None = None
    only: Sequence[str] = ()
    seeds: Sequence[int] = ()
    overrides: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Check what was asked for, and make the data.

        Raises:
            UserError: if a label is unknown, the data are missing, or the folder holds runs with other settings.
        """
        r, labels = self.reproduction, [case.label for case in self.version.cases]
        for label in self.only:
            if label not in labels:
                raise UserError(f"--only {label}: {r.name} has {', '.join(labels) or 'no cases'}")
        if self.data is not None and not r.data:
            raise UserError(f"--data {self.data}: {r.name} needs no data")
        if self.version.cases and r.data and self.data is None and not (r.default and self.version is r.short):
            raise UserError(f"--data: {r.name} needs {r.data}")
        more: tuple[str, ...] = () if self.data is None else (f"data.path={Path(self.data).expanduser().resolve()}",)
        if r.make is not None and self.version.cases:
            self.folder.mkdir(parents=True, exist_ok=True)
            more = r.make(self.folder)
        self.overrides = (*SAME, *self.version.common, *more)
        self._refuse_other_settings()

    def _refuse_other_settings(self) -> None:
        """Write down the settings of the folder's runs; runs of others are not to be mixed with them."""
        if not self.version.cases:
            return
        file, now = self.folder / "settings.json", {case.label: self._texts(case) for case in self.version.cases}
        then = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        for label, texts in now.items():
            place = self.folder / label
            if place.exists() and then.get(label) != texts:
                raise UserError(f"{place}: holds runs with other settings; remove it, or choose another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")

    def _texts(self, case: Case) -> list[str]:
        return [*self.overrides, *case.overrides]

    def runs(self) -> Iterator[tuple[Case, int, Path]]:
        """The runs that are asked for: case, seed and directory, seed by seed, so that every case is seen early."""
        for seed in self.seeds or self.version.seeds:
            for case in self.version.cases:
                if not self.only or case.label in self.only:
                    yield case, seed, self.folder / case.label / f"seed_{seed}"

    def todo(self) -> list[tuple[Case, int, Path]]:
        """The runs that are asked for and not finished."""
        return [one for one in self.runs() if finished(one[2]) is None]

    def seconds(self, say: Callable[[str], None]) -> float:
        """How long the unfinished runs will take at most here, from the first rounds of each case."""
        total = 0.0
        of_case: dict[str, tuple[float, int]] = {}
        for case, seed, place in self.todo():
            if case.label not in of_case:
                experiment = experiment_of([*self._texts(case), f"seed={seed}"])
                simulation = prepared(experiment)
                if not of_case:
                    estimate(simulation, 0)  # compiles kernels
                whole = estimate(simulation, 0).seconds
                of_case[case.label] = math.nan if whole is None else whole, experiment.rounds
                long = "not estimated" if whole is None else f"at most {duration(whole)}"
                say(f"  {case.label}: {long} per seed, {experiment.rounds} rounds")
            whole, rounds = of_case[case.label]
            total += whole * (1 - rounds_done(place) / rounds)
        return total

    def run(self, say: Callable[[str], None]) -> None:
        """Make or resume every run that is asked for; finished ones are kept."""
        for case, seed, place in self.todo():
            say(f"  {case.label}, seed {seed}")
            if checkpointed(place):
                Run(place, "", OWN["allow_modules"]).resume()
                continue
            shutil.rmtree(place, ignore_errors=True)  # stopped before its first checkpoint
            fedsim.run(*self._texts(case), f"seed={seed}", directory=place, **OWN)

    def results(self) -> dict[str, list[Run]]:
        """All finished runs by case; a case without any is missing."""
        found: dict[str, list[Run]] = {}
        for case in self.version.cases:
            folder = self.folder / case.label
            places = sorted(folder.glob("seed_*"), key=lambda place: int(place.name.removeprefix("seed_")))
            runs = [run for place in places if (run := finished(place)) is not None]
            if runs:
                found[case.label] = runs
        return found

    def judge(self) -> list[Judged]:
        """Judge all cells by the runs that are finished."""
        results = self.results()
        return [cell.judged(results) for cell in self.version.cells]

    def store(self, judged: Sequence[Judged]) -> str:
        """Write ``result.json`` and ``result.md`` into the folder, and return the latter."""
        trained = sum(_trained(run.directory) for runs in self.results().values() for run in runs)
        facts = {
            "date": datetime.now(UTC).date().isoformat(),
            "fedsim": fedsim.__version__,
            "versions": versions(),
            "seconds": round(trained),
        }
        names = ("row", "column", "published", "low", "high")
        cells = [
            {name: getattr(cell, name) for name in names} | {"values": values, "verdict": verdict}
            for cell, values, verdict in judged
        ]
        text = table(judged)
        if (extra := self.reproduction.extra) is not None:
            text += f"\n{extra()}\n"
        cost = f"\n{facts['date']}, fedsim {facts['fedsim']}; the runs took {duration(trained)} on one thread.\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "result.json").write_text(json.dumps({**facts, "cells": cells}, indent=1) + "\n", "utf-8")
        (self.folder / "result.md").write_text(text + cost, encoding="utf-8")
        return text + cost


def table(judged: Sequence[Judged]) -> str:
    """The cells in Markdown, published and ours side by side."""
    lines = ["| | measured | published | within | ours | seeds | verdict |", "|---|---|---:|---:|---:|---:|---|"]
    for cell, values, verdict in judged:
        d = cell.digits
        published = cell.published if isinstance(cell.published, str) else f"{cell.published:.{d}f}"
        ours = "-"
        if values:
            spread = f" ({min(values):.{d}f} to {max(values):.{d}f})" if len(values) > 1 else ""
            ours = f"{fmean(values):.{d}f}{spread}"
        limits = _limits(cell)
        lines.append(
            f"| {cell.row} | {cell.column} | {published} | {limits} | {ours} | {len(values) or '-'} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _limits(cell: Cell) -> str:
    if (cell.low, cell.high) == NOT_JUDGED:
        return "-"
    low, high = (f"{bound:.{cell.digits}f}" for bound in (cell.low, cell.high))
    if cell.high == math.inf:
        return f"at least {low}"
    return f"at most {high}" if cell.low == -math.inf else f"{low} to {high}"


def finished(place: Path) -> Run | None:
    """The run in a directory, if it came to its end; one that diverged did, too."""
    file = place / "summary.json"
    status = json.loads(file.read_text(encoding="utf-8")).get("status") if file.exists() else None
    return Run(place, status) if status in ("done", "stopped", "diverged") else None


def checkpointed(place: Path) -> bool:
    """Whether a run that was stopped can be resumed."""
    return (place / "config.yaml").exists() and any((place / "checkpoints").glob("*.safetensors"))


def rounds_done(place: Path) -> int:
    """The round of a stopped run's last checkpoint, 0 if it has none."""
    names = (place / "checkpoints").glob("round_*.safetensors")
    return max((int(path.stem.removeprefix("round_")) for path in names), default=0)


def experiment_of(texts: Sequence[str]) -> Experiment:
    """The checked experiment that overrides make."""
    request = normalise(Request(tuple(texts), False, OWN["config_dir"], OWN["allow_modules"]))
    return check_request(request, make_loader(request.config_dir))[0].experiment


def _trained(place: Path) -> float:
    """Seconds that a run took, from its ``timing.csv``."""
    timing = pd.read_csv(place / "timing.csv")
    return float(timing[["train", "evaluate"]].fillna(0).to_numpy().sum())


# ---------------------------------------------------------------------------------------------------------------------
# What cells measure


def last(case: str, column: str, scale: float = 1.0) -> Callable[[Results], list[float]]:
    """The last evaluation of a case, seed by seed."""
    return lambda results: [scale * final(run, column) for run in results[case]]


def final(run: Run, column: str, rounds: int | None = None) -> float:
    """The last value of a column, or the mean of what was evaluated in the last `rounds`; NaN of a diverged run."""
    if run.status == "diverged":
        return math.nan
    values = run.metrics[column].dropna()
    if rounds is not None:
        return float(values[values.index > run.metrics.index.max() - rounds].mean())
    return float(values.iloc[-1])


def pairs(results: Results, first: str, second: str) -> Iterator[tuple[Run, Run]]:
    """The runs of two cases with the same seed."""
    seconds = {run.directory.name: run for run in results[second]}
    return ((run, seconds[run.directory.name]) for run in results[first] if run.directory.name in seconds)


def difference(first: str, second: str, measure: Callable[[Run], float]) -> Callable[[Results], list[float]]:
    """By how much a case's measure exceeds another's, seed by seed."""
    return lambda results: [measure(a) - measure(b) for a, b in pairs(results, first, second)]
