"""What several test files share: composing an experiment, small uneven data, and a run whose every step is kept."""

import importlib.util
import sys
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import settings

from fedsim.config import compose as config
from fedsim.data.dataset import Assignment, Task
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

# The same examples every time, and no verdict on how busy the machine is.
settings.register_profile("fedsim", deadline=None, derandomize=True, database=None)
settings.load_profile("fedsim")

if importlib.util.find_spec("absl"):  # comes with dp-accounting
    from absl import logging as absl_logging

    # Hydra sets logging up anew for each run and closes all handlers; this one closes its stream too unless that is the
    # process's own, and what it finds as stderr in a test is the file in which pytest captures.
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

TRAIN_SIZES, TEST_SIZES = (2, 13, 5, 1, 9), (4, 0, 1, 2, 3)

TINY = {
    Task.CLASSIFICATION: ("data=synthetic", "data.features=3", "data.classes=4"),
    Task.REGRESSION: ("data=synthetic", "data.task=regression", "data.features=3", "data.outputs=2"),
    Task.SEQUENCE_LABELLING: ("data=text", "partition=natural", "data.sequence_length=6", "data.test_fraction=0.3"),
}
"""Data of each task on which five clients train in milliseconds; the sequences have 1 to 6 steps."""

# Roles with 1 to 6 training windows, the last of each cut short. Q, Y and Z occur in test text only: they are unknown.
PLAY = """ANNA:
the sea is wide and the night is long, so row.

BORIS:
a hat.

CLARA:
no star at all, no star.

DORA:
who is there? is it anna? who is it then? QQ

EMIL:
it is i. YZ
"""


@pytest.fixture
def one_thread():
    """One thread for a test of tiny tensors: waking another costs more than it does, much more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def compose():
    """Return ``compose(*overrides)``, the experiment that ``fedsim run`` would make of them (cached)."""

    @cache
    def compose(*overrides):
        return config.check_request(config.normalise(config.Request(overrides)))[0].experiment

    return compose


@dataclass(frozen=True)
class Uneven:
    """A partition into clients of given sizes; the samples left over go to nobody."""

    train: tuple[int, ...] = TRAIN_SIZES
    test: tuple[int, ...] = TEST_SIZES

    def assign(self, dataset, num_clients, seed):
        def deal(split, sizes):
            assert sum(sizes) <= len(split)
            order = np.random.default_rng(seed).permutation(len(split))
            return np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])

        names = tuple(f"client_{k}" for k in range(len(self.train)))
        return Assignment(deal(dataset.train, self.train), deal(dataset.test, self.test), names)


@pytest.fixture(scope="session")
def uneven():
    """The partition class `Uneven`; by default ``Uneven()`` has clients of 1 to 13 samples."""
    return Uneven


@pytest.fixture(scope="session")
def tiny(compose, tmp_path_factory):
    """Return ``tiny(*overrides, task=...)``: a tiny experiment with uneven clients, in float64 with torch kernels."""
    play = tmp_path_factory.mktemp("text") / "play.txt"
    play.write_text(PLAY)

    def tiny(*overrides, task=Task.CLASSIFICATION):
        small = [*TINY[task], "model.hidden_size=5", "client.batch_size=4", "rounds=2", "device=cpu", "dtype=float64"]
        if task is Task.SEQUENCE_LABELLING:
            small.append(f"data.path={play}")
        else:
            small += ["data.clients=5", "data.samples_per_client=6", "data.test_samples_per_client=2"]
            small += ["data.length=6", "data.min_length=1"]
        experiment = compose(*small, "engine.kernels=torch", *overrides)
        return experiment if task is Task.SEQUENCE_LABELLING else replace(experiment, partition=Uneven())

    return tiny


@dataclass
class Run:
    """A simulation and what came of it: ``metrics`` from round 0, ``rows``, ``deltas`` and ``reports`` from round 1."""

    simulation: object
    state: object
    metrics: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    deltas: list = field(default_factory=list)
    reports: list = field(default_factory=list)


class Spy:
    """A trainer that notes what another one returns."""

    def __init__(self, trainer, run):
        self._trainer, self._run = trainer, run

    def __getattr__(self, name):
        return getattr(self._trainer, name)

    def train(self, *arguments):
        deltas, report = self._trainer.train(*arguments)
        self._run.deltas.append(deltas.clone())
        self._run.reports.append(report)
        return deltas, report


@pytest.fixture(scope="session")
def run():
    """Return ``run(experiment, state=None, **bound)``: simulate to the end and keep every step (a `Run`).

    `bound` replaces what the parts are bound to, such as ``chunk_size``.
    """

    def run(experiment, state=None, **bound):
        simulation = prepare(experiment)
        simulation = replace(simulation, bound=replace(simulation.bound, **bound))
        kept = Run(simulation, state or initial_state(simulation))
        watched = replace(simulation, trainer=Spy(simulation.trainer, kept))
        for result in simulate(watched, kept.state):
            kept.metrics.append(result.metrics)
            if kept.state.round:
                kept.rows.append(kept.state.row.clone())
        return kept

    return run
