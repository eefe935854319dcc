"""Weighted means of deltas: by number of samples, or by the performance of the local model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.data.dataset import Task
from fedsim.errors import Diverged, FieldError, UserError, check_one_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Weighted:
    """``sum(w_k ** power * delta_k) / sum(w_k ** power)``.

    Attributes:
        by: how a client is weighted.
            ``samples``: its number of training samples (FedAvg, McMahan 2017, Algorithm 1).
            ``accuracy``: the accuracy of its local model on its own validation split.
            ``loss``: ``1 / loss`` of its local model on its own validation split, so a lower loss weighs more.

        power: exponent of that weight: ``by=loss power=-1`` weighs by the loss itself.

    ``accuracy`` and ``loss`` need ``client.validation_fraction``. If every weight of a round is zero (no client
    predicts anything right), the plain mean is taken.
    """

    by: str = "samples"
    power: float = 1.0

    facts: ClassVar[Facts] = frozenset({Fact.READS_REPORT})

    def conditional_facts(self) -> Mapping[Fact, str]:
        """Weights other than plain sample counts compare clients; weights by performance have no known upper bound."""
        own: dict[Fact, str] = {}
        if self.by == "samples" and self.power > 0:
            own[Fact.COUNTS_SAMPLES] = ""
        if self != Weighted():
            own[Fact.COMPARES] = ""
        if self.by != "samples":
            own[Fact.UNBOUNDED_WEIGHTS] = f"aggregator.combine.by={self.by}"
        return own

    def check(self, setting: Setting) -> None:
        """Refuse weights by performance without a validation split, and by accuracy for a regression."""
        if self.by != "samples" and setting.client.validation_fraction == 0:
            raise UserError(
                f"aggregator.combine.by={self.by}: clients judge their models on a validation split of their own; "
                "set client.validation_fraction, for instance to 0.2"
            )
        regression = setting.population is not None and setting.population.task is Task.REGRESSION
        if self.by == "accuracy" and regression:
            raise UserError("aggregator.combine.by=accuracy: a regression has no accuracy; use by=loss or by=samples")

    def __post_init__(self) -> None:
        check_one_of(self, "by", ("samples", "loss", "accuracy"))
        if not math.isfinite(self.power) or self.power == 0:
            raise FieldError("power", self.power, "must be a number other than 0, which is aggregator/combine=mean")
        if self.by == "accuracy" and self.power < 0:
            raise FieldError("power", self.power, "must be greater than 0 with by=accuracy, which may be 0")

    def weights(self, report: Report) -> Tensor:
        """Return the weights ``[C]`` float64 of the clients in a report."""
        if self.by == "samples":
            return report.num_samples.double() ** self.power
        measured = report.validation_loss if self.by == "loss" else report.validation_accuracy
        assert measured is not None, "checked before the run: validation_fraction > 0, and labels for accuracy"
        if not bool(torch.isfinite(measured).all()):
            raise Diverged(f"a client's validation {self.by} is not finite, so it cannot be a weight")
        # The bound keeps a loss of exactly zero from getting an infinite weight.
        return (1 / measured.clamp(min=1e-12) if self.by == "loss" else measured) ** self.power

    def start(self, like: Tensor) -> tuple[WeightedSum, WeightedSum]:
        """Return two empty sums: the weighted one, and a plain one in case all weights are zero."""
        zeros = torch.zeros_like(like, dtype=torch.float64)
        return WeightedSum(zeros), WeightedSum(zeros.clone())

    def add(self, state: tuple[WeightedSum, WeightedSum], deltas: Tensor, report: Report) -> None:
        """Add the deltas of a chunk of clients to the sums, in place."""
        state[0].add(deltas, self.weights(report))
        if self.by == "accuracy":
            state[1].add(deltas, torch.ones(len(deltas)))

    def finish(self, state: tuple[WeightedSum, WeightedSum]) -> Tensor:
        """Return the weighted mean ``[P]``, or the plain one if all weights are zero."""
        total = state[0] if state[0].weight > 0 else state[1]
        return total.total / total.weight
