"""The ``test_*`` columns: the models that clients get from the federation, on their test samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsim.core.part import Federation, Part
from fedsim.core.results import Evaluation
from fedsim.core.state import State
from fedsim.errors import Diverged
from fedsim.evaluation.evaluate import evaluate, evaluate_own

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GlobalScores(Part):
    """Scores the global model on all test samples; with private blocks, each client's own model on its own samples."""

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``test_*`` columns.

        Raises:
            Diverged: if the test loss is not finite.
        """
        population, trainer, world = federation.population, federation.trainer, federation.world
        if federation.blocks.private is None:
            evaluation = evaluate(trainer, state.row, population, world)
        else:

            def own(clients: Tensor) -> Tensor:
                return federation.blocks.models(state.store, clients, state.row)

            evaluation = evaluate_own(trainer, own, population, federation.chunk_size, "test", world)
        if not math.isfinite(evaluation.metrics["test_loss"]):
            raise Diverged(f"round {state.round}: the test loss is no longer finite")
        return evaluation
