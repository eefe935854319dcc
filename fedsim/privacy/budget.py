"""The privacy budget of a run: noise multipliers and epsilons from the external package dp-accounting."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fedsim.core.names import option_name
from fedsim.core.origin import Spending
from fedsim.errors import UserError
from fedsim.extras import install_hint
from fedsim.samplers.sampler import REPLACE, Sampler, Sampling

LEAST_NOISE = 0.05
"""Smallest noise multiplier that a target may lead to; less noise hides nothing."""


def sampling(sampler: Sampler, num_clients: int) -> Sampling:
    """Return the sampling of a run, as the accountant sees it.

    Raises:
        UserError: if the accountant does not cover the sampler.
    """
    found = sampler.accounting(num_clients)
    if found is None:
        raise UserError(
            f"sampler={option_name(sampler)}: the accountant of privacy=central_dp knows clients that take part "
            "independently of each other (sampler=poisson) and cohorts of one size drawn uniformly (sampler=uniform)"
        )
    return found


@dataclass(frozen=True)
class Budget:
    """The privacy that a run spends.

    Attributes:
        noise_multiplier: standard deviation of the noise divided by the norm that deltas are clipped to.
        delta: the delta of (epsilon, delta)-differential privacy.
        relation: which populations are neighbours.
        expected: the fixed denominator of the mean (central privacy), else 0.
        epsilon: returns the epsilon that a number of rounds spends, together with what was spent before.
        spent: returns the mechanisms that a number of rounds is composed of, those before them included.
    """

    noise_multiplier: float
    delta: float
    relation: str
    expected: float
    epsilon: Callable[[int], float]
    spent: Callable[[int], tuple[Spending, ...]] = lambda rounds: ()

    def facts(self) -> dict[str, str | float]:
        """Return the guarantee, for ``summary.json``."""
        return {
            "unit": "client",
            "relation": self.relation,
            "noise_multiplier": self.noise_multiplier,
            "delta": self.delta,
        }

    def describe(self) -> str:
        """Return a line about the guarantee, for the start of a run."""
        return (
            f"differential privacy of clients ({self.relation}): noise multiplier {self.noise_multiplier:.4g}, "
            f"delta {self.delta:g}"
        )


def make_budget(
    noise_multiplier: float | None,
    target_epsilon: float | None,
    delta: float,
    rounds: int,
    where: Sampling | None,
    before: tuple[Spending, ...] = (),
) -> Budget:
    """Account for a Gaussian mechanism whose noise has the standard deviation ``noise_multiplier * clip_norm``.

    A client that is added or removed changes a sum by at most clip_norm; one that is replaced by another changes it
    by twice that, so the accountant then gets half of the multiplier.

    Args:
        noise_multiplier: the multiplier, or None to find the smallest that meets `target_epsilon` over `rounds` rounds.
        target_epsilon: the epsilon to meet, or None if the multiplier is given.
        delta: the delta of (epsilon, delta)-differential privacy.
        rounds: R, the round limit.
        where: how clients are sampled; None is local privacy, which accounts for each client's own messages.
        before: what was spent on the same clients before round 1, under the same relation.

    Raises:
        UserError: if dp-accounting is not installed, or no noise meets the target.
    """
    dp = _dp_accounting()
    one = _one_round(where)
    if noise_multiplier is None:
        assert target_epsilon is not None, "one of the two is set"
        if before and (spent := epsilon_of(before, delta)) >= target_epsilon:
            raise UserError(
                f"privacy.target_epsilon={target_epsilon}: training the model of init_from has spent {spent:.4g} on "
                "the same clients already; take a larger target, or start from another model"
            )
        try:
            noise_multiplier = min(
                float(
                    dp.calibrate_dp_mechanism(
                        lambda sampled=sampled: _accountant(one.relation, sampled),
                        lambda z, sampled=sampled: dp.ComposedDpEvent(
                            [_event(s, sampled) for s in (*before, replace(one, noise_multiplier=z, rounds=rounds))]
                        ),
                        target_epsilon,
                        delta,
                        dp.LowerEndpointAndGuess(LEAST_NOISE, 1.0),
                    )
                )
                for sampled in _ways((*before, one))
            )
        except importlib.import_module("dp_accounting.mechanism_calibration").NoBracketIntervalFoundError:
            raise UserError(
                f"privacy.target_epsilon={target_epsilon}: no noise multiplier from {LEAST_NOISE} on spends that in "
                f"rounds={rounds}"
            ) from None
    one = replace(one, noise_multiplier=noise_multiplier)

    def spent_by(number: int) -> tuple[Spending, ...]:
        return before if number == 0 else (*before, replace(one, rounds=number))

    @cache
    def epsilon(number: int) -> float:
        return epsilon_of(spent_by(number), delta)

    expected = 0.0 if where is None else where.expected
    return Budget(noise_multiplier, delta, one.relation, expected, epsilon, spent_by)


def epsilon_of(spent: Sequence[Spending], delta: float) -> float:
    """Return the epsilon of Gaussian mechanisms under one relation, one after another; 0 for none.

    A bound that does not count the sampling of clients holds too, and may be the smaller one: replacing a client of a
    cohort of a fixed size is accounted for by looser inequalities (Wang 2019). So both are computed.
    """
    spent = [one for one in spent if one.rounds]
    if not spent:
        return 0.0

    def bound(sampled: bool) -> float:
        accountant = _accountant(spent[0].relation, sampled)
        for one in spent:
            accountant.compose(_event(one, sampled))
        return float(accountant.get_epsilon(delta))

    return min(bound(sampled) for sampled in _ways(spent))


def _one_round(where: Sampling | None) -> Spending:
    """One round with clients sampled like that, and no noise yet."""
    if where is None:
        return Spending(REPLACE, 0.0, 1)
    if where.probability is not None:
        return Spending(where.relation, 0.0, 1, probability=where.probability)
    return Spending(where.relation, 0.0, 1, cohort=round(where.expected), num_clients=where.num_clients)


def _ways(spent: Sequence[Spending]) -> tuple[bool, ...]:
    """Whether the sampling is counted, in each way of computing a bound that there is."""
    return (True, False) if any(one.is_sampled for one in spent) else (False,)


def _event(one: Spending, sampled: bool) -> Any:
    """What the accountant composes: with the sampling of clients, or as if all took part in each of the rounds."""
    dp = _dp_accounting()
    gaussian = dp.GaussianDpEvent(one.noise_multiplier / 2 if one.relation == REPLACE else one.noise_multiplier)
    event = gaussian
    if sampled and one.is_sampled and one.probability is not None:
        event = dp.PoissonSampledDpEvent(one.probability, gaussian)
    elif sampled and one.is_sampled:
        event = dp.SampledWithoutReplacementDpEvent(one.num_clients, one.cohort, gaussian)
    return dp.SelfComposedDpEvent(event, one.rounds)


def _accountant(relation: str, sampled: bool) -> Any:
    # With sampling, fractional orders need a series that may not converge, for which the accountant warns on the
    # console, and large orders are slow without replacement. Fewer orders only give a larger epsilon.
    replaced = relation == REPLACE
    dp = _dp_accounting()
    name = dp.NeighboringRelation.REPLACE_ONE if replaced else dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    orders = [*range(2, 65), *([] if replaced else [96, 128, 192, 256, 512, 1024])] if sampled else None
    return importlib.import_module("dp_accounting.rdp").RdpAccountant(orders, name)


def _dp_accounting() -> Any:
    try:
        return importlib.import_module("dp_accounting")
    except ImportError:
        raise UserError(f"privacy: the accountant needs dp_accounting; {install_hint('privacy')}") from None
