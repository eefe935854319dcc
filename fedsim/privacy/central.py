"""Central differential privacy: clip on the server, sum, add noise (DP-FedAvg, McMahan 2018)."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.rules import WeightedSum
from fedsim.attacks.attack import CohortAttack
from fedsim.clients.report import Report
from fedsim.errors import UserError, check_above, check_between
from fedsim.privacy.budget import Budget, make_budget, sampling
from fedsim.privacy.privacy import Clipped

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment


@dataclass(frozen=True)
class NoisyMean:
    """``(sum of clipped deltas + noise) / denominator``: the private mean of one round.

    Attributes:
        clip_norm: S.
        noise_std: standard deviation of each number of the noise.
        denominator: fixed, whoever takes part.
        seed: of the run.
        number: of the round.
        adaptive: the setting that moves S, or None if it is fixed.
        parts: where the next S goes.
    """

    clip_norm: float
    noise_std: float
    denominator: float
    seed: int
    number: int
    adaptive: AdaptiveCentralDP | None
    parts: MutableMapping[str, Tensor]

    def start(self, like: Tensor) -> WeightedSum:
        """Begin a round; `weight` counts clients within the bound, less a half each."""
        return WeightedSum(torch.zeros_like(like, dtype=torch.float64))

    def add(self, state: WeightedSum, deltas: Tensor, report: Report) -> None:
        """Clip a block and add it."""
        norms = deltas.norm(dim=1)
        state.total += (self.clip_norm / norms.clamp(min=self.clip_norm)) @ deltas
        state.weight += float((norms <= self.clip_norm).sum()) - len(deltas) / 2

    def finish(self, state: WeightedSum) -> Tensor:
        """Add the noise; where S adapts, move it."""
        noise = seeding.generator(self.seed, "central noise", self.number).standard_normal(len(state.total))
        if self.adaptive is not None:
            bound = self.adaptive.next_norm(self.clip_norm, state.weight, self.denominator, self.seed, self.number)
            self.parts["privacy.clip_norm"] = torch.tensor(bound, dtype=torch.float64)
        return (state.total + self.noise_std * torch.from_numpy(noise).to(state.total)) / self.denominator


@dataclass(frozen=True, kw_only=True)
class CentralDP(Clipped):
    """Clipped deltas, their mean over a fixed denominator, Gaussian noise (McMahan 2018, Algorithm 1).

    The denominator is the expected size of a cohort, so that a round without clients is noise alone. With
    ``sampler=poisson`` neighbours differ by one client more or less, with ``sampler=uniform`` in one client that is
    replaced by another. Accounting by Renyi differential privacy (Mironov 2019; Wang 2019).
    """

    def check(self, experiment: Experiment) -> None:
        """Weights must be uniform, and a delta may depend on the model that its client got and on nothing else."""
        e = experiment
        aggregator, name = e.aggregator, "privacy=central_dp"
        if not isinstance(aggregator.combine, Mean):
            raise UserError(
                f"{name}: bounds each client's share of a plain mean over a fixed denominator; take "
                f"aggregator/combine=mean, not {type(aggregator.combine).__name__.lower()}"
            )
        if aggregator.correction.remembers:
            raise UserError(
                f"{name}: aggregator/correction={type(aggregator.correction).__name__.lower()} tells the server more "
                "than the clipped deltas; take aggregator/correction=none or prox"
            )
        reasons = {
            "client.keep_optimizer_state=true": e.client.keep_optimizer_state,
            "error_feedback upstream (link.up.error_feedback=true)": e.link.up.error_feedback,
            f"aggregator.blocks={aggregator.blocks}": aggregator.blocks is not None,
        }
        for key, wrong in reasons.items():
            if wrong:
                raise UserError(
                    f"{key}: lets a client's delta depend on rounds in which it was drawn before, which the accountant "
                    f"of {name} does not know; switch one of them off"
                )
        if isinstance(e.attack, CohortAttack):
            raise UserError(
                f"{name}: with attack={type(e.attack).__name__.lower()} the attackers' rows are made of all others', "
                "so that no client's influence is bounded; take another attack or privacy=local_dp"
            )

    def budget(self, experiment: Experiment, num_clients: int) -> Budget:
        """By the sampler's own assumption."""
        where = sampling(experiment.sampler, num_clients)
        return make_budget(self.noise_multiplier, self.target_epsilon, self.delta, experiment.rounds, where)

    def rule(self, parts: MutableMapping[str, Tensor], budget: Budget, seed: int, number: int) -> NoisyMean:
        """The private mean of a round."""
        std = budget.noise_multiplier * self.clip_norm
        return NoisyMean(self.clip_norm, std, budget.expected, seed, number, None, parts)


@dataclass(frozen=True, kw_only=True)
class AdaptiveCentralDP(CentralDP):
    """As `CentralDP`, and the norm follows a quantile of the deltas' norms (Andrew 2021, Algorithm 1).

    The share of deltas within the bound is asked for with noise of its own; the noise on the deltas is larger in
    turn, ``(z^-2 - (2 sigma_b)^-2)^(-1/2)``, so that both together spend what the multiplier z says (Theorem 1).
    ``clip_norm`` is where the norm begins, and the column ``clip_norm`` what the next round will use.

    Attributes:
        quantile: gamma, share of the deltas that the bound is to leave as they are.
        clip_lr: eta_C, speed of the bound: ``S <- S * exp(-eta_C * (share - gamma))``.
        count_noise: sigma_b, standard deviation of the noise on the count; None is a 20th of the cohort, as there.
    """

    quantile: float = 0.5
    clip_lr: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "clip_lr", "count_noise")
        check_between(self, 0, 1, "quantile")

    @property
    def columns(self) -> tuple[str, ...]:
        """What was spent, and the bound for the next round."""
        return (*super().columns, "clip_norm")

    def _count_noise(self, expected: float) -> float:
        return expected / 20 if self.count_noise is None else self.count_noise

    def budget(self, experiment: Experiment, num_clients: int) -> Budget:
        """As `CentralDP`; the count's noise must leave something for the deltas."""
        budget = super().budget(experiment, num_clients)
        noise = self._count_noise(budget.expected)
        if budget.noise_multiplier >= 2 * noise:
            raise UserError(
                f"privacy.count_noise={noise:g}: must be more than half of the noise multiplier "
                f"{budget.noise_multiplier:.4g}; raise it, or take larger cohorts"
            )
        return budget

    def rule(self, parts: MutableMapping[str, Tensor], budget: Budget, seed: int, number: int) -> NoisyMean:
        """The private mean of a round, with the bound that the last one left."""
        bound = float(parts["privacy.clip_norm"]) if "privacy.clip_norm" in parts else self.clip_norm
        z, count = budget.noise_multiplier, self._count_noise(budget.expected)
        std = bound / math.sqrt(z**-2 - (2 * count) ** -2)
        return NoisyMean(bound, std, budget.expected, seed, number, self, parts)

    def next_norm(self, bound: float, count: float, expected: float, seed: int, number: int) -> float:
        """The next bound, from the sum of ``1[norm <= bound] - 1/2`` over a round's clients."""
        noise = self._count_noise(expected) * float(seeding.generator(seed, "count noise", number).standard_normal())
        share = (count + noise) / expected + 0.5
        return bound * math.exp(-self.clip_lr * (share - self.quantile))
