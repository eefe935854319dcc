"""Let Hydra run what `fedsim.config` checked: one run, a grid, or what Optuna makes of a sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, errors

from fedsim.config import build_experiment, check_request
from fedsim.config_words import in_words
from fedsim.errors import UserError
from fedsim.experiment import Experiment
from fedsim.request import Job, Request, batches
from fedsim.safe_loader import HYDRA_MULTIRUN, SafeLoader, make_loader, task_overrides


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
        pending: the jobs of a grid that are to run, with their numbers; None is all of them.

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
            hydra.multirun("config", task, [*overrides, HYDRA_MULTIRUN])
        elif request.multirun:
            _launch_grid(hydra, [*overrides, HYDRA_MULTIRUN], task, pending or (), returned)
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
    loader = hydra.config_loader
    # A parameter may have many values: Hydra composes the sweep as a whole without the tasks' overrides just as well.
    cfg = hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=True)
    context = HydraContext(config_loader=loader, callbacks=Callbacks(cfg))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
    folder = Path(str(cfg.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "multirun.yaml")
    for batch in batches(pending, cfg.hydra.sweeper.max_batch_size):
        tasks = [task_overrides(job.overrides) for _, job in batch]
        results = launcher.launch(tasks, initial_job_idx=batch[0][0])
        returned.extend(result.return_value for result in results)
