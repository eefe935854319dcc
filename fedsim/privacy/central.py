"""Central differential privacy: clip on the server, sum, add noise (DP-FedAvg, McMahan 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Round
from fedsim.core.results import Metrics
from fedsim.core.state import Drawer
from fedsim.errors import UserError, check_above, check_between
from fedsim.metrics import COLUMNS, Column
from fedsim.privacy.budget import Budget, make_budget, sampling
from fedsim.privacy.privacy import Accounted, Clipped

BOUND = "clip_norm"
"""The drawer's entry for the next round's S, where it adapts."""


@dataclass(frozen=True)
class NoisyMean:
    """``(sum of clipped deltas + noise) / denominator``: the private mean of one round.

    Attributes:
        clip_norm: S.
        noise_std: standard deviation of each number of the noise.
        denominator: fixed, whoever takes part.
        seed: of the run.
        round_number: 1, 2, ...
        adaptive: the setting that moves S, or None if it is fixed.
        drawer: where the next S goes.
    """

    clip_norm: float
    noise_std: float
    denominator: float
    seed: int
    round_number: int
    adaptive: AdaptiveCentralDP | None
    drawer: Drawer

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
        noise = seeding.generator(self.seed, "central noise", self.round_number).standard_normal(len(state.total))
        if self.adaptive is not None:
            bound = self.adaptive.next_norm(
                self.clip_norm, state.weight, self.denominator, self.seed, self.round_number
            )
            self.drawer[BOUND] = torch.tensor(bound, dtype=torch.float64)
        return (state.total + self.noise_std * torch.from_numpy(noise).to(state.total)) / self.denominator


@dataclass(frozen=True, kw_only=True)
class CentralDP(Clipped):
    """Clipped deltas, their mean over a fixed denominator, Gaussian noise (McMahan 2018, Algorithm 1).

    The denominator is the expected size of a cohort, so that a round without clients is noise alone. With
    ``sampler=poisson`` neighbours differ by one client more or less, with ``sampler=uniform`` in one client that is
    replaced by another. Accounting by Renyi differential privacy (Mironov 2019; Wang 2019). Weights must be uniform,
    and a delta may depend on the model that its client got and on nothing else.
    """

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.PRIVATE_MEAN})

    def budget(self, bound: Bound) -> Budget:
        """What the run spends, by the sampler's own assumption.

        Raises:
            UserError: if no accountant knows the sampler, or no noise will do.
        """
        where = sampling(bound.sampler, bound.population.num_clients)
        return make_budget(self.noise_multiplier, self.target_epsilon, self.delta, bound.rounds, where)

    def bind(self, bound: Bound) -> CentralDPInRun:
        """Find the noise."""
        return CentralDPInRun(self.budget(bound), bound.seed, self)

    def first_bound(self) -> Drawer:
        """Nothing: S is fixed."""
        return {}

    def private_mean(self, drawer: Drawer, budget: Budget, seed: int, round_number: int) -> NoisyMean:
        """The private mean of a round; `drawer` is what the mechanism keeps between rounds."""
        std = budget.noise_multiplier * self.clip_norm
        return NoisyMean(self.clip_norm, std, budget.expected, seed, round_number, None, drawer)


@dataclass(frozen=True)
class CentralDPInRun(Accounted):
    """Central differential privacy with its noise."""

    settings: CentralDP

    def start(self, row: Tensor) -> Drawer:
        """The first S, where it adapts."""
        return self.settings.first_bound()

    def rule(self, combine: Any, round: Round) -> NoisyMean:
        """The private mean, whoever came: noise hides how many that were."""
        return self.settings.private_mean(round.drawer(self), self.budget, self.seed, round.number)

    def measure(self, round: Round) -> Metrics:
        """What was spent, and where S adapts, the next round's."""
        metrics, drawer = super().measure(round), round.drawer(self)
        return metrics | ({BOUND: float(drawer[BOUND])} if round.number > 0 and BOUND in drawer else {})


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

    option: ClassVar[str] = "central_dp_adaptive"

    quantile: float = 0.5
    clip_lr: float = 0.2
    count_noise: float | None = None

    columns: ClassVar[tuple[Column, ...]] = (*Clipped.columns, COLUMNS["clip_norm"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "clip_lr", "count_noise")
        check_between(self, 0, 1, "quantile")

    def _count_noise(self, expected: float) -> float:
        return expected / 20 if self.count_noise is None else self.count_noise

    def budget(self, bound: Bound) -> Budget:
        """As `CentralDP`; the count's noise must leave something for the deltas."""
        budget = super().budget(bound)
        noise = self._count_noise(budget.expected)
        if budget.noise_multiplier >= 2 * noise:
            raise UserError(
                f"privacy.count_noise={noise:g}: must be more than half of the noise multiplier "
                f"{budget.noise_multiplier:.4g}; raise it, or take larger cohorts"
            )
        return budget

    def first_bound(self) -> Drawer:
        """``clip_norm``."""
        return {BOUND: torch.tensor(self.clip_norm, dtype=torch.float64)}

    def private_mean(self, drawer: Drawer, budget: Budget, seed: int, round_number: int) -> NoisyMean:
        """The private mean of a round, with the bound that the last one left."""
        bound = float(drawer[BOUND])
        z, count = budget.noise_multiplier, self._count_noise(budget.expected)
        std = bound / math.sqrt(z**-2 - (2 * count) ** -2)
        return NoisyMean(bound, std, budget.expected, seed, round_number, self, drawer)

    def next_norm(self, bound: float, count: float, expected: float, seed: int, round_number: int) -> float:
        """The next bound, from the sum of ``1[norm <= bound] - 1/2`` over a round's clients."""
        noise = self._count_noise(expected) * float(
            seeding.generator(seed, "count noise", round_number).standard_normal()
        )
        share = (count + noise) / expected + 0.5
        return bound * math.exp(-self.clip_lr * (share - self.quantile))
