"""One run from beginning to end: simulate, record, and say how it ended."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fedsim
from fedsim.errors import Diverged, UserError, print_error
from fedsim.experiment import Experiment
from fedsim.population import Population
from fedsim.recording.checkpoints import prune_checkpoints, save_checkpoint
from fedsim.recording.console import Display, display, format_value
from fedsim.recording.run_directory import (
    FORMAT_VERSION,
    CsvWriter,
    refuse_used,
    write_atomically,
    write_csv,
    write_json,
)
from fedsim.simulation import initial_state, prepare, simulate
from fedsim.state import Metrics, RoundResult, Simulation, State

log = logging.getLogger(__name__)

DIVERGED_HINT = "try a smaller client.optimizer.lr, client.clip_norm=1, or a smaller server learning rate"


@dataclass
class Recorder:
    """Writes what rounds give; everything it holds is also in the files."""

    directory: Path
    simulation: Simulation
    last: Metrics = field(default_factory=dict)
    final: Metrics = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._metrics = CsvWriter(self.directory / "metrics.csv", self.simulation.columns)
        self._timing = CsvWriter(self.directory / "timing.csv", ("round", "train", "evaluate", "elapsed"))
        self._evaluation: RoundResult | None = None

    def record(self, result: RoundResult, state: State) -> None:
        """Write a round, and a checkpoint if one is due."""
        e = self.simulation.experiment
        self._metrics.write(result.metrics)
        number = state.round
        self._timing.write({"round": number, **result.seconds, "elapsed": time.perf_counter() - self.started})
        self.last = result.metrics
        if result.evaluation is not None:
            self._evaluation, self.final = result, result.metrics
        judged = result.metrics[state.progress.metric]
        if judged is not None:
            self.scores[number] = float(judged)
        ends = number == e.rounds or bool(state.progress.reason)
        if e.checkpoint.every is not None and number and (ends or number % e.checkpoint.every == 0):
            save_checkpoint(self.directory, state)
            prune_checkpoints(self.directory, self.scores, state.progress.mode == "min")

    def close(self) -> None:
        """Close the CSVs."""
        self._metrics.close()
        self._timing.close()

    def write_clients(self) -> None:
        """Write what clients scored at the last evaluation."""
        if self._evaluation is None or self._evaluation.evaluation is None:
            return
        population = self.simulation.population
        scores = self._evaluation.evaluation.clients
        sizes = [population.train.sizes.tolist(), population.test.sizes.tolist()]
        columns = [list(range(population.num_clients)), list(population.client_names), *sizes]
        columns += [values.tolist() for values in scores.values()]
        header = ("client", "name", "train_samples", "test_samples", *scores)
        write_csv(self.directory / "clients.csv", header, zip(*columns, strict=True))


def run_experiment(experiment: Experiment, config_yaml: str, directory: Path) -> str:
    """Run an experiment in its directory and return its status.

    Args:
        experiment: the checked settings.
        config_yaml: their record, written as ``config.yaml``.
        directory: exists already (Hydra makes it) and holds no run.

    Returns:
        ``done``, ``stopped`` (early), ``diverged``, ``refused`` (a user's mistake found late) or ``failed``. No
        exception leaves, because it would end the other jobs of a sweep.

    Raises:
        KeyboardInterrupt: after recording that the run was interrupted.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(experiment.threads or threads)
        simulation = prepare(experiment)
        refuse_used(directory, "hydra.run.dir")
        write_atomically(directory / "config.yaml", config_yaml.encode())
        return _run(simulation, directory)
    except UserError as error:
        _complain(str(error))
        return "refused"
    except OSError as error:
        where = error.filename or "the console"
        _complain(f"{error.strerror or error}: {where}; what was recorded before is intact")
        return "failed"
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate" in str(error):  # torch raises a RuntimeError on the CPU
            text = f"not enough memory ({' '.join(str(error).split())})"
            _complain(f"{text}; take a smaller model, client.batch_size or engine.memory_budget")
        else:
            log.exception("a bug in fedsim or in a component of yours")
            traceback.print_exc()
        return "failed"
    finally:
        torch.set_num_threads(threads)  # what the next job of a sweep begins with


def _complain(text: str) -> None:
    log.error(text)
    print_error(text)


def _run(simulation: Simulation, directory: Path) -> str:
    experiment = simulation.experiment
    state = initial_state(simulation)
    recorder = Recorder(directory, simulation)
    status, reason = "failed", "an unexpected error; see the traceback"
    progress = state.progress
    shown = display(
        experiment.console.mode, simulation.columns, experiment.rounds, metric=progress.metric, better=progress.mode
    )
    with shown as screen, _interrupts() as check_interrupted:
        try:
            for line in _introduction(simulation, directory):
                screen.say(line)
            for result in simulate(simulation, state):
                recorder.record(result, state)
                screen.show(result.metrics, result.samples, result.seconds.get("train", 0.0))
                check_interrupted()
            status, reason = ("stopped", state.progress.reason) if state.progress.reason else ("done", "round limit")
        except Diverged as error:
            status, reason = "diverged", f"{error}; {DIVERGED_HINT}"
        except KeyboardInterrupt:
            status, reason = "interrupted", "stopped by the user"
            raise
        except OSError as error:
            reason = f"{error.strerror or error}: {error.filename or 'the console'}"
            raise
        except SystemExit:  # from rich, when nobody reads what it prints
            reason = "its output was closed"
            raise
        finally:
            recorder.close()
            with suppress(OSError) if status == "failed" else nullcontext():  # a full disk is reported already
                recorder.write_clients()
                write_json(directory / "summary.json", _summary(simulation, state, recorder, status, reason))
            log.info("%s: %s", status, reason)
    _conclude(screen, state, recorder, status, reason, directory)
    return status


@contextmanager
def _interrupts() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C end the run at once, and after the round at the latest.

    Python loses an exception that a signal raises in a destructor or another callback, so what this yields raises it
    again.
    """
    pressed = []

    def handle(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, handle)
    try:
        yield check
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _introduction(simulation: Simulation, directory: Path) -> list[str]:
    e, population = simulation.experiment, simulation.population
    model = type(e.model).__name__
    engine = e.engine.describe(e.torch_device(), e.torch_dtype(), e.model.cell)
    return [
        f"{model} with {simulation.task.arch.layout.num_parameters:,} parameters, {population.num_clients} clients, "
        f"{len(population.train):,} training and {len(population.test):,} test samples",
        f"{engine} on {e.torch_device()}, {torch.get_num_threads()} threads, seed {e.seed}",
        f"writing to {directory}",
    ]


def _conclude(screen: Display, state: State, recorder: Recorder, status: str, reason: str, directory: Path) -> None:
    progress = state.progress
    if progress.best is not None:
        final = recorder.final.get(progress.metric)
        screen.say(
            f"{progress.metric}: final {format_value(final)}, best {format_value(progress.best)} "
            f"in round {progress.best_round}"
        )
    if status == "diverged":
        _complain(f"diverged: {reason}")
    else:
        screen.say(f"{status} after round {state.round} ({reason}); see {directory / 'metrics.csv'}")


def _summary(simulation: Simulation, state: State, recorder: Recorder, status: str, reason: str) -> dict[str, Any]:
    progress = state.progress
    packages = ("torch", "numpy", "numba", "hydra-core", "aeon", "pandas")
    return {
        "format_version": FORMAT_VERSION,
        "status": status,
        "reason": reason,
        "rounds": recorder.last.get("round", 0),
        "final": {k: v for k, v in recorder.final.items() if v is not None},
        "best": {
            "metric": progress.metric,
            "mode": progress.mode,
            "value": progress.best,
            "round": progress.best_round,
        },
        "bytes_down": state.bytes_down,
        "bytes_up": state.bytes_up,
        "seconds": time.perf_counter() - recorder.started,
        "seed": simulation.experiment.seed,
        "device": str(simulation.experiment.torch_device()),
        "threads": torch.get_num_threads(),
        "data_hash": data_hash(simulation.population),
        "git_hash": git_hash(),
        "versions": {"fedsim": fedsim.__version__, "python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
    }


def data_hash(population: Population) -> str:
    """A digest of who holds which samples: equal for equal data and partition."""
    digest = hashlib.blake2b(digest_size=16)
    for samples in (population.train, population.test, population.validation):
        if samples is not None:
            for tensor in (samples.inputs, samples.lengths, samples.targets, samples.offsets):
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def git_hash() -> str | None:
    """The commit of fedsim's own checkout, or None where it was installed from a wheel."""
    root = Path(fedsim.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git, or one that hangs: the record does without
    return found.stdout.strip() if found.returncode == 0 else None
