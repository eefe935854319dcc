"""Central differential privacy: clip on the server, sum, add noise (DP-FedAvg, McMahan 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fedsim import seeding
from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.origin import Spending
from fedsim.core.part import Bound, Round
from fedsim.core.results import Metrics
from fedsim.core.state import Drawer, State
from fedsim.errors import Diverged, UserError, check_above, check_between
from fedsim.metrics import COLUMNS, Column
from fedsim.privacy.budget import Budget, make_budget, sampling
from fedsim.privacy.guarantee import guarantee
from fedsim.privacy.privacy import Accounted, Clipped
from fedsim.samplers.sampler import Sampling

if TYPE_CHECKING:
    from torch import Tensor

BOUND = "clip_norm"
"""The drawer entry of the next round's S, if it adapts."""


@dataclass(frozen=True)
class NoisyMean:
    """``(sum of clipped deltas + noise) / denominator``: the private mean of one round.

    Attributes:
        clip_norm: S, the largest norm of a delta.
        noise_std: standard deviation of the noise, per parameter.
        denominator: the same in every round, however many clients take part.
        seed: the run's seed.
        round_number: 1, 2, ...
        adaptive: the settings by which S adapts, or None if it is fixed.
        drawer: where the next S is stored.
        stream: what the keys of the noise end with.
    """

    without_rows: ClassVar[bool] = True
    """A round without rows gives noise alone."""

    clip_norm: float
    noise_std: float
    denominator: float
    seed: int
    round_number: int
    adaptive: AdaptiveCentralDP | None
    drawer: Drawer
    stream: tuple[int, ...] = ()

    def start(self, like: Tensor) -> WeightedSum:
        """Return an empty sum, whose `weight` will be the clients within the bound minus half the clients."""
        return WeightedSum(torch.zeros_like(like, dtype=torch.float64))

    def add(self, state: WeightedSum, deltas: Tensor, report: Report) -> None:
        """Clip a block of deltas and add it to the sum, in place."""
        norms = deltas.norm(dim=1)
        state.total += (self.clip_norm / norms.clamp(min=self.clip_norm)) @ deltas
        state.weight += float((norms <= self.clip_norm).sum()) - len(deltas) / 2

    def finish(self, state: WeightedSum) -> Tensor:
        """Return the mean with noise added; if S adapts, store the next one."""
        noise = seeding.generator(self.seed, "central noise", self.round_number, *self.stream).standard_normal(
            len(state.total)
        )
        if self.adaptive is not None:
            bound = self.adaptive.next_norm(
                self.clip_norm, state.weight, self.denominator, self.seed, self.round_number
            )
            self.drawer[BOUND] = torch.tensor(bound, dtype=torch.float64)
        return (state.total + self.noise_std * torch.from_numpy(noise).to(state.total)) / self.denominator


@dataclass(frozen=True, kw_only=True)
class CentralDP(Clipped):
    """The sum of clipped deltas plus Gaussian noise, over a fixed denominator (McMahan 2018, Algorithm 1).

    The denominator is the expected size of a cohort, so that a round without clients gives noise alone. This is q N
    with ``sampler=poisson``, where neighbouring populations differ in N: N is then taken to be public, unless the
    denominator is given. With
    ``sampler=poisson`` neighbouring populations differ by one added or removed client, with ``sampler=uniform`` by one
    client replaced by another. Accounting uses Renyi differential privacy (Mironov 2019; Wang 2019). Weights must be
    uniform, and a delta may depend only on the model that its client got and on the client's data.

    Attributes:
        denominator: what the noisy sum is divided by in every round; None is the expected size of a cohort.
    """

    denominator: float | None = None

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.PRIVATE_MEAN, Fact.ACCOUNTED})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above(self, 0, "denominator")

    def budget(self, bound: Bound, where: Sampling, before: tuple[Spending, ...]) -> Budget:
        """Return the run's privacy budget.

        Args:
            bound: the run.
            where: how clients are sampled.
            before: what was spent on the same clients before round 1.

        Raises:
            UserError: if no noise meets the target.
        """
        budget = make_budget(self.noise_multiplier, self.target_epsilon, self.delta, bound.rounds, where, before)
        return budget if self.denominator is None else replace(budget, expected=self.denominator)

    def bind(self, bound: Bound) -> CentralDPInRun:
        """Work out the noise for the run's rounds and sampler.

        Raises:
            UserError: if the accountant does not cover the sampler, or no noise meets the target.
        """
        where = sampling(bound.sampler, bound.population.num_clients)
        about = guarantee(
            bound, where, where.relation, self.delta, self.noise_stream, fixed=self.denominator is not None
        )
        return CentralDPInRun(self.budget(bound, where, about.before), about, bound.seed, self)

    def first_bound(self) -> Drawer:
        """Return an empty drawer, since S is fixed."""
        return {}

    def private_mean(self, drawer: Drawer, budget: Budget, seed: int, round_number: int) -> NoisyMean:
        """Return the private mean of a round; `drawer` holds what the mechanism keeps between rounds."""
        std = budget.noise_multiplier * self.clip_norm
        return NoisyMean(self.clip_norm, std, budget.expected, seed, round_number, None, drawer, self.stream)


@dataclass(frozen=True)
class CentralDPInRun(Accounted):
    """Central differential privacy, bound to a run."""

    settings: CentralDP

    def start(self, row: Tensor) -> Drawer:
        """Return the first S, if it adapts."""
        return self.settings.first_bound()

    def rule(self, combine: Any, round: Round) -> NoisyMean:
        """Return the private mean, even for an empty cohort: the noise hides how many clients came."""
        return self.settings.private_mean(round.drawer(self), self.budget, self.seed, round.number)

    def measure(self, round: Round) -> Metrics:
        """Return the privacy spent so far and, if S adapts, the next round's S."""
        metrics, drawer = super().measure(round), round.drawer(self)
        return metrics | ({BOUND: float(drawer[BOUND])} if round.number > 0 and BOUND in drawer else {})

    def summary(self, state: State) -> dict[str, Any]:
        """Return the guarantee, with the denominator of the mean."""
        return {"privacy": {**super().summary(state)["privacy"], "denominator": self.budget.expected}}


@dataclass(frozen=True, kw_only=True)
class AdaptiveCentralDP(CentralDP):
    """`CentralDP` with a clipping norm that follows a quantile of the deltas' norms (Andrew 2021, Algorithm 1).

    The share of deltas within the bound is measured with separate noise; in turn the noise on the deltas is larger,
    ``(z^-2 - (2 sigma_b)^-2)^(-1/2)``, so that both together spend what the multiplier z allows (Theorem 1).
    ``clip_norm`` is the norm of round 1, and the column ``clip_norm`` the norm that the next round will use.

    Attributes:
        quantile: gamma, the share of deltas that should stay unclipped.
        clip_lr: eta_C, how fast the bound adapts: ``S <- S * exp(-eta_C * (share - gamma))``.
        count_noise: sigma_b, standard deviation of the noise on the count; None is a 20th of the denominator, as in the
            paper.
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

    def budget(self, bound: Bound, where: Sampling, before: tuple[Spending, ...]) -> Budget:
        """Return the budget of `CentralDP`; refuse a count noise so small that it would spend all of it."""
        budget = super().budget(bound, where, before)
        noise = self._count_noise(budget.expected)
        if budget.noise_multiplier >= 2 * noise:
            raise UserError(
                f"privacy.count_noise={noise:g}: must be more than half of the noise multiplier "
                f"{budget.noise_multiplier:.4g}; raise it, or take larger cohorts"
            )
        return budget

    def first_bound(self) -> Drawer:
        """Return ``clip_norm`` as the first S."""
        return {BOUND: torch.tensor(self.clip_norm, dtype=torch.float64)}

    def private_mean(self, drawer: Drawer, budget: Budget, seed: int, round_number: int) -> NoisyMean:
        """Return the private mean of a round, with the bound that the previous round stored."""
        bound = float(drawer[BOUND])
        z, count = budget.noise_multiplier, self._count_noise(budget.expected)
        std = bound / math.sqrt(z**-2 - (2 * count) ** -2)
        return NoisyMean(bound, std, budget.expected, seed, round_number, self, drawer, self.stream)

    def next_norm(self, bound: float, count: float, expected: float, seed: int, round_number: int) -> float:
        """Return the next bound, given `count`, the sum of ``1[norm <= bound] - 1/2`` over a round's clients.

        Raises:
            Diverged: if no float holds it.
        """
        noise = self._count_noise(expected) * float(
            seeding.generator(seed, "count noise", round_number, *self.stream).standard_normal()
        )
        share = (count + noise) / expected + 0.5
        exponent = -self.clip_lr * (share - self.quantile)
        following = bound * math.exp(exponent) if exponent < 700 else math.inf  # beyond, `math.exp` raises an error
        if not 0 < following < math.inf:
            raise Diverged(
                f"round {round_number}: the clipping bound became {following:g}; take a smaller privacy.clip_lr"
            )
        return following
