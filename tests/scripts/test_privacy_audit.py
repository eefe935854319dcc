"""`scripts/privacy_audit.py`: its bound by hand, and that it finds noise that is half of what was told."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, norm

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


@pytest.mark.parametrize("name", ["central_dp, poisson, 0.9", "central_dp_adaptive, all take part", "local_dp"])
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
