"""What privacy a run spends: noise multipliers and epsilons by dp-accounting, an accountant that others keep."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fedsim.core.names import option_name
from fedsim.errors import UserError
from fedsim.samplers.sampler import REPLACE, Sampler, Sampling

LEAST_NOISE = 0.05
"""Smallest noise multiplier that a target may ask for: less hides nothing."""


def sampling(sampler: Sampler, num_clients: int) -> Sampling:
    """The sampling of a run, as the accountant sees it.

    Raises:
        UserError: for a sampler that no accountant here knows.
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
    """What a run spends.

    Attributes:
        noise_multiplier: standard deviation of the noise over the norm that deltas are clipped to.
        delta: of (epsilon, delta)-differential privacy.
        relation: which populations are neighbours.
        expected: the fixed denominator of the mean (central privacy), else 0.
        epsilon: what so many rounds spend.
    """

    noise_multiplier: float
    delta: float
    relation: str
    expected: float
    epsilon: Callable[[int], float]

    def facts(self) -> dict[str, str | float]:
        """For ``summary.json``."""
        return {
            "unit": "client",
            "relation": self.relation,
            "noise_multiplier": self.noise_multiplier,
            "delta": self.delta,
        }

    def describe(self) -> str:
        """One line for the start of a run."""
        return (
            f"differential privacy of clients ({self.relation}): noise multiplier {self.noise_multiplier:.4g}, "
            f"delta {self.delta:g}"
        )


def make_budget(
    noise_multiplier: float | None, target_epsilon: float | None, delta: float, rounds: int, where: Sampling | None
) -> Budget:
    """Account for a Gaussian mechanism whose noise has the standard deviation ``noise_multiplier * clip_norm``.

    A client that is added or removed changes a sum by at most clip_norm; one that is replaced by another changes it
    by twice that, so that the accountant is told half of the multiplier.

    Args:
        noise_multiplier: or None to find the least that keeps to `target_epsilon` over `rounds` rounds.
        target_epsilon: or None.
        delta: of (epsilon, delta)-differential privacy.
        rounds: R.
        where: how clients are sampled; None is local privacy, in which each client's own messages are accounted for.

    Raises:
        UserError: if dp-accounting is not installed, or no noise will do.
    """
    dp = _dp_accounting()
    replaced = where is None or where.relation == REPLACE
    relation = dp.NeighboringRelation.REPLACE_ONE if replaced else dp.NeighboringRelation.ADD_OR_REMOVE_ONE

    def one_round(multiplier: float) -> Any:
        if where is None:
            return dp.GaussianDpEvent(multiplier / 2)
        if where.probability is not None:
            return dp.PoissonSampledDpEvent(where.probability, dp.GaussianDpEvent(multiplier))
        size = round(where.expected)
        return dp.SampledWithoutReplacementDpEvent(where.num_clients, size, dp.GaussianDpEvent(multiplier / 2))

    def accountant() -> Any:
        # Of a sampled mechanism, orders that are not whole are a series that may not converge, which the accountant
        # says on the console, and large ones take long without replacement. Fewer orders only give a larger epsilon.
        sampled = where is not None and where.expected < where.num_clients
        orders = [*range(2, 65), *([] if replaced else [96, 128, 192, 256, 512, 1024])] if sampled else None
        return importlib.import_module("dp_accounting.rdp").RdpAccountant(orders, relation)

    if noise_multiplier is None:
        assert target_epsilon is not None, "one of the two is set"
        try:
            noise_multiplier = float(
                dp.calibrate_dp_mechanism(
                    accountant,
                    lambda z: dp.SelfComposedDpEvent(one_round(z), rounds),
                    target_epsilon,
                    delta,
                    dp.LowerEndpointAndGuess(LEAST_NOISE, 1.0),
                )
            )
        except importlib.import_module("dp_accounting.mechanism_calibration").NoBracketIntervalFoundError:
            raise UserError(
                f"privacy.target_epsilon={target_epsilon}: no noise multiplier from {LEAST_NOISE} on spends that in "
                f"rounds={rounds}"
            ) from None
    event = one_round(noise_multiplier)

    @cache
    def epsilon(spent: int) -> float:
        return 0.0 if spent == 0 else float(accountant().compose(event, spent).get_epsilon(delta))

    name, expected = (REPLACE, 0.0) if where is None else (where.relation, where.expected)
    return Budget(noise_multiplier, delta, name, expected, epsilon)


def _dp_accounting() -> Any:
    try:
        return importlib.import_module("dp_accounting")
    except ImportError:
        raise UserError(
            "privacy: the accountant is not installed; python -m pip install 'dp-accounting>=0.4' (the extra 'privacy')"
        ) from None
