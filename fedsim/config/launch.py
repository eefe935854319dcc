"""Let Hydra run what `fedsim.config.compose` checked: one run, a grid, or what Optuna makes of a sweep."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, errors

from fedsim.config.compose import build_experiment, check_request
from fedsim.config.keys import in_words
from fedsim.config.loader import HYDRA_MULTIRUN, SafeLoader, make_loader, task_overrides
from fedsim.config.request import Job, Request, batches
from fedsim.errors import UserError, print_error
from fedsim.federation.experiment import Experiment


def launch(
    request: Request,
    job: Callable[[Experiment, Path], Any],
    show_config: str | None = None,
    *,
    loader: SafeLoader | None = None,
    pending: Sequence[tuple[int, Job]] | None = None,
) -> list[Any]:
    """Let Hydra run the jobs of a checked request.

    Args:
        request: already checked with `check_request`.
        job: what to do with an experiment in a directory; returns its status and does not raise, save
            KeyboardInterrupt, which ends a sweep, and for Optuna, to which an exception is a failed trial.
        show_config: ``job``, ``hydra`` or ``all``: print that config instead of running.
        loader: with which the request was checked.
        pending: the jobs of a grid that are to run, with their numbers, or those of an Optuna sweep that were checked;
            None is all of them.

    Returns:
        what `job` returned for every job that ran.
    """
    loader = loader or make_loader(request.config_dir)
    if request.multirun and pending is None:
        pending = list(enumerate(check_request(request, loader)))
    returned: list[Any] = []
    hydra = Hydra("fedsim", loader)
    overrides = list(request.overrides)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    task = partial(_run_job, allow_modules=request.allow_modules, job=job)
    try:
        if show_config is not None:
            hydra.show_cfg("config", overrides, show_config, package=None)
        elif "hydra/sweeper=optuna" in overrides:
            _launch_optuna(hydra, overrides, task, (pending or ())[0][1])
        elif request.multirun:
            _launch_grid(hydra, overrides, task, pending or (), returned)
        else:
            returned.append(hydra.run("config", task, overrides).return_value)
    except (HydraException, errors.OmegaConfBaseException) as error:
        raise UserError(in_words(error)) from None
    finally:  # Hydra opened run.log and put its handlers in the place of those that were there
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return returned


def _run_job(cfg: DictConfig, allow_modules: Sequence[str], job: Callable[[Experiment, Path], Any]) -> Any:
    return job(build_experiment(cfg, allow_modules), Path(HydraConfig.get().runtime.output_dir))


def _launch_grid(
    hydra: Hydra, overrides: list[str], task: Any, pending: Sequence[tuple[int, Job]], returned: list[Any]
) -> None:
    """Do what Hydra's basic sweeper does, for jobs that are checked and may have gaps between their numbers."""
    if not pending:
        return
    cfg = _compose_sweep(hydra, overrides, pending[0][1])
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
    folder = Path(str(cfg.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "multirun.yaml")
    for batch in batches(pending, cfg.hydra.sweeper.max_batch_size):
        tasks = [task_overrides(job.overrides) for _, job in batch]
        with _every_job_awaited(launcher):
            results = launcher.launch(tasks, initial_job_idx=batch[0][0])
        for result, (number, one) in zip(results, batch, strict=True):
            if result.status is JobStatus.COMPLETED:
                returned.append(result.return_value)
            else:  # what ended it from outside: `job` does not raise
                print_error(f"job {number}: {first_line(result._return_value)}; see {one.directory}")


def _compose_sweep(hydra: Hydra, overrides: list[str], first: Job) -> DictConfig:
    """What Hydra composes for a sweep as a whole.

    Hydra leaves the swept options out of it, and then knows no key that only they have; the first job's stand for them.
    """
    cfg = hydra.compose_config(
        "config", [*first.overrides, HYDRA_MULTIRUN], RunMode.MULTIRUN, with_log_configuration=True
    )
    cfg.hydra.overrides.task = task_overrides(overrides)
    return cfg


def _launch_optuna(hydra: Hydra, overrides: list[str], task: Any, first: Job) -> None:
    """Do what `Hydra.multirun` does, with a launcher between Optuna and its jobs that a killed one does not end."""
    cfg = _compose_sweep(hydra, overrides, first)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
    sweeper: Any = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=task, config=cfg)
    sweeper.sweeper.launcher = surviving = Surviving(sweeper.sweeper.launcher)
    Path(str(cfg.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    try:
        sweeper.sweep(arguments=[str(text) for text in cfg.hydra.overrides.task])
    except ValueError:
        if surviving.any_done:
            raise
        print_error("no trial ended well, so that Optuna has no best one")


class Failed(JobReturn):
    """A failed job that raises what ended it without Hydra's list of overrides."""

    def __init__(self, result: JobReturn) -> None:
        super().__init__(result.overrides, result.cfg, result.hydra_cfg, result.working_dir, result.task_name)
        self.status = JobStatus.FAILED
        self._return_value = result._return_value

    def __getattribute__(self, name: str) -> Any:
        """As any other; the value of the task is what it raised."""
        if name == "return_value":
            raise super().__getattribute__("_return_value")
        return super().__getattribute__(name)


class Surviving:
    """A launcher to whose user a killed job is a failed one.

    Where a killed worker takes its pool along, each job of the batch is launched again, alone: those that were done
    return at once, others go on from their checkpoints. A job that is killed again has failed.
    """

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self.any_done = False

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Launch a batch as Hydra's launchers do, with a result for every job."""
        results = self._launch(job_overrides, initial_job_idx)
        self.any_done |= any(result.status is JobStatus.COMPLETED for result in results)
        return [self._told(result, number) for number, result in enumerate(results, initial_job_idx)]

    def _told(self, result: JobReturn, number: int) -> JobReturn:
        if result.status is JobStatus.COMPLETED:
            return result
        if not isinstance(result._return_value, BrokenExecutor):  # which was told
            print_error(f"job {number}: a failed trial: {first_line(result._return_value)}")
        return Failed(result)

    def _launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        with _every_job_awaited(self._launcher):
            try:
                return list(self._launcher.launch(job_overrides, initial_job_idx=initial_job_idx))
            except BrokenExecutor as error:
                print_error(f"a worker was killed, by the system if memory was short: {first_line(error)}")
            return [self._alone(texts, number) for number, texts in enumerate(job_overrides, initial_job_idx)]

    def _alone(self, overrides: Sequence[str], number: int) -> JobReturn:
        try:
            return cast(JobReturn, self._launcher.launch([overrides], initial_job_idx=number)[0])
        except BrokenExecutor as error:
            print_error(f"job {number} was killed")
            return JobReturn(status=JobStatus.FAILED, _return_value=error)


class _Awaited:
    """A job of submitit's which fails by what it returns, so that one that the queue killed hides no other."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def results(self) -> list[JobReturn]:
        try:
            return cast("list[JobReturn]", self._job.results())
        except Exception as error:  # submitit has several, and RuntimeError
            return [JobReturn(status=JobStatus.FAILED, _return_value=error)]


@contextmanager
def _every_job_awaited(launcher: Any) -> Iterator[None]:
    """Let Hydra's submitit launcher wait for all of its jobs; it would leave them at the first that was killed."""
    if "submitit" not in type(launcher).__module__:
        yield
        return
    executor: Any = importlib.import_module("submitit").AutoExecutor
    original = executor.map_array
    executor.map_array = lambda self, *arguments: [_Awaited(job) for job in original(self, *arguments)]
    try:
        yield
    finally:
        executor.map_array = original


def first_line(error: BaseException) -> str:
    """What an exception says first, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
