"""The privacy budget of a run: noise multipliers and epsilons from the external package dp-accounting."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fedsim.core.names import option_name
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
        epsilon: returns the epsilon that a number of rounds spends.
    """

    noise_multiplier: float
    delta: float
    relation: str
    expected: float
    epsilon: Callable[[int], float]

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
    noise_multiplier: float | None, target_epsilon: float | None, delta: float, rounds: int, where: Sampling | None
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

    Raises:
        UserError: if dp-accounting is not installed, or no noise meets the target.
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
        # With sampling, fractional orders need a series that may not converge, for which the accountant warns on the
        # console, and large orders are slow without replacement. Fewer orders only give a larger epsilon.
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
        raise UserError(f"privacy: the accountant needs dp_accounting; {install_hint('privacy')}") from None
