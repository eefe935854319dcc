"""The server's step in a round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim.core.part import Round, Server
from fedsim.core.state import Drawer
from fedsim.errors import Diverged
from fedsim.server.optimizers import ServerOptimizer, learning_rate

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OptimizerStep(Server):
    """The step of a server optimizer.

    Attributes:
        optimizer: how the combined delta moves the global model.
        rounds: R, the round limit, for the optimizer's schedule.
    """

    optimizer: ServerOptimizer
    rounds: int

    def start(self, row: Tensor) -> Drawer:
        """Return the optimizer's initial state."""
        return self.optimizer.init(row)

    def step(self, delta: Tensor, round: Round) -> None:
        """Move the global model by the combined delta ``[P]``, at the round's learning rate.

        Raises:
            Diverged: if the model is no longer finite.
        """
        lr = learning_rate(self.optimizer, round.number, self.rounds)
        row, drawer = self.optimizer.step(round.state.row, delta, round.drawer(self), lr)
        # A sum is not finite if any term is not, and is much cheaper than a look at every number.
        if not math.isfinite(float(row.sum())) and not bool(torch.isfinite(row).all()):
            raise Diverged(f"round {round.number}: the global model is no longer finite after the server step")
        round.state.row, round.state.drawers[self.group] = row, drawer
