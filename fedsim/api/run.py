"""`fedsim.run`, `fedsim.sweep` and `fedsim.load`: what the commands do, with their words as exceptions.

Each takes settings as they are typed (``"partition=dirichlet"``), as a mapping (``{"client.optimizer.lr": 0.1}``), or
as keywords (``rounds=10``); the last one counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedsim.compare.groups import differing
from fedsim.compare.reading import load_runs
from fedsim.config.compose import check_request, record_of, to_yaml
from fedsim.config.from_file import value_text, with_files
from fedsim.config.loader import make_loader
from fedsim.config.request import Request, normalise
from fedsim.errors import UserError, print_error
from fedsim.runs import sweep as sweeps
from fedsim.runs.failures import raised
from fedsim.runs.resume import continue_run
from fedsim.runs.run import run_experiment
from fedsim.runs.torch_module import torch_module

if TYPE_CHECKING:
    from torch import nn

Settings = str | Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run, as its directory holds it.

    Attributes:
        directory: where its files are.
        status: ``done``, ``stopped`` (early), ``diverged``, or, of a job of a sweep, how else it ended.
        allow_modules: the modules besides fedsim whose classes it uses.
    """

    directory: Path
    status: str
    allow_modules: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """``metrics.csv``: a row per round, indexed by the round; what was not measured in it is NaN."""
        return pd.read_csv(self.directory / "metrics.csv").set_index("round")

    @cached_property
    def clients(self) -> pd.DataFrame:
        """``clients.csv``: a row per client at the last evaluation."""
        return pd.read_csv(self.directory / "clients.csv")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``summary.json``: status, final and best values, versions, notes on the data."""
        content: dict[str, Any] = json.loads((self.directory / "summary.json").read_text(encoding="utf-8"))
        return content

    def model(self, which: str = "last") -> nn.Module:
        """The global model as a module of PyTorch, on the CPU, in evaluation mode.

        Args:
            which: ``last``, or ``best`` for the checkpoint with the best value of the metric that judges the run.

        Returns:
            a module that takes ``(inputs, lengths)``, of shapes ``[b, T, F]`` (or ``[b, T]`` tokens) and ``[b]``, and
            returns ``[b, K]``, or ``[b, T, K]`` for a target at every step.

        Raises:
            UserError: if the run saved no whole model.
        """
        return torch_module(self.directory, which, self.allow_modules)

    def resume(self, *settings: Settings, **more: Any) -> Run:
        """Continue the run, as ``fedsim resume`` does: ``run.resume(rounds=200)``.

        Settings that cannot change within a run make a fork; its directory is ``RUN-fork-1`` unless ``hydra.run.dir``
        names another.

        Raises:
            UserError: if a setting is wrong or does not go with what was learnt.
        """
        texts = _texts(settings, more)
        with raised():
            status, place = continue_run(self.directory, Request(texts, allow_modules=self.allow_modules))
        return Run(place, status, self.allow_modules)


def run(
    *settings: Settings,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
    allow_modules: Sequence[str] = (),
    **more: Any,
) -> Run:
    """Simulate a federation, as ``fedsim run`` does: ``fedsim.run("model=lstm", rounds=10, threads=1)``.

    Args:
        settings: as they are typed, or as mappings of dotted keys and groups.
        directory: where to write; by default a new folder in ``outputs``.
        config_dir: a folder with configs of your own.
        allow_modules: modules besides fedsim whose dataclasses a config may name.
        more: settings of the top level, such as ``rounds`` and ``seed``, and options of groups, such as ``model``.

    Returns:
        the run; one that diverged says so in its ``status``, and its rounds up to there are in ``metrics``.

    Raises:
        UserError: naming the key, the value and what is allowed, in the words of the command.
        OSError: if a file cannot be read or written.
        KeyboardInterrupt: after the run has been recorded as interrupted.
    """
    texts = _texts(settings, more)
    if directory is not None:
        texts = (*texts, f"hydra.run.dir={value_text(str(directory))}")
    request = normalise(with_files(_request(texts, False, config_dir, allow_modules)))
    (job,) = check_request(request, make_loader(request.config_dir))
    with raised():
        sweeps.check([job])
        job.directory.mkdir(parents=True, exist_ok=True)
        status = run_experiment(job.experiment, to_yaml(record_of(job.experiment)), job.directory)
    return Run(job.directory, status, tuple(allow_modules))


def sweep(
    grid: Mapping[str, Sequence[Any]],
    *settings: Settings,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
    allow_modules: Sequence[str] = (),
    **more: Any,
) -> list[Run]:
    """Run every combination, as ``fedsim run -m`` does: ``fedsim.sweep({"aggregator": ["fedavg", "median"]})``.

    The runs share the cores, in worker processes that do not import the calling script, which therefore needs no
    ``if __name__ == "__main__"``. With ``"hydra.sweeper.max_batch_size=1"`` they run one at a time in this process.

    Args:
        grid: keys and groups with the values of each.
        settings: what all runs have in common, as for `run`.
        directory: the folder of the sweep; by default a new one in ``outputs/multirun``.
        config_dir: a folder with configs of your own.
        allow_modules: modules besides fedsim whose dataclasses a config may name.
        more: as for `run`.

    Returns:
        the runs, in the order of the grid, the last key fastest; a run that failed says so in its ``status`` and does
        not end the others.

    Raises:
        UserError: before the first run starts, if a setting of any of them is wrong.
    """
    swept = []
    for key, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UserError(f"{key}={values}: must be a list of values, such as [1, 2, 3]")
        swept.append(f"{key}={','.join(map(value_text, values))}")
    texts = (*_texts(settings, more), *swept)
    if directory is not None:
        texts = (*texts, f"hydra.sweep.dir={value_text(str(directory))}")
    request = normalise(with_files(_request(texts, True, config_dir, allow_modules)))
    loader = make_loader(request.config_dir)
    jobs = check_request(request, loader)
    statuses = sweeps.run(request, jobs, loader, sweeps.check(jobs))
    return [Run(job.directory, status, tuple(allow_modules)) for job, status in zip(jobs, statuses, strict=False)]


def load(*paths: str | Path | Run) -> pd.DataFrame:
    """Every round of runs and sweeps, in one tidy table: ``fedsim.load("outputs/multirun")``.

    Args:
        paths: run directories, folders above them, glob patterns, or runs.

    Returns:
        a row per run and round: ``run`` (its directory), ``status``, ``seed``, the settings in which the runs differ,
        and the columns of ``metrics.csv``, those that a run lacks being NaN. What could not be read is printed.

    Raises:
        UserError: if nothing can be read.
    """
    runs, problems = load_runs([path.directory if isinstance(path, Run) else path for path in paths])
    for problem in problems:
        print_error(problem, "warning")
    settings = differing(runs)
    tables = []
    for number, one in enumerate(runs):
        table = pd.DataFrame(dict(one.columns)).rename_axis("round").reset_index()
        own = {"run": str(one.path), "status": one.status, "seed": one.seed}
        own |= {name: values[number] for name, values in settings.items() if name not in own}
        tables.append(pd.concat([pd.DataFrame(own, index=table.index, dtype=object).infer_objects(), table], axis=1))
    return pd.concat(tables, ignore_index=True)


def _request(
    texts: tuple[str, ...], multirun: bool, config_dir: str | Path | None, allow_modules: Sequence[str]
) -> Request:
    folder = None if config_dir is None else str(config_dir)
    return Request(texts, multirun, folder, tuple(allow_modules))


def _texts(settings: Sequence[Settings], more: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as they are typed."""
    found: list[str] = []
    for given in (*settings, more):
        if isinstance(given, str):
            found.append(given)
        elif isinstance(given, Mapping):
            found += [f"{key}={value_text(value)}" for key, value in given.items()]
        else:
            raise UserError(f"{given!r}: must be a setting, such as 'model=lstm', or a mapping of settings")
    return tuple(found)
