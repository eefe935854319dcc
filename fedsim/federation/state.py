"""What a run consists of: what stays the same, what changes from round to round, and what a round gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fedsim.client_store import ClientStore
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.core import stopping
from fedsim.data.population import Population, Samples
from fedsim.devices.clock import Clock
from fedsim.evaluation.evaluate import Evaluation
from fedsim.federation.experiment import Experiment
from fedsim.parallel.processes import ALONE, World
from fedsim.privacy.budget import Budget

Metrics = dict[str, int | float | None]


@dataclass(frozen=True)
class Simulation:
    """Everything that stays the same during a run.

    Attributes:
        experiment: the settings.
        population: all clients and their samples.
        task: what the clients train.
        trainer: the engine, bound to that task.
        chunk_size: clients trained at a time.
        columns: of ``metrics.csv``, in order.
        private: ``[Q]`` int64, the parameters that stay with each client, or None if all are aggregated.
        personal: the engine bound to the training of personal models, or None if there is none.
        shared: ``[n]`` int64, the parameters that are aggregated, or None if all are.
        malicious: ``[N]`` bool, which clients attack.
        poisoned: what the clients train once malicious ones poison their data, with an engine bound to it, or None.
        trial: test samples with a backdoor's trigger, or None.
        budget: what privacy the run spends, or None.
        clock: how long what clients do takes, or None if nobody counts the time.
        world: the processes that share the work.
    """

    experiment: Experiment
    population: Population
    task: LocalTask
    trainer: Trainer
    chunk_size: int
    columns: tuple[str, ...]
    private: Tensor | None = None
    personal: Trainer | None = None
    shared: Tensor | None = None
    malicious: Tensor | None = None
    poisoned: tuple[LocalTask, Trainer] | None = None
    trial: Samples | None = None
    budget: Budget | None = None
    clock: Clock | None = None
    world: World = ALONE


@dataclass
class State:
    """Everything that changes from round to round; all of it is in a checkpoint.

    Attributes:
        row: the global model ``[P]``.
        server: the server optimizer's state.
        store: what is kept per client.
        progress: best value so far and early stopping.
        memory: ``[P]``, the mean of what all clients remember for the correction, or None.
        round: rounds done.
        bytes_down: bytes sent to clients so far.
        bytes_up: bytes received from clients so far.
        parts: what links and privacy keep between rounds, by name.
        virtual_seconds: of all rounds so far.
    """

    row: Tensor
    server: dict[str, Tensor]
    store: ClientStore
    progress: stopping.Progress
    memory: Tensor | None = None
    round: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    parts: dict[str, Tensor] = field(default_factory=dict)
    virtual_seconds: float = 0.0


@dataclass(frozen=True)
class RoundResult:
    """What one round gives.

    Attributes:
        metrics: one row of ``metrics.csv``; None where a cell is empty.
        evaluation: per-client results, if this round was evaluated.
        seconds: wall-clock time by stage (``timing.csv``).
        samples: training samples that the cohort went through, each as often as it was used.
    """

    metrics: Metrics
    evaluation: Evaluation | None
    seconds: dict[str, float] = field(default_factory=dict)
    samples: int = 0
