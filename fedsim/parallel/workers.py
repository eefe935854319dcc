"""Worker processes that do one piece of work after another, and stay alive for all of them.

They are started anew instead of forked, because threads of torch and Numba do not survive a fork. Unlike the workers of
`multiprocessing.Pool`, they do not import the caller's main module, so that a script needs no
``if __name__ == "__main__"``, and one that is killed takes no other with it. Only workers' own results are unpickled.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from fedsim.errors import UserError, print_error
from fedsim.interrupts import Interrupted, after_the_round

EVERY = 0.1
"""Seconds between two looks at the signals received."""
PATIENCE = 10.0
"""Seconds that a worker gets to end after a second interruption, or when there is nothing left to do."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass(frozen=True)
class Answer:
    """What a worker sends back.

    Attributes:
        value: what the work returned.
        error: the exception that it raised, or None.
        interrupted: whether it was interrupted.
        out: what it printed.
        err: what it printed to stderr.
    """

    value: Any = None
    error: Exception | None = None
    interrupted: bool = False
    out: str = ""
    err: str = ""


@dataclass(eq=False)
class _Worker:
    """A worker as its parent sees it; `number` is that of the piece it is at, None if it is idle or starting."""

    process: Any
    connection: Connection
    number: int | None = None

    def interrupt(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)


def run_in_workers(work: Callable[[Any], Any], pieces: Iterable[Any], number: int) -> tuple[dict[int, Any], list[int]]:
    """Call `work` with each of the pieces, in `number` processes.

    Ctrl-C, SIGTERM and SIGHUP are passed on to the workers once, which see them as Ctrl-C; no further piece is begun.

    Args:
        work: a function that can be pickled; what it prints is printed here when it has returned.
        pieces: what can be pickled; each is taken when a worker is free.
        number: of processes.

    Returns:
        what `work` returned, by the number of the piece, and the numbers of the pieces whose workers were killed; if
        all of them were, the pieces that had not been begun are in neither.

    Raises:
        KeyboardInterrupt: if a signal came, or a worker was interrupted, once all workers have ended their pieces.
        Exception: that of the first piece that failed, once all workers have ended their pieces.
    """
    coming = enumerate(pieces)
    workers: list[_Worker] = []
    found: dict[int, Any] = {}
    killed: list[int] = []
    error: Exception | None = None
    interrupted = told = False
    with after_the_round(lambda text: None) as asked:
        try:
            for _ in range(number):
                try:
                    workers.append(_start())
                except OSError:  # no more processes are allowed, or there is no memory
                    if not workers:
                        raise
                    break
            for worker in workers:
                with suppress(OSError):  # a worker that is gone, which `wait` notices
                    worker.connection.send(work)
            while workers:
                for connection in wait([worker.connection for worker in workers], timeout=EVERY):
                    worker = next(one for one in workers if one.connection is connection)
                    answer = _receive(worker)
                    if answer is None:
                        workers.remove(worker)
                        killed += [] if worker.number is None else [worker.number]
                        _end(worker)
                        continue
                    if worker.number is not None:
                        found[worker.number] = answer.value
                        _print(answer)
                    error, interrupted = error or answer.error, interrupted or answer.interrupted
                    worker.number = None
                    if error is None and not (interrupted or asked.numbers) and _send_next(worker, coming):
                        continue
                    workers.remove(worker)
                    _end(worker)
                if not told and (asked.numbers or interrupted or error):
                    told = True
                    _interrupt(workers, bool(asked.numbers))
            asked.end()
        except BaseException:  # such as a second signal, after which the workers end at once
            for worker in workers:
                worker.interrupt()
            raise
        finally:
            for worker in workers:
                _end(worker)
    if error is not None:
        raise error
    if interrupted:
        raise Interrupted(signal.SIGINT)
    return found, killed


def _interrupt(workers: list[_Worker], asked: bool) -> None:
    busy = [worker for worker in workers if worker.number is not None]
    if busy and asked:
        print_error("ending after the rounds that are running; interrupt again to end at once", "note")
    for worker in busy:
        worker.interrupt()


def _send_next(worker: _Worker, coming: Iterator[tuple[int, Any]]) -> bool:
    """Give a worker the next piece; return whether there was one."""
    for number, piece in coming:
        worker.number = number
        with suppress(OSError):  # a worker that is gone, which `wait` notices
            worker.connection.send(piece)
        return True
    return False


def _receive(worker: _Worker) -> Answer | None:
    """The worker's answer; None if it has ended."""
    try:
        answer: Answer = worker.connection.recv()
    except (EOFError, OSError):
        return None
    return answer


def _print(answer: Answer) -> None:
    for text, stream in ((answer.out, sys.stdout), (answer.err, sys.stderr)):
        if text:
            with suppress(OSError, ValueError):  # a closed output
                stream.write(text)
                stream.flush()


# ---------------------------------------------------------------------------------------------------------------------
# beginning and end


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    with _without_main(), _blocked():
        process.start()
    theirs.close()  # so that its end is noticed here
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    """End a worker, which notices that the connection is closed when it has nothing to do."""
    worker.connection.close()
    worker.process.join(PATIENCE)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.process.close()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module while a process starts, which would import it: a script without a guard would run again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _blocked() -> Iterator[None]:
    """Let signals wait while a process starts: it inherits this, and is not ended by Ctrl-C while it imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------------------------------------------------------------
# in the worker


def _serve(connection: Connection) -> None:
    """Do what comes through the connection until it is closed; the first thing that comes is what does it.

    The worker leaves the group of its parent, which gets what the terminal sends, and heeds nothing but the parent's
    SIGINT: batch systems send SIGTERM to every process, and a second signal would end a round in the middle.
    """
    os.setpgrp()
    asked: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGINT, note)
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        gc.disable()  # as in the command itself: the imports that come with the work make a million objects
        work = connection.recv()
        gc.freeze()
        gc.enable()
        connection.send(Answer())
        while True:
            piece = connection.recv()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                answer = _answer(work, piece, asked)
            except KeyboardInterrupt:  # between the lines
                answer = Answer(interrupted=True)
            finally:
                signal.signal(signal.SIGINT, note)
            connection.send(answer)
    os._exit(0)  # freeing everything would take a second


def _answer(work: Callable[[Any], Any], piece: Any, asked: list[int]) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    value: Any = None
    error: Exception | None = None
    interrupted = bool(asked)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            if not interrupted:
                value = work(piece)
        except KeyboardInterrupt:
            interrupted = True
        except (OSError, UserError) as one:
            error = UserError(str(one)) if isinstance(one, UserError) else one  # some take other arguments
        except Exception as one:
            error = RuntimeError(f"{type(one).__name__}: {one}")
    return Answer(value, error, interrupted, out.getvalue(), err.getvalue())


def _end_with_the_parent() -> None:
    """End at once when the parent is gone, as a killed sweep does that has only one process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
