"""How many jobs of a sweep run side by side on this machine, if no launcher was named."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence

from fedsim.config.request import Job
from fedsim.machine import allowed_cores, available_bytes
from fedsim.runs.dry_run import round_macs, training_bytes
from fedsim.runs.estimate import estimate
from fedsim.runs.saved_model import prepared

START = 2.0
"""Seconds until a worker has imported what a job needs."""
LONG = 2e10
"""Multiply-accumulates of a sweep that takes longer than that for certain."""


def usable_cores() -> int:
    """The number of cores for the jobs of a sweep: no more than Slurm allots to this process, if it does."""
    allotted, cores = os.environ.get("SLURM_CPUS_PER_TASK", ""), len(allowed_cores())
    return max(1, min(cores, int(allotted))) if allotted.isdecimal() else cores


def at_once(jobs: Sequence[Job], most: int | None, allow_modules: Sequence[str]) -> int:
    """Return how many of the jobs can run at the same time.

    It depends on all jobs of the sweep and not on those that are left, so that a job that is resumed gets the threads
    that it had: as many as its ``threads``, or its share.

    Args:
        jobs: all jobs.
        most: ``hydra.sweeper.max_batch_size``.
        allow_modules: modules other than fedsim whose dataclasses the jobs use.

    Returns:
        one per core, or fewer if `most` or ``threads`` say so. 1 if the rounds of each job are to be seen, if jobs use
        a GPU, if modules are known to this process only, and where a process may not have others or cannot tell them
        to end their rounds (Windows).
    """
    if sys.platform == "win32":
        return 1
    shown = any(job.experiment.console.mode in ("rich", "plain") for job in jobs)
    elsewhere = any(job.experiment.torch_device().type != "cpu" for job in jobs)
    if shown or elsewhere or any(map(_only_here, allow_modules)) or multiprocessing.current_process().daemon:
        return 1
    threads = max(job.experiment.threads or 1 for job in jobs)
    return max(1, min(usable_cores() // threads, len(jobs), most or len(jobs)))


def _only_here(module: str) -> bool:
    """Whether another process could not import a module, such as one made in a notebook."""
    found = sys.modules.get(module)
    return module == "__main__" or (found is not None and getattr(found, "__spec__", None) is None)


def workers_for(pending: Sequence[tuple[int, Job]], together: int) -> int | None:
    """Return how many workers to start for the jobs that are left; None if this process is as fast.

    The memory that they would take is at most half of the machine's. It and the time are those of the first or the
    last job, whichever takes more: of the jobs of a grid, these differ the most.
    """
    together = min(together, len(pending))
    if together < 2:
        return None
    simulations = [prepared(job.experiment) for job in {id(job): job for _, job in (pending[0], pending[-1])}.values()]
    import resource  # there is none on Windows, where `at_once` is 1

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    each = largest + max(map(training_bytes, simulations))  # what this process took to check the jobs, and more
    together = min(together, available_bytes() // 2 // each)
    if together < 2:
        return None
    rounds = sum(job.experiment.rounds for _, job in pending)
    macs = [round_macs(simulation) for simulation in simulations]
    if max(macs) * rounds > LONG:
        return together
    try:
        estimate(simulations[0], macs[0])  # which warms up
        tried = [
            (estimate(one, work).seconds, one.experiment.rounds) for one, work in zip(simulations, macs, strict=True)
        ]
    except Exception:  # of a component of the user's, which the job itself will report
        return together
    if any(seconds is None for seconds, _ in tried):
        return together
    longest = max((seconds or 0) / number for seconds, number in tried) * rounds
    return together if longest * (1 - 1 / together) > START else None
