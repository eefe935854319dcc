"""`scripts/privacy_audit.py`: its bound by hand, and that it finds noise that is half of what was told."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, multivariate_normal, norm

import fedsim

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "privacy_audit.py"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("privacy_audit", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_bounds_are_those_of_clopper_and_pearson(audit):
    """The rates at which so many positives, or so few, have a probability of 2.5 %: found by bisection, with binom."""

    def solve(tail):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle) < 0.025 else (low, middle)
        return low

    true = solve(lambda rate: binom.sf(80 - 1, 100, rate))
    false = 1 - solve(lambda rate: binom.cdf(4, 100, 1 - rate))
    assert audit.proven(80, 4, 100, 0.1) == pytest.approx(math.log((true - 0.1) / false))
    assert audit.proven(0, 0, 100, 0.0) == 0
    assert audit.proven(9, 0, 100, 0.1) == 0
    assert audit.proven(100, 100, 100, 0.0) < 0


def test_a_bound_on_two_gaussians_lies_below_the_best_that_there_is(audit):
    """Of N(2, 1) against N(0, 1) and delta 0.1 it is at most the largest of ``log((Q(t - 2) - 0.1) / Q(t))``."""
    rng = np.random.default_rng(0)
    found = audit.lower_bound(rng.normal(2, 1, 4000), rng.normal(0, 1, 4000), 0.1)
    t = np.linspace(0, 6, 601)
    best = np.log(np.maximum(norm.sf(t - 2) - 0.1, 1e-9) / norm.sf(t)).max()
    assert 2 < found < best
    assert audit.lower_bound(rng.normal(0, 1, 4000), rng.normal(0, 1, 4000), 0.1) == 0


def test_whoever_is_not_drawn_sends_nothing(audit):
    """The likelihood of a mixture of ``N(0, 2)`` and ``N(1, 2)``, against scipy's densities."""
    seen = audit.Seen(0.7, 2.0)
    expected = np.log(0.7 * norm.pdf(0.7, 0, 2) + 0.3 * norm.pdf(0.7, 1, 2)) - norm.logpdf(0.7, 0, 2)
    assert audit.added(seen, 0.3) == pytest.approx(expected)
    assert audit.replaced(seen, 1.0) == pytest.approx(norm.logpdf(0.7, 1, 2) - norm.logpdf(0.7, -1, 2))


def test_scores_are_those_of_the_mechanism(audit):
    """All rounds together are ``N(1, s)`` against ``N(-1, s)`` with ``s^2 = z^2 / R``: scores ``2 x / s^2``."""
    pytest.importorskip("dp_accounting")
    case = audit.CASES["local_dp"]
    there, absent, printed = audit.play(case, 150, 1.0, 0)
    separation = 2 * math.sqrt(audit.ROUNDS) / audit.Z
    assert separation == pytest.approx(1)
    assert np.concatenate([there, -absent]).mean() == pytest.approx(separation**2 / 2, abs=0.2)
    assert np.concatenate([there, -absent]).std() == pytest.approx(separation, rel=0.15)
    assert printed > 1


CORRELATED = {
    "dp_ftrl": [[1, -2 / 3, 0], [-2 / 3, 1, 0], [0, 0, 1]],
    "matrix_factorisation, banded": None,
    "matrix_factorisation, blt": None,
}
"""Covariances of three rounds' noise: trees give n1, then 2/3 p + 1/3 (n1 + n2) - n1, then n3, all of variance 1."""


@pytest.mark.parametrize("name", CORRELATED)
def test_correlated_noise_is_seen_through_all_rounds_together(audit, name):
    """Against scipy's densities, with the covariance by hand for trees and by ``(C'C)^-1`` for bands and BLTs."""
    pytest.importorskip("dp_accounting")
    simulation = audit.prepared(audit.CASES[name])
    covariance, encoder = CORRELATED[name], simulation.privacy.fresh.encoder
    if covariance is None:
        taps = encoder.column if "banded" in name else [1, encoder.scales.sum(), encoder.scales @ encoder.decays]
        c = sum(np.diag(np.full(3 - lag, tap), -lag) for lag, tap in enumerate(taps))
        covariance = np.linalg.inv(c.T @ c)
    there, moved = np.array([1.0, 0.0, 1.0]), np.array([0.9, -0.4, 1.3])
    seen = [audit.Seen(x, 1.7, bool(p)) for x, p in zip(moved, there, strict=True)]
    both = [multivariate_normal(mean, 1.7**2 * np.array(covariance)).logpdf(moved) for mean in (there, 0 * there)]
    assert audit.decorrelated(seen, simulation) == pytest.approx(both[0] - both[1])


@pytest.mark.parametrize("name", ["dp_ftrl", "dp_ftrl, a tree every 2 rounds", *[*CORRELATED][1:]])
def test_the_noise_makes_mu_one(audit, name):
    """It is as many clipping norms as the sensitivity, so that all print the epsilon of one Gaussian mechanism."""
    pytest.importorskip("dp_accounting")
    privacy = audit.prepared(audit.CASES[name]).privacy
    assert privacy.budget.noise_multiplier == pytest.approx(privacy.fresh.encoder.sensitivity(4), rel=1e-3)
    assert privacy.budget.epsilon(4) == pytest.approx(1.18, abs=0.01)


def test_the_canary_takes_part_in_the_rounds_that_are_assumed(audit):
    """Scores of ``N(+-1/2, 1)``, as mu = 1: whatever the seed, the canary is in rounds 1 and 3."""
    pytest.importorskip("dp_accounting")
    there, absent, _ = audit.play(audit.CASES["matrix_factorisation, banded"], 100, 1.0, 0)
    scores = np.concatenate([there, -absent])
    assert scores.mean() == pytest.approx(0.5, abs=0.22)  # three standard errors
    assert scores.std() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize(
    "name",
    [
        "central_dp, poisson, 0.9",
        "central_dp_adaptive, all take part",
        "local_dp",
        "matrix_factorisation, banded",
        pytest.param("dp_ftrl", marks=pytest.mark.slow),
    ],
)
def test_half_the_noise_is_found(audit, name):
    pytest.importorskip("dp_accounting")
    case = audit.CASES[name]
    found = {}
    for weaken in (1.0, 0.5):
        there, absent, printed = audit.play(case, 500, weaken, 0)
        found[weaken] = audit.lower_bound(there, absent, audit.DELTA)
    assert found[1.0] < printed < found[0.5]


def test_the_table(audit, capsys, monkeypatch):
    pytest.importorskip("dp_accounting")
    monkeypatch.setattr("sys.argv", ["privacy_audit.py", "--runs", "10", "--only", "local_dp"])
    assert audit.main() == 1  # ten runs prove nothing
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("| local_dp | 1.18 | 0.00 |")
    assert line.endswith("| too few runs to tell |")
