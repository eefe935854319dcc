"""Run contenders as processes that take turns, and measure seconds, memory and the time to the first round."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from bench.workloads import Spec
from fedsim.machine import SPINS

SCRIPTS = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A contender's process ended when it should not have; the message has the end of its output."""


@dataclass(frozen=True)
class Contender:
    """A program that can run workloads.

    Attributes:
        name: for the table.
        module: what to run, ``python -m MODULE SPEC``.
        python: the interpreter of its environment.
    """

    name: str
    module: str
    python: str = sys.executable


class Worker:
    """A contender's process. It sleeps unless `turn` lets it run a round; see `bench.workloads.Turns`."""

    def __init__(self, contender: Contender, spec: Spec) -> None:
        self.contender = contender
        # The process starts in an empty folder: peers leave logs, and no script may shadow a library of its name.
        self._open = ExitStack()
        folder = self._open.enter_context(tempfile.TemporaryDirectory())
        self._errors: IO[bytes] = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # it is one
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [contender.python, "-m", contender.module, spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=folder,
            env={**self._waiting(), "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])},
            text=True,
        )

    def _waiting(self) -> dict[str, str]:
        """The environment, in which fedsim's threads wait as they do when its command starts; peers know best how."""
        mine = {"GOMP_SPINCOUNT": str(SPINS)} if self.contender.module == "bench.ours" else {}
        return mine | os.environ

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and its helpers, so that none of them runs during the next measurement."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        helpers = _descendants(self._process.pid)
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for helper in helpers:
            with suppress(ProcessLookupError):
                os.kill(helper, signal.SIGKILL)
        self._process.stdout.close()
        self._open.close()

    def _ask(self) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # if it has ended, the empty answer says so
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            output = self._errors.read().decode(errors="replace").strip()
            raise Failed(f"{self.contender.name} ended with exit code {self._process.returncode}:\n{output[-2000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def turn(self) -> dict[str, float]:
        """Let it run one round; return ``seconds`` and anything else that it reports."""
        return self._ask()

    def loss(self) -> float:
        """The final model's mean loss over all samples, to be asked for after the last round."""
        return self._ask()["loss"]

    def peak_rss_mb(self) -> float:
        """The peak memory of the process so far, plus what its helper processes use now."""
        peak = _status(self._process.pid, "VmHWM")
        return peak + sum(_proportional(pid) for pid in _descendants(self._process.pid))


def _status(pid: int, field: str) -> float:
    """A size from ``/proc/PID/status`` in MiB; NaN if there is no such file."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return float("nan")
    found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{field}:")]
    return int(found[0]) / 1024 if found else 0.0


def _proportional(pid: int) -> float:
    """Memory of a helper in MiB, with shared pages counted in proportion; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def _descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


@dataclass(frozen=True)
class Start:
    """A fresh process: seconds from launch to the end of its first round, and its peak memory until then."""

    seconds: float
    peak_rss_mb: float


def fresh_start(contender: Contender, spec: Spec, repeats: int) -> Start:
    """Launch a contender `repeats` times; return the medians."""
    starts = []
    for _ in range(repeats):
        with Worker(contender, spec) as worker:
            worker.turn()
            starts.append((time.perf_counter() - worker.started, worker.peak_rss_mb()))
    return Start(*(median(column) for column in zip(*starts, strict=True)))


TURN_SECONDS, MOST_ROUNDS = 0.5, 20
"""A turn lasts as many rounds as fit that time, because its first round finds the caches of another contender."""

HOPELESS = 3


def rounds_needed(repeats: int, warm_up: int) -> int:
    """The most rounds that `interleaved` may ask of a contender."""
    return warm_up + repeats * MOST_ROUNDS


def interleaved(workers: Sequence[Worker], repeats: int, warm_up: int) -> list[list[float]]:
    """Let workers take turns, A B C A B C ..., while the rest sleep.

    Args:
        workers: the workers to time.
        repeats: turns of each.
        warm_up: rounds of each before the first turn, at least 1; the last one decides how many rounds make a turn.

    Returns:
        for each worker the seconds per round of each of its turns; none for a worker that was `HOPELESS` times as slow
        in the warm-up as an earlier one of the same name (with another number of threads).
    """
    counts = []
    best: dict[str, float] = {}
    for worker in workers:
        name = worker.contender.name
        last = [worker.turn()["seconds"] for _ in range(warm_up)][-1]
        best[name] = min(last, best.get(name, last))
        hopeless = last > HOPELESS * best[name]
        counts.append(0 if hopeless else max(1, min(MOST_ROUNDS, int(TURN_SECONDS / max(last, 1e-9)))))
    seconds: list[list[float]] = [[] for _ in workers]
    for _ in range(repeats):
        for own, worker, count in zip(seconds, workers, counts, strict=True):
            if count:
                own.append(sum(worker.turn()["seconds"] for _ in range(count)) / count)
    return seconds
