"""Attack each private mechanism, and hold what the attacker can prove against the epsilon that is printed.

    python scripts/privacy_audit.py                          # 2,000 runs of each kind, five minutes on one core
    python scripts/privacy_audit.py --runs 600               # the short version, a minute or two
    python scripts/privacy_audit.py --only local_dp --runs 5000

One client is the canary: it sends the same large row in every round, or does not. All others send zeros, so that the
attacker, who knows everything but the noise and who was drawn, has nothing else to look through: this is the worst pair
of neighbours that the definition allows. Hundreds of tiny runs with it and without it, each with a seed of its own, go
through the rounds of fedsim as any other (sampling, clipping, noise, server step). The attacker looks at the models of
all rounds, ranks the runs by the likelihood ratio, and guesses by a threshold which of them had the canary; the
threshold is chosen on half of the runs, and judged on the other half. Where noise is correlated over rounds, it is also
known who takes part when, and the canary is a client of the first cohort. Differential privacy bounds every such
attacker,

    true positives <= delta + exp(epsilon) * false positives     (Kairouz, Oh and Viswanath 2015)

so that the bounds of Clopper and Pearson on both rates give a lower bound on epsilon with 95 % confidence (Jagielski
2020; Nasr 2021). It must stay below the printed epsilon. In the last column the noise is half of what the accountant
was told, and there the bound must exceed it: the attack would find such a mistake. ``delta`` is large, since with a
small one no number of runs that anybody waits for could tell the two apart; and most clients are drawn, since bounds
for few are looser than a factor of two in the noise.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.stats import beta

from fedsim.clients.report import Report
from fedsim.config.compose import Request, check_request, normalise
from fedsim.federation.prepare import Simulation, initial_state, prepare
from fedsim.federation.round import play_round
from fedsim.privacy.correlated import CorrelatedInRun, Encoder

DELTA, ROUNDS, RUNS, CONFIDENCE = 0.2, 3, 2000, 0.95
CLIENTS = 8
TINY = (
    *("data=synthetic", f"num_clients={CLIENTS}", "data.samples_per_client=1", "data.test_samples_per_client=1"),
    *("data.length=1", "data.features=1", "data.classes=2", "partition=iid", "model.hidden_size=1", "aggregator=mean"),
    *("dtype=float64", "device=cpu", "threads=1", "engine.kernels=torch", f"privacy.delta={DELTA}", "eval.every=1000"),
)


@dataclass(frozen=True)
class Seen:
    """What the attacker knows of one round, in units of the clipping norm.

    Attributes:
        moved: how far the sum moved in the canary's direction.
        noise: standard deviation of the noise on that, or of fresh noise where it is correlated.
        there: whether the canary took part, which is known only where noise is correlated.
        share: what ``central_dp_adaptive`` tells of the clients within the norm: the sum of 1/2 or -1/2 for each, less
            that of all others than the canary, with its noise; 0 elsewhere.
        share_noise: standard deviation of that noise.
    """

    moved: float
    noise: float
    there: bool = True
    share: float = 0.0
    share_noise: float = 1.0


@dataclass(frozen=True)
class Case:
    """A mechanism under attack.

    Attributes:
        settings: overrides.
        other: what the canary sends in the runs without it, in clipping norms: 0 is nothing, -1 the opposite row.
        score: returns the logarithm of the likelihood ratio of a run, given what is seen of its rounds.
        rounds: how many are played.
    """

    settings: tuple[str, ...]
    other: float
    score: Callable[[Sequence[Seen], Simulation], float]
    rounds: int = ROUNDS


def by_round(
    score: Callable[[Seen, float], float], probability: float = 1.0
) -> Callable[[Sequence[Seen], Simulation], float]:
    """Return the score of a run whose rounds have noise of their own.

    Args:
        score: returns that of a round, given the probability that a client is drawn.
        probability: that of a client to be drawn into a round.
    """

    def of_run(seen: Sequence[Seen], _: Simulation) -> float:
        return sum(score(one, probability) for one in seen)

    return of_run


def log_mixture(seen: Seen, at: float, probability: float) -> float:
    """Log-likelihood of one round, up to a constant, if the canary sends `at` whenever it is drawn."""
    there = (seen.moved * at - at * at / 2) / seen.noise**2
    return there if probability == 1 else float(np.logaddexp(math.log(1 - probability), math.log(probability) + there))


def added(seen: Seen, probability: float) -> float:
    """A client is there or not."""
    return log_mixture(seen, 1.0, probability)


def replaced(seen: Seen, probability: float) -> float:
    """A client sends a row or its opposite."""
    return log_mixture(seen, 1.0, probability) - log_mixture(seen, -1.0, probability)


def replaced_and_counted(seen: Seen, probability: float) -> float:
    """The same, if it also counts among the clients beyond the norm (-1/2) or within it (1/2)."""
    return replaced(seen, probability) - seen.share / seen.share_noise**2


def decorrelated(seen: Sequence[Seen], simulation: Simulation) -> float:
    """The canary's rounds are ``N(p, z^2 W W')`` or ``N(0, z^2 W W')``, where p is 1 whenever it takes part."""
    there, moved = np.array([[one.there, one.moved] for one in seen], dtype=float).T
    weights = precision(simulation.privacy.fresh.encoder, len(seen)) @ there / seen[0].noise ** 2
    return float(weights @ (moved - there / 2))


@cache
def precision(encoder: Encoder, rounds: int) -> Any:
    """Return the inverse of ``W W'``; row t of W has the weights of all draws in the unit noise of round t."""
    columns: dict[tuple[int, ...], int] = {}

    def draw(*key: int) -> Any:
        return np.eye(1, 2 * rounds, columns.setdefault(key, len(columns)))[0]  # a tree of R leaves has 2 R - 1 nodes

    noise = encoder.noise(draw)
    rows = np.array([next(noise) for _ in range(rounds)])
    return np.linalg.inv(rows @ rows.T)


APART = ("sampler=min_separation", "sampler.fraction=null", "sampler.cohort_size=4")
"""Four of the eight clients take part in rounds 1, 3, ..., the canary among them, and the others in rounds 2, 4, ..."""
Z = 2 * math.sqrt(ROUNDS)
"""Noise multiplier that makes rounds in which everybody takes part as one Gaussian mechanism with mu = 1."""
CASES = {
    "central_dp, all take part": Case(
        ("privacy=central_dp", f"privacy.noise_multiplier={Z}"), -1.0, by_round(replaced)
    ),
    "central_dp, uniform, 7 of 8": Case(
        ("privacy=central_dp", f"privacy.noise_multiplier={Z}", "sampler.fraction=null", "sampler.cohort_size=7"),
        -1.0,
        by_round(replaced, 7 / 8),
    ),
    "central_dp, poisson, 0.9": Case(
        ("privacy=central_dp", f"privacy.noise_multiplier={Z / 2}", "sampler=poisson", "sampler.probability=0.9"),
        0.0,
        by_round(added, 0.9),
    ),
    "central_dp_adaptive, all take part": Case(
        ("privacy=central_dp_adaptive", f"privacy.noise_multiplier={Z}", "privacy.count_noise=3"),
        -1.0,
        by_round(replaced_and_counted),
    ),
    "local_dp": Case(("privacy=local_dp", f"privacy.noise_multiplier={Z}", "num_clients=1"), -1.0, by_round(replaced)),
    # With noise of as many clipping norms as one client moves the nodes, or C X, in four rounds: mu = 1 again.
    "dp_ftrl": Case(("privacy=dp_ftrl", "privacy.noise_multiplier=2.828", *APART), 0.0, decorrelated, 4),
    "dp_ftrl, a tree every 2 rounds": Case(
        ("privacy=dp_ftrl", "privacy.restart_every=2", "privacy.noise_multiplier=2", *APART), 0.0, decorrelated, 4
    ),
    "matrix_factorisation, banded": Case(
        ("privacy=matrix_factorisation", "privacy.noise_multiplier=1.557", *APART), 0.0, decorrelated, 4
    ),
    "matrix_factorisation, blt": Case(
        ("privacy=matrix_factorisation", "privacy.matrix=blt", "privacy.noise_multiplier=1.613", *APART),
        0.0,
        decorrelated,
        4,
    ),
}


class Canary:
    """An engine whose clients do not train: one sends a row, all others zeros."""

    def __init__(self, trainer: Any, who: int | None) -> None:
        """Take the engine in whose place it stands, and the canary; None is a client of the first cohort."""
        self._trainer, self._who = trainer, who
        self.first, self.there = 0.0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def train(self, anchors: Any, clients: Any, *_: Any) -> tuple[Any, Report]:
        """Return deltas ``[c, P]`` and a report on nothing."""
        if self._who is None:
            self._who = int(clients[0])
        deltas = torch.zeros((len(clients), anchors.shape[-1]), dtype=anchors.dtype)
        deltas[clients == self._who, 0] = self.first
        self.there = bool((clients == self._who).any())
        ones = torch.ones(len(clients), dtype=torch.int64)
        return deltas, Report(ones, ones, ones.double())


def prepared(case: Case) -> Simulation:
    """Prepare a run, with a round more than are played, for the last one would be evaluated."""
    texts = (*TINY, f"rounds={case.rounds + 1}", *case.settings)
    return prepare(check_request(normalise(Request(texts)))[0].experiment)


def seeded(simulation: Simulation, seed: int, weaken: float) -> Simulation:
    """Return the run with another seed, `weaken` times the noise, and a canary among its clients."""
    privacy = simulation.privacy
    noise, correlated = privacy.budget.noise_multiplier * weaken, isinstance(privacy, CorrelatedInRun)
    more = {"fresh": replace(privacy.fresh, multiplier=noise)} if correlated else {}
    changed = replace(privacy, seed=seed, budget=replace(privacy.budget, noise_multiplier=noise), **more)

    def swapped(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(changed if part is privacy else part for part in parts)

    return replace(
        simulation,
        bound=replace(simulation.bound, seed=seed),
        privacy=changed,
        parts=swapped(simulation.parts),
        stages=swapped(simulation.stages),
        trainer=Canary(simulation.trainer, None if correlated else 0),
    )


def score(case: Case, simulation: Simulation, there: bool) -> float:
    """Play one run, and return how much it looks as if the canary were there."""
    state, seen = initial_state(simulation), list[Seen]()
    budget, settings = simulation.privacy.budget, simulation.privacy.settings
    for _ in range(case.rounds):
        before = float(state.row[0])
        drawer = state.drawers.get("privacy", {})
        norm = float(drawer.get("clip_norm", settings.clip_norm))
        # Within the norm or beyond it: what is worst where both are counted, and the same where they are not.
        simulation.trainer.first = 10 * norm if there else case.other * norm * (1 - 1e-9)
        play_round(simulation, state)
        moved = (float(state.row[0]) - before) * (budget.expected or 1.0) / norm
        if "clip_norm" not in drawer:
            seen.append(Seen(moved, budget.noise_multiplier, simulation.trainer.there))
            continue
        after = float(state.drawers["privacy"]["clip_norm"])
        share = settings.quantile - math.log(after / norm) / settings.clip_lr - 0.5
        noise = (budget.noise_multiplier**-2 - (2 * settings.count_noise) ** -2) ** -0.5
        seen.append(Seen(moved, noise, True, share * budget.expected - (CLIENTS - 1) / 2, settings.count_noise))
    return case.score(seen, simulation)


def play(case: Case, runs: int, weaken: float, first_seed: int) -> tuple[Any, Any, float]:
    """Return the scores of `runs` runs with the canary and of as many without it, and the epsilon that is printed."""
    simulation = prepared(case)
    scores = np.array(
        [
            [score(case, seeded(simulation, first_seed + 2 * run + (not there), weaken), there) for run in range(runs)]
            for there in (True, False)
        ]
    )
    return scores[0], scores[1], simulation.privacy.budget.epsilon(case.rounds)


def proven(positives: int, negatives: int, runs: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the largest epsilon that the counts rule out, both rates being bounded with that confidence together.

    Args:
        positives: of `runs` runs with the canary, those that the attacker takes for such.
        negatives: of `runs` runs without it, those that the attacker takes for runs with it.
        runs: how many of each.
        delta: the delta of (epsilon, delta).
        confidence: of the result, which Bonferroni's inequality divides among the two bounds.
    """
    level = (1 - confidence) / 2
    low = beta.ppf(level, positives, runs - positives + 1) if positives else 0.0
    high = beta.ppf(1 - level, negatives + 1, runs - negatives) if negatives < runs else 1.0
    return math.log((low - delta) / high) if low > delta else 0.0


def lower_bound(there: Any, absent: Any, delta: float) -> float:
    """Return the attacker's lower bound on epsilon, from scores ``[n]`` of runs with the canary and without it."""

    def counts(threshold: float, flip: bool, part: slice) -> tuple[int, int]:
        one, other = (there, absent) if not flip else (-absent, -there)  # or it guesses those without
        return int((one[part] > threshold).sum()), int((other[part] > threshold).sum())

    half = len(there) // 2
    first, rest = slice(0, half), slice(half, None)
    tries = [(t, flip) for flip in (False, True) for t in np.concatenate([there, absent])[::2] * (1 - 2 * flip)]
    few = half // 50  # false positives that a rate can be read from; a threshold beyond them is best by luck
    tries = [t for t in tries if counts(*t, first)[1] >= few] or tries
    best = max(tries, key=lambda t: proven(*counts(*t, first), half, delta))
    return max(0.0, proven(*counts(*best, rest), len(there) - half, delta))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs with the canary, and as many without, per cell")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--only", choices=list(CASES), action="append", help="mechanisms to attack (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| mechanism | printed epsilon (delta {DELTA:g}) | proved by the attacker | with half the noise | |")
    print("|---|---:|---:|---:|---|")
    wrong = 0
    for name in options.only or CASES:
        found = {}
        for weaken in (1.0, 0.5):
            there, absent, printed = play(CASES[name], options.runs, weaken, options.seed)
            found[weaken] = lower_bound(there, absent, DELTA)
        fine = found[1.0] <= printed < found[0.5]
        wrong += not fine
        verdict = "as it must be" if fine else "too high" if found[1.0] > printed else "too few runs to tell"
        print(f"| {name} | {printed:.2f} | {found[1.0]:.2f} | {found[0.5]:.2f} | {verdict} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
