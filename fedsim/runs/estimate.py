"""How long a run will take and how much disk it needs, from a few rounds that are tried and thrown away."""

from __future__ import annotations

import time
from statistics import mean, median
from typing import NamedTuple

import torch

from fedsim.errors import Diverged, UserError
from fedsim.federation.prepare import Simulation
from fedsim.federation.round import simulate
from fedsim.runs.checkpoints import encode_state
from fedsim.runs.console import format_bytes
from fedsim.runs.saved_model import first_state

ROUNDS = 5
"""Rounds that are tried, that of the untrained model included: cohorts, and so rounds, may differ in size."""
LONG = 5.0
"""Seconds after which no other round is tried."""
SLOW = 3e11
"""Multiply-accumulates of a round that is not tried, because it would take a minute or more."""
KEPT = 3
"""Checkpoints that a run keeps: the last two and the best."""
ROW = 300
"""Bytes of a round in ``metrics.csv`` and ``timing.csv``, about."""


class Estimate(NamedTuple):
    """What a run will take: seconds (None if no round was tried), and bytes of disk."""

    seconds: float | None
    size: int


def estimate(simulation: Simulation, work: float) -> Estimate:
    """Try a few rounds and extrapolate.

    Args:
        simulation: nothing of it is changed but its caches.
        work: multiply-accumulates of a round.
    """
    e = simulation.experiment
    state = first_state(simulation)
    size = KEPT * len(encode_state(state)) + ROW * e.rounds
    if work > SLOW or simulation.world.size > 1:
        return Estimate(None, size)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(e.threads or before)
        seconds = _seconds(simulation)
    except (Diverged, UserError):  # which the run itself will report
        return Estimate(None, size)
    finally:
        torch.set_num_threads(before)
    return Estimate(seconds, max(size, KEPT * len(encode_state(state)) + ROW * e.rounds))


def _seconds(simulation: Simulation) -> float | None:
    """Seconds of the whole run: those of the rounds tried, and the others like these; the first one also warms up."""
    e = simulation.experiment
    laps, tests = [], []
    begun = last = time.perf_counter()
    for result in simulate(simulation, first_state(simulation)):
        now = time.perf_counter()
        tests.append(result.seconds.get("evaluate", 0.0))
        laps.append(now - last - tests[-1])
        last = now
        if len(laps) == ROUNDS or (len(laps) > 1 and last - begun > LONG):
            break
    if len(laps) < 2:
        return None
    left = e.rounds + 1 - len(laps)
    evaluations = sum(simulation.evaluates(number) for number in range(len(laps), e.rounds + 1))
    return last - begun + left * mean(laps[2:] or laps[1:]) + evaluations * median(tests)


def in_words(found: Estimate, rounds: int) -> dict[str, str]:
    """An estimate as lines of a plan."""
    if found.seconds is None:
        return {"time": "not estimated", "disk": f"about {format_bytes(found.size)}"}
    return {
        "time": f"about {duration(found.seconds)} for {rounds} rounds, as the first rounds took here",
        "disk": f"about {format_bytes(found.size)}",
    }


def duration(seconds: float) -> str:
    """Seconds as one reads them: 0.8 s, 45 s, 3 min, 2.5 h, 4 d."""
    for scale, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.2g} {unit}" if seconds < 100 * scale else f"{seconds / scale:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
