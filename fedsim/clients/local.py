"""What both engines share: the client settings, what a round of local training needs, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.client_store import ClientStore
from fedsim.clients.corrections import Correction, Memory
from fedsim.clients.optimizers import LocalOptimizer, State
from fedsim.errors import check_above, check_at_least, check_between, check_exactly_one
from fedsim.models.recurrent import Architecture
from fedsim.models.stacked import DropoutMask, Sums
from fedsim.population import Population, Samples, local_steps


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """How every client trains.

    Attributes:
        optimizer: the local optimizer.
        epochs: passes over the client's own samples per round; exclusive with `steps`.
        steps: minibatch steps per round, the same for every client; exclusive with `epochs`.
        batch_size: samples per step; None takes all of the client's samples.
        lr_decay: factor on the learning rate after every round, ``lr * lr_decay ** (round - 1)``.
        clip_norm: largest norm of a client's minibatch gradient (correction included), or None.
        keep_optimizer_state: whether a client takes up its optimizer state where it left it in its last round.
        validation_fraction: share of each client's training samples that it keeps for judging its local model.
    """

    optimizer: LocalOptimizer
    epochs: int | None = 2
    steps: int | None = None
    batch_size: int | None = 8
    lr_decay: float = 1.0
    clip_norm: float | None = None
    keep_optimizer_state: bool = False
    validation_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_exactly_one(self, "epochs", "steps")
        check_at_least(self, 1, "epochs", "steps", "batch_size")
        check_above(self, 0, "lr_decay", "clip_norm")
        check_between(self, 0, 1, "validation_fraction", open_high=True)


@dataclass(frozen=True)
class LocalTask:
    """Everything about local training that stays the same from round to round.

    Attributes:
        arch: the model.
        population: whose samples.
        config: the client settings.
        correction: of the local gradients.
        seed: of the experiment.
        stream: purpose of the batch order's random stream; other training of the same clients has its own.
    """

    arch: Architecture
    population: Population
    config: ClientConfig
    correction: Correction
    seed: int
    stream: str = "batches"

    def steps(self, clients: Tensor) -> Tensor:
        """``[C]`` int64, the local steps that these clients take in a round."""
        sizes = self.population.train.sizes[clients]
        c = self.config
        return local_steps(sizes, epochs=c.epochs, steps=c.steps, batch_size=c.batch_size)

    def samples(self, clients: Tensor, steps: Tensor) -> Tensor:
        """``[C]`` int64, how many samples clients go through in `steps` ``[C]``: a sample counts once per pass."""
        sizes, batch, per_pass = self._passes(clients)
        return (steps // per_pass) * sizes + (steps % per_pass) * batch

    def steps_within(self, clients: Tensor, samples: Tensor) -> Tensor:
        """``[C]`` int64, the most steps in which clients go through no more than `samples` ``[C]``."""
        sizes, batch, per_pass = self._passes(clients)
        return (samples // sizes) * per_pass + (samples % sizes) // batch

    def _passes(self, clients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each client's samples, samples per step, and steps per pass."""
        sizes = self.population.train.sizes[clients]
        batch = sizes if self.config.batch_size is None else sizes.clamp(max=self.config.batch_size)
        return sizes, batch, -(-sizes // batch)

    def lr(self, round_number: int) -> float:
        """The local learning rate of a round (1, 2, ...)."""
        return self.config.optimizer.lr * self.config.lr_decay ** (round_number - 1)

    def batch_key(self, round_number: int) -> int:
        """Key of the batch order of a round."""
        return seeding.stream_key(self.seed, self.stream, round_number)

    def dropout(self, round_number: int, clients: Tensor, step: int, like: Tensor) -> DropoutMask | None:
        """Masks between layers for one local step of `clients` ``[C]``, or None without dropout."""
        rate = self.arch.model.dropout
        if rate == 0:
            return None
        key = seeding.stream_key(self.seed, "dropout", round_number, step)
        hidden = self.arch.hidden_size
        client = clients.to(like.device)[:, None, None, None]

        def mask(layer: int, t_max: int, b: int) -> Tensor:
            def axis(size: int) -> Tensor:
                return torch.arange(size, device=like.device)

            counters = client * self.arch.model.num_layers + layer
            keep = seeding.keep_mask(key, rate, counters, axis(t_max)[:, None, None], axis(b)[:, None], axis(hidden))
            return keep.to(like.dtype) / (1 - rate)

        return mask


@dataclass(frozen=True)
class Report:
    """What clients tell the server beside their deltas: one entry per client of the cohort, in cohort order.

    Attributes:
        num_samples: ``[C]`` int64 training samples.
        local_steps: ``[C]`` int64 optimizer steps taken.
        train_loss: ``[C]`` float64, sample-weighted mean of the minibatch losses.
        validation_loss: ``[C]`` float64 loss of the local model on the client's own validation split, or None.
        validation_accuracy: ``[C]`` float64, or None (also for regression).
        start_loss: ``[C]`` float64 mean loss on the client's training samples of what it starts from, or None.
        lr: ``[C]`` float64 local learning rate of the round, or None.
        coefficient_norm: ``[C]`` float64, see `fedsim.clients.measures.coefficient_norms`, or None.
        staleness: ``[C]`` int64, versions that were made while the client was at work; None under a schedule of rounds.

    The three before the last are there only if the combine rule asks for them (its ``needs``).
    """

    num_samples: Tensor
    local_steps: Tensor
    train_loss: Tensor
    validation_loss: Tensor | None = None
    validation_accuracy: Tensor | None = None
    start_loss: Tensor | None = None
    lr: Tensor | None = None
    coefficient_norm: Tensor | None = None
    staleness: Tensor | None = None


class Trainer(Protocol):
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
            memory: what the correction remembers of these clients.
            start: ``[C, P]``, where local training begins if not at the anchor.
            steps: ``[C]`` int64, local steps of each client, at least 1; None takes those of the task.

        Returns:
            deltas ``[C, P]`` (local minus where it began) and their report.
        """
        ...

    def score_samples(self, row: Tensor, samples: Samples) -> Sums:
        """Score one model ``[P]`` on every sample; sums are ``[S]``."""
        ...

    def score_clients(self, rows: Tensor, clients: Tensor, samples: Samples) -> Sums:
        """Score each client's own model ``[C, P]`` on its own samples; sums are ``[C]``."""
        ...


def starting_state(task: LocalTask, rows: Tensor, clients: Tensor, store: ClientStore) -> State:
    """Fresh optimizer state, or what these clients kept from their last round."""
    state = task.config.optimizer.state(rows)
    if not task.config.keep_optimizer_state:
        return state
    return {name: store.read(f"optimizer.{name}", clients, fresh) for name, fresh in state.items()}


def keep_state(task: LocalTask, state: State, clients: Tensor, store: ClientStore) -> None:
    """Store the optimizer state if clients keep it."""
    if task.config.keep_optimizer_state:
        for name, rows in state.items():
            store.write(f"optimizer.{name}", clients, rows)
