"""Weighted means of deltas: by number of samples or tokens, or by the performance of the local model."""

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
            ``samples``: its number of training samples (FedAvg, McMahan 2017, Algorithm 1): of sentences or windows,
            where the next word is predicted.
            ``tokens``: the number of targets in its training samples that count, for a target at every step (as
            TensorFlow Federated weighs clients of StackOverflow).
            ``accuracy``: the accuracy of its local model on its own validation split.
            ``loss``: ``1 / loss`` of its local model on its own validation split, so a lower loss weighs more.

        power: exponent of that weight: ``by=loss power=-1`` weighs by the loss itself.

    ``accuracy`` and ``loss`` need ``client.validation_fraction``. If every weight of a round is zero (no client
    predicts anything right, or has a token that counts), the plain mean is taken.
    """

    by: str = "samples"
    power: float = 1.0

    facts: ClassVar[Facts] = frozenset({Fact.READS_REPORT})

    def conditional_facts(self) -> Mapping[Fact, str]:
        """Weights other than plain sample counts compare clients; others than samples have no known largest one."""
        own: dict[Fact, str] = {}
        if self.by == "samples" and self.power > 0:
            own[Fact.COUNTS_SAMPLES] = ""
        if self != Weighted():
            own[Fact.COMPARES] = ""
        if self.by != "samples":
            own[Fact.UNBOUNDED_WEIGHTS] = f"aggregator.combine.by={self.by}"
        return own

    @property
    def _by_performance(self) -> bool:
        return self.by in ("loss", "accuracy")

    def conditional_needs(self) -> tuple[str, ...]:
        """Tokens are counted only where they are weights."""
        return ("num_tokens",) if self.by == "tokens" else ()

    def check(self, setting: Setting) -> None:
        """Refuse weights by performance without a validation split, and by accuracy for a regression."""
        task = None if setting.population is None else setting.population.task
        if self.by == "tokens" and task not in (None, Task.SEQUENCE_LABELLING):
            raise UserError(
                "aggregator.combine.by=tokens: these data have one target per sample; by=samples counts them"
            )
        if self._by_performance and setting.client.validation_fraction == 0:
            raise UserError(
                f"aggregator.combine.by={self.by}: clients judge their models on a validation split of their own; "
                "set client.validation_fraction, for instance to 0.2"
            )
        if self.by == "accuracy" and task is Task.REGRESSION:
            raise UserError("aggregator.combine.by=accuracy: a regression has no accuracy; use by=loss or by=samples")

    def __post_init__(self) -> None:
        check_one_of(self, "by", ("samples", "tokens", "loss", "accuracy"))
        if not math.isfinite(self.power) or self.power == 0:
            raise FieldError("power", self.power, "must be a number other than 0, which is aggregator/combine=mean")
        if self.by == "accuracy" and self.power < 0:
            raise FieldError("power", self.power, "must be greater than 0 with by=accuracy, which may be 0")

    def weights(self, report: Report) -> Tensor:
        """Return the weights ``[C]`` float64 of the clients in a report."""
        if self.by == "samples":
            return report.num_samples.double() ** self.power
        if self.by == "tokens":
            assert report.num_tokens is not None, "asked for in `conditional_needs`"
            # A client whose targets are all unknown has learnt nothing, and would have an infinite weight below 0.
            weights = report.num_tokens.double()
            return torch.where(weights > 0, weights**self.power, 0.0)
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
        if self.by in ("accuracy", "tokens"):
            state[1].add(deltas, torch.ones(len(deltas)))

    def finish(self, state: tuple[WeightedSum, WeightedSum]) -> Tensor:
        """Return the weighted mean ``[P]``, or the plain one if all weights are zero."""
        total = state[0] if state[0].weight > 0 else state[1]
        return total.total / total.weight
