"""What an engine offers once it is bound to a task, and what both engines keep between rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fedsim.client_store import ClientStore
from fedsim.clients.optimizers import OptimizerState
from fedsim.clients.report import Memory, Report
from fedsim.clients.task import LocalTask
from fedsim.data.batches import Batch
from fedsim.data.population import Samples
from fedsim.models.scores import Sums

if TYPE_CHECKING:
    from torch import Tensor


class Scorer(Protocol):
    """Whatever scores each client by itself: an engine, or one with more to go by than a model."""

    def score_clients(self, rows: Tensor, clients: Tensor, samples: Samples) -> Sums:
        """Score each client's own model ``[C, P]`` on its own samples; sums are ``[C]``."""
        ...


class Trainer(Scorer, Protocol):
    """An engine bound to a task: trains and evaluates. `stacked` and `sequential` give the same numbers to rounding."""

    def train(
        self,
        anchor: Tensor,
        clients: Tensor,
        round_number: int,
        store: ClientStore,
        memory: Memory | None = None,
        start: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> tuple[Tensor, Report]:
        """Train a part of the cohort.

        Args:
            anchor: ``[P]`` or ``[C, P]``, the model that each client gets from the server.
            clients: ``[C]`` int64 client numbers.
            round_number: for the batch order and the learning rate.
            store: where clients keep optimizer state.
            memory: what the correction recalls for these clients.
            start: ``[C, P]``, the models at which local training begins, if not at the anchor.
            steps: ``[C]`` int64, local steps of each client, at least 1; None takes those of the task.

        Returns:
            deltas ``[C, P]`` (local model minus the model at which training began) and their report.
        """
        ...

    def given(self, round_number: int) -> Trainer:
        """Return the engine for clients that got their model for an earlier round than the one they are combined in."""
        ...

    def full_gradients(self, rows: Tensor, clients: Tensor) -> Tensor:
        """Return the gradients ``[C, P]`` of clients' mean losses over all of their training samples.

        Args:
            rows: ``[P]`` or ``[C, P]``, the models at which they are taken, without dropout.
            clients: ``[C]`` int64 client numbers.
        """
        ...

    def score_samples(self, row: Tensor, samples: Samples) -> Sums:
        """Score one model ``[P]`` on every sample; sums are ``[S]``."""
        ...

    def features(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what the head gets for a batch, and what it makes of it, without dropout.

        Args:
            rows: ``[C, P]``, a model for each client's batch.
            batch: the samples, all of them real.

        Returns:
            features ``[C, R, F]`` and outputs ``[C, R, K]``; R is b, or T * b (step-major) for a target at every step.
        """
        ...


def starting_state(task: LocalTask, rows: Tensor, clients: Tensor, store: ClientStore) -> OptimizerState:
    """Return fresh optimizer state, or what these clients kept from their last round."""
    state = task.config.optimizer.state(rows)
    if not task.config.keep_optimizer_state:
        return state
    return {name: store.read(f"optimizer.{name}", clients, fresh) for name, fresh in state.items()}


def keep_state(task: LocalTask, state: OptimizerState, clients: Tensor, store: ClientStore) -> None:
    """Store the optimizer state, if ``client.keep_optimizer_state`` says that clients keep it."""
    if task.config.keep_optimizer_state:
        for name, rows in state.items():
            store.write(f"optimizer.{name}", clients, rows)
