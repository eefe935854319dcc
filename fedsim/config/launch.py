"""Let Hydra run what `fedsim.config.compose` checked: one run, a grid, or an Optuna sweep."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, run_job, setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf, errors, open_dict

from fedsim.config.compose import build_experiment, check_request
from fedsim.config.grid import filled, in_force
from fedsim.config.loader import HYDRA_MULTIRUN, SafeLoader, make_loader, parse, task_overrides
from fedsim.config.messages import one_line
from fedsim.config.request import Job, Request, batches
from fedsim.errors import UserError, print_error
from fedsim.federation.experiment import Experiment
from fedsim.parallel.workers import run_in_workers

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

NAME = "fedsim"

RunJob = Callable[[Experiment, Path, Mapping[str, str]], Any]
"""Runs an experiment in a directory, and writes there the files that make up Hydra's record: path to content."""


def launch(
    request: Request,
    job: RunJob,
    show_config: str | None = None,
    *,
    loader: SafeLoader | None = None,
    pending: Sequence[tuple[int, Job]] | None = None,
    workers: int | None = None,
) -> list[Any]:
    """Let Hydra run the jobs of a checked request.

    Args:
        request: already checked with `check_request`.
        job: runs an experiment in a directory and returns its status. It writes Hydra's record of the job itself, for
            only it knows when the directory is its own. The only exceptions that it raises are KeyboardInterrupt, which
            ends a sweep, and, under Optuna, that of a failed trial.
        show_config: ``job``, ``hydra`` or ``all``: print that config instead of running.
        loader: the one that the request was checked with.
        pending: the jobs of a grid to run, with their numbers, or the checked jobs of an Optuna sweep; None is all.
        workers: run the jobs of a grid in this many processes instead of with Hydra's launcher.

    Returns:
        the status of every job that ran.

    Raises:
        BrokenExecutor: if workers were killed, after the other workers have run all jobs, as far as any was left.
    """
    loader = loader or make_loader(request.config_dir)
    if request.multirun and pending is None:
        pending = list(enumerate(check_request(request, loader)))
    returned: list[Any] = []
    hydra = Hydra(NAME, loader)
    overrides = list(request.overrides)
    task = partial(_run_job, allow_modules=request.allow_modules, job=job)
    try:
        if show_config is not None:
            hydra.show_cfg("config", overrides, show_config, package=None)
        elif "hydra/sweeper=optuna" in overrides:
            _launch_optuna(hydra, overrides, task, (pending or ())[0][1])
        elif request.multirun:
            _launch_grid(hydra, overrides, task, pending or (), returned, workers)
        else:
            returned.append(hydra.run("config", task, overrides).return_value)
    except (HydraException, errors.OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # Hydra's own files, whose errors do not say which
            error.filename = error.filename or "the directory of the run"
        raise
    return returned


def _run_job(cfg: DictConfig, allow_modules: Sequence[str], job: RunJob) -> Any:
    of_hydra = HydraConfig.get()
    files = {
        "config.yaml": OmegaConf.to_yaml(cfg),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": OmegaConf.to_container(of_hydra)})),
        "overrides.yaml": OmegaConf.to_yaml(of_hydra.overrides.task),
    }
    record = {f".hydra/{name}": text for name, text in files.items()}
    return job(build_experiment(cfg, allow_modules), Path(of_hydra.runtime.output_dir), record)


def _launch_grid(
    hydra: Hydra,
    overrides: list[str],
    task: Any,
    pending: Sequence[tuple[int, Job]],
    returned: list[Any],
    workers: int | None,
) -> None:
    """Run checked jobs as Hydra's basic sweeper would; their numbers may have gaps."""
    if not pending:
        return
    cfg = _compose_sweep(hydra, overrides, pending[0][1])
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
    folder = Path(str(cfg.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "multirun.yaml")
    if workers is not None and _launch_in_workers(context, cfg, task, pending, returned, workers):
        return
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
    for batch in batches(pending, cfg.hydra.sweeper.max_batch_size):
        tasks = [task_overrides(job.overrides) for _, job in batch]
        with _every_job_awaited(launcher):
            results = launcher.launch(tasks, initial_job_idx=batch[0][0])
        for result, (number, one) in zip(results, batch, strict=True):
            if result.status is JobStatus.COMPLETED:
                returned.append(result.return_value)
            else:  # it was ended from outside: `job` does not raise
                print_error(f"job {number}: {first_line(result._return_value)}; see {one.directory}")


def _launch_in_workers(
    context: HydraContext,
    cfg: DictConfig,
    task: Any,
    pending: Sequence[tuple[int, Job]],
    returned: list[Any],
    workers: int,
) -> bool:
    """Do what Hydra's basic launcher does for each job, in several processes; the configs are composed in this one.

    Returns:
        whether any worker could be started.
    """

    def configs() -> Iterator[DictConfig]:
        for number, job in pending:
            config = context.config_loader.load_sweep_config(cfg, task_overrides(job.overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            yield config

    work = partial(_work, context, task)
    found, killed = run_in_workers(work, configs(), min(workers, len(pending)))
    for place, (value, failure) in sorted(found.items()):
        number, job = pending[place]
        if failure is None:
            returned.append(value)
        else:
            print_error(f"job {number}: {failure}; see {job.directory}")
    if killed:
        numbers = ", ".join(str(pending[place][0]) for place in sorted(killed))
        raise BrokenExecutor(f"job{'s' * (len(killed) > 1)} {numbers}")
    if not found and workers > 1:
        print_error("worker processes cannot be started here; the jobs run one after another", "warning")
        return False
    if len(found) < len(pending):
        raise BrokenExecutor("it could not be started")
    return True


def _work(context: HydraContext, task: Any, config: DictConfig) -> tuple[Any, str | None]:
    """Run one job in a worker; return what it returned, or how it failed."""
    version.setbase("1.3")  # these three lines are what `make_loader` and `Hydra` do in the parent
    setup_globals()
    JobRuntime.instance().set("name", NAME)
    result = run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )
    if result.status is JobStatus.COMPLETED:
        return result.return_value, None
    return None, first_line(result._return_value)


def _compose_sweep(hydra: Hydra, overrides: list[str], first: Job) -> DictConfig:
    """Compose the config of a sweep as a whole.

    Hydra would leave out the swept options and then refuse keys that only those have; so the first job's are used.
    """
    cfg = hydra.compose_config(
        "config", [*first.overrides, HYDRA_MULTIRUN], RunMode.MULTIRUN, with_log_configuration=True
    )
    cfg.hydra.overrides.task = task_overrides(overrides)
    return cfg


def _launch_optuna(hydra: Hydra, overrides: list[str], task: Any, first: Job) -> None:
    """Do what `Hydra.multirun` does, with a launcher that survives killed jobs."""
    cfg = _compose_sweep(hydra, overrides, first)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
    sweeper: Any = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=task, config=cfg)
    template = in_force([parse(text) for text in task_overrides(overrides)])
    swept = {one.get_key_element() for one in template if one.is_sweep_override()}
    arguments = [str(o.input_line) for o in template if o.is_sweep_override() or o.get_key_element() not in swept]
    sweeper.sweeper.launcher = surviving = Surviving(sweeper.sweeper.launcher, template)
    Path(str(cfg.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    try:
        sweeper.sweep(arguments=arguments)
    except ValueError as error:
        if not surviving.any_launched:
            raise UserError(one_line(error)) from None
        if surviving.any_done:
            raise
        print_error("no trial succeeded, so Optuna has no best one")


class Failed(JobReturn):
    """A failed job that raises its error without Hydra's list of overrides."""

    def __init__(self, result: JobReturn) -> None:
        super().__init__(result.overrides, result.cfg, result.hydra_cfg, result.working_dir, result.task_name)
        self.status = JobStatus.FAILED
        self._return_value = result._return_value

    def __getattribute__(self, name: str) -> Any:
        """Raise the job's error for ``return_value``; any other attribute is as usual."""
        if name == "return_value":
            raise super().__getattribute__("_return_value")
        return super().__getattribute__(name)


class Surviving:
    """A launcher that returns a killed job as a failed one.

    If a killed worker takes its pool with it, each job of the batch is launched again, alone: finished jobs return at
    once, the rest resume from their checkpoints. A job that is killed again has failed.

    Args:
        launcher: Hydra's launcher.
        template: the overrides of the sweep, which a trial repeats with the values that the sweeper chose.
    """

    def __init__(self, launcher: Any, template: Sequence[Override] = ()) -> None:
        self._launcher, self._template = launcher, template
        self.any_launched = self.any_done = False

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Launch a batch as Hydra's launchers do, with a result for every job."""
        self.any_launched = True
        results = self._launch([filled(self._template, texts) for texts in job_overrides], initial_job_idx)
        self.any_done |= any(result.status is JobStatus.COMPLETED for result in results)
        return [self._reported(result, number) for number, result in enumerate(results, initial_job_idx)]

    def _reported(self, result: JobReturn, number: int) -> JobReturn:
        if result.status is JobStatus.COMPLETED:
            return result
        if not isinstance(result._return_value, BrokenExecutor):  # already reported
            print_error(f"job {number}: the trial failed: {first_line(result._return_value)}")
        return Failed(result)

    def _launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        with _every_job_awaited(self._launcher):
            try:
                return list(self._launcher.launch(job_overrides, initial_job_idx=initial_job_idx))
            except BrokenExecutor as error:
                print_error(f"a worker was killed, perhaps by the system for lack of memory: {first_line(error)}")
            return [self._launch_alone(texts, number) for number, texts in enumerate(job_overrides, initial_job_idx)]

    def _launch_alone(self, overrides: Sequence[str], number: int) -> JobReturn:
        try:
            return cast(JobReturn, self._launcher.launch([overrides], initial_job_idx=number)[0])
        except BrokenExecutor as error:
            print_error(f"job {number} was killed")
            return JobReturn(status=JobStatus.FAILED, _return_value=error)


class _Awaited:
    """A submitit job that returns a failure instead of raising it, so that one killed by the queue hides no other."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def results(self) -> list[JobReturn]:
        try:
            return cast("list[JobReturn]", self._job.results())
        except Exception as error:  # submitit raises several types, and RuntimeError
            return [JobReturn(status=JobStatus.FAILED, _return_value=error)]


@contextmanager
def _every_job_awaited(launcher: Any) -> Iterator[None]:
    """Let Hydra's submitit launcher wait for all of its jobs instead of giving up at the first that was killed."""
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
    """The first line of an exception's message, or its type if the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
