"""The models that clients get from the federation, on their test and validation samples, and on unseen clients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsim.core.part import Federation, Part
from fedsim.core.results import Evaluation, merge
from fedsim.core.state import State
from fedsim.errors import Diverged
from fedsim.evaluation.evaluate import evaluate, evaluate_own

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GlobalScores(Part):
    """Scores the global model on all samples; with private blocks, each client's own model on its own samples.

    An unseen client has no private parameters; it gets those with which the others began.
    """

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``test_*`` columns, and those of validation samples and of unseen clients where there are any.

        Raises:
            Diverged: if the test loss is not finite.
        """
        population, trainer, world = federation.population, federation.trainer, federation.world

        def own(clients: Tensor) -> Tensor:
            return federation.blocks.models(state.store, clients, state.row)

        def scores(prefix: str) -> Evaluation:
            if federation.blocks.private is None:
                return evaluate(trainer, state.row, population, world, prefix)
            return evaluate_own(trainer, own, population, federation.chunk_size, prefix, world)

        evaluation = scores("test")
        if population.validation is not None:
            evaluation = merge([evaluation, scores("validation")])
        if population.unseen is not None:
            unseen = evaluate(trainer, state.row, population.unseen, world, "unseen")
            evaluation = merge([evaluation, Evaluation(unseen.metrics, unseen=unseen.clients)])
        if not math.isfinite(evaluation.metrics["test_loss"]):
            raise Diverged(f"round {state.round}: the test loss is no longer finite")
        return evaluation
