"""What local training needs that stays the same from round to round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim import seeding
from fedsim.clients.settings import ClientConfig
from fedsim.clients.step import Corrects
from fedsim.data.batches import local_steps
from fedsim.data.population import Population
from fedsim.models.blocks import Blocks
from fedsim.models.recurrent import Architecture, DropoutMask

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LocalTask:
    """Everything about local training that stays the same from round to round.

    Attributes:
        arch: the model.
        population: the clients and their samples.
        config: the client settings.
        correction: changes the local gradients.
        blocks: which parameters are aggregated.
        seed: the experiment's seed.
        stream: name of the batch order's random stream; a second training of the same clients uses another one, also
            for dropout.
        given: the round for which clients got their model, if that is not the one in which they are combined; it
            decides their learning rate, since they know no other.
    """

    arch: Architecture
    population: Population
    config: ClientConfig
    correction: Corrects
    blocks: Blocks
    seed: int
    stream: str = "batches"
    given: int | None = None

    def steps(self, clients: Tensor) -> Tensor:
        """``[C]`` int64, the local steps that `clients` ``[C]`` take in a round."""
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

    def positions(self, samples: Tensor) -> Tensor | None:
        """``[C]`` int64, what the losses of so many samples ``[C]`` are divided by; None: the targets that count."""
        return samples * self.population.train.steps if self.config.loss_over == "positions" else None

    def lr(self, round_number: int) -> float:
        """The local learning rate of a round (1, 2, ...)."""
        number = round_number if self.given is None else self.given
        return self.config.optimizer.lr * self.config.lr_decay ** (number - 1)

    def batch_key(self, round_number: int) -> int:
        """Key of the random stream that orders the batches of a round."""
        return seeding.stream_key(self.seed, self.stream, round_number)

    def dropout(self, round_number: int, clients: Tensor, step: int, like: Tensor) -> DropoutMask | None:
        """Masks between layers for one local step of `clients` ``[C]``, or None without dropout."""
        rate = self.arch.model.dropout
        if rate == 0:
            return None
        stream = "dropout" if self.stream == "batches" else f"{self.stream}.dropout"
        key = seeding.stream_key(self.seed, stream, round_number, step)
        width = self.arch.state_size
        client = clients.to(like.device)[:, None, None, None]

        def mask(layer: int, t_max: int, b: int) -> Tensor:
            def axis(size: int) -> Tensor:
                return torch.arange(size, device=like.device)

            counters = client * self.arch.model.num_layers + layer
            keep = seeding.keep_mask(key, rate, counters, axis(t_max)[:, None, None], axis(b)[:, None], axis(width))
            return keep.to(like.dtype) / (1 - rate)

        return mask
