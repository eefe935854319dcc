"""Where the time of a round of fedsim goes, to find what is worth improving."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import fedsim.clients.stacked
import fedsim.federation.round
import fedsim.models.stacked
from bench.ours import start
from bench.workloads import Spec
from fedsim.federation.prepare import Simulation
from fedsim.federation.round import simulate


class Clock:
    """Seconds by stage, excluding the stages that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, label: str) -> Iterator[None]:
        """Charge the time inside to `label`."""
        self._charge()
        self._open.append(label)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Charge the time since the last change to the stage that was running."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def watch(self, owner: Any, name: str, label: str) -> Iterator[None]:
        """Charge the calls of ``owner.name`` to `label`; if there is no such function, they count for the caller."""
        function = getattr(owner, name, None)
        if function is None:
            yield
            return
        setattr(owner, name, self._timed(function, label))
        try:
            yield
        finally:
            setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(label):
                result = function(*args, **kwargs)
            return self._timed_iterator(result, label) if isinstance(result, Iterator) else result

        return call

    def _timed_iterator(self, items: Iterator[Any], label: str) -> Iterator[Any]:
        end = object()
        while True:
            with self.stage(label):
                item = next(items, end)
            if item is end:
                return
            yield item


def _stages(simulation: Simulation) -> list[tuple[Any, str, str]]:
    """The functions that make up the stages of a round, as ``(owner, name, label)``."""
    kernels = getattr(simulation.trainer, "kernels", None)
    return [
        (kernels, "forward", "recurrent kernels, forward"),
        (kernels, "backward", "recurrent kernels, backward"),
        (fedsim.models.stacked, "loss_and_gradient", "embedding, head, loss, copies of gradients"),
        (fedsim.clients.stacked, "batch_indices", "batch order"),
        (fedsim.clients.stacked, "gather", "gather of batches"),
        (type(simulation.task.config.optimizer), "step", "local optimizer"),
        (type(simulation.task.config.optimizer), "step_by", "local optimizer"),  # where the kernels have it
        (type(simulation.trainer), "train", "local training, the rest"),
        (fedsim.federation.round, "combine", "combine and spread"),
    ]


def profile(spec: Spec, top: int = 12) -> str:
    """Measure ``spec.rounds`` rounds by stage, then as many under cProfile; return the text to print."""
    simulation, state = start(replace(spec, rounds=2 * spec.rounds + 1))
    results = simulate(simulation, state)
    next(results)
    next(results)  # the first round is a warm-up

    rounds: list[dict[str, float]] = []
    for _ in range(spec.rounds):
        clock = Clock()
        with ExitStack() as stack:
            for owner, name, label in _stages(simulation):
                stack.enter_context(clock.watch(owner, name, label))
            with clock.stage("server step and record"):
                next(results)
        rounds.append(clock.seconds)
    medians = {label: median(r.get(label, 0.0) for r in rounds) for label in rounds[0]}
    total = sum(medians.values())
    lines = [f"a round takes {1000 * total:.1f} ms (sum of the medians of {spec.rounds} rounds by stage):"]
    for label, seconds in sorted(medians.items(), key=lambda item: -item[1]):
        lines.append(f"  {1000 * seconds:9.2f} ms  {seconds / total:6.1%}  {label}")
    outside = sum(seconds for label, seconds in medians.items() if not label.startswith("recurrent kernels"))
    lines.append(f"  {1000 * outside:9.2f} ms  {outside / total:6.1%}  everything outside the recurrent kernels")

    profiler = cProfile.Profile()
    with profiler:
        for _ in range(spec.rounds):
            next(results)
    entries = sorted(pstats.Stats(profiler).stats.items(), key=lambda item: -item[1][2])[:top]  # type: ignore[attr-defined]
    lines.append(f"top {top} functions by their own time, per round (under cProfile, which slows small ones):")
    for (file, line, name), (_, calls, own, *_) in entries:
        where = name if file == "~" else f"{'/'.join(file.split('/')[-2:])}:{line} {name}"
        lines.append(f"  {1000 * own / spec.rounds:9.2f} ms  {calls / spec.rounds:8.0f} calls  {where}")
    return "\n".join(lines)
