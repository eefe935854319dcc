"""How a run that cannot go on says why: one line, and a status instead of an exception."""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

from fedsim.errors import ProcessLost, RecordingFailed, UserError, print_error, printable
from fedsim.federation.experiment import Experiment
from fedsim.interrupts import Interrupted
from fedsim.parallel.processes import world

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # messages for users are printed as well


_raises: ContextVar[bool] = ContextVar("raises", default=False)


@contextmanager
def raised() -> Iterator[None]:
    """Let `guarded` pass exceptions on while the context lasts, for callers from Python."""
    token = _raises.set(True)
    try:
        yield
    finally:
        _raises.reset(token)


def guarded(experiment: Experiment | None, run: Callable[[], str]) -> str:
    """Return the status that `run` returns; exceptions are reported and mapped to a status.

    Args:
        experiment: gives the number of threads to use meanwhile; None leaves that to `run`.
        run: the function to call.

    Raises:
        KeyboardInterrupt: as `run` does, or if the output was closed.
    """
    threads, tells = torch.get_num_threads(), logging.raiseExceptions
    logging.raiseExceptions = False  # a run.log on a full disk: the error that ends the run says it, in one line
    try:
        torch.set_num_threads((experiment and experiment.threads) or threads)
        return run()
    except Exception as error:
        if _raises.get():
            raise
        if isinstance(error, BrokenPipeError) and error.filename is None:
            raise Interrupted(signal.SIGPIPE) from error
        return _reported(error)
    finally:
        torch.set_num_threads(threads)  # for the next job of a sweep
        logging.raiseExceptions = tells


def _reported(error: Exception) -> str:
    """Say what ended a run, while it is being handled, and return the run's status."""
    if isinstance(error, UserError | RecordingFailed):
        complain(str(error))
        return "refused" if isinstance(error, UserError) else "failed"
    if isinstance(error, OSError):
        complain(in_words(error))
    elif isinstance(error, ProcessLost):
        if world().is_first_to_tell():
            complain(str(error))
    elif isinstance(error, MemoryError) or "allocate" in str(error):  # torch raises a RuntimeError on the CPU
        text = f"not enough memory ({' '.join(str(error).split())})"
        complain(f"{text}; take a smaller model, client.batch_size or engine.memory_budget")
    elif "without overflow" in str(error):  # torch says so of a number that no float of a tensor's type holds
        complain("a product of settings, such as of learning rates, is beyond the numbers of this dtype")
        return "refused"
    else:
        log.exception("a bug in fedsim or in a component of yours")
        traceback.print_exc()
    return "failed"


def recording_failed(error: OSError | RecordingFailed, directory: Path) -> RecordingFailed:
    """The same error in words, with what it means for the run in this directory."""
    intact = isinstance(error, OSError) and directory.is_dir()
    return RecordingFailed(in_words(error, directory) + ("; what was recorded before is intact" if intact else ""))


def complain(text: str) -> None:
    """Print an error, and log it."""
    log.error(printable(text))
    print_error(text)


def in_words(error: OSError | RecordingFailed, directory: Path | None = None) -> str:
    """Say what could not be read or written.

    Args:
        error: what the system said, or what `fedsim.recording` found.
        directory: the run's directory, if the run had begun.
    """
    if directory is not None and not directory.is_dir():
        return f"{directory}: was deleted or moved during the run, which ends here"
    if isinstance(error, RecordingFailed):
        return str(error)
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
