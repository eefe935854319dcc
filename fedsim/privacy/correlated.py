"""Noise that is correlated over rounds (DP-FTRL): much of what one round adds is taken back by later ones.

The rows of X are the rounds' sums of clipped deltas, and Z is Gaussian. What the server publishes is a function of
``C X + Z``, namely ``X + C^-1 Z``, one round after another, since C is lower triangular. This is one Gaussian
mechanism, also if later deltas depend on earlier models (Denisov 2022, Theorem 2.1), and whatever the server does with
these sums, momentum for instance, costs nothing more.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch

from fedsim import seeding
from fedsim.core.facts import Fact, Facts
from fedsim.core.names import option_name
from fedsim.core.origin import Spending
from fedsim.core.part import Bound, Round
from fedsim.core.results import Metrics
from fedsim.core.state import Drawer, State
from fedsim.errors import UserError
from fedsim.privacy.budget import LEAST_NOISE, Budget, _dp_accounting, epsilon_of  # with its message if there is none
from fedsim.privacy.central import NoisyMean
from fedsim.privacy.guarantee import guarantee
from fedsim.privacy.privacy import Accounted, Clipped
from fedsim.privacy.streams import Draw, Replay
from fedsim.samplers.participation import ZERO_OUT, Participation, Separated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from fedsim.aggregation.rules import WeightedSum

SEEN = "privacy.last_round"
"""The block of the client store with the last round of each client, and in how many rounds it has taken part."""

NOISE = "noise_multiplier"
"""The drawer entry of the noise multiplier, which a target and the factorisation decide."""


class Encoder(Protocol):
    """A lower-triangular C (for trees, a tall one), by what is asked of it."""

    def sensitivity(self, rounds: int) -> float:
        """Return how far one client moves the first rows of C X, in units of the clipping norm."""
        ...

    def noise(self, draw: Draw) -> Iterator[NDArray[np.float64]]:
        """Yield the noise ``[n]`` of round 1, 2, ..., given standard normal draws by key."""
        ...

    def kept(self) -> Drawer:
        """Return the numbers that define C, which go with the run."""
        ...

    def restored(self, drawer: Drawer) -> Self:
        """Return the encoder with the numbers that `kept` returned in an earlier process."""
        ...

    def facts(self) -> dict[str, str | int]:
        """Return what it is, for ``summary.json``; the entry ``mechanism`` is a name."""
        ...


@dataclass(frozen=True, kw_only=True)
class CorrelatedMean(NoisyMean):
    """`NoisyMean` with noise that depends on that of earlier rounds.

    Attributes:
        noise: returns the unit noise ``[n]`` of a round, given its number and n.
    """

    noise: Callable[[int, int], NDArray[np.float64]]

    def finish(self, state: WeightedSum) -> Tensor:
        """Return the mean with noise added."""
        noise = torch.from_numpy(self.noise(self.round_number, len(state.total))).to(state.total)
        return (state.total + self.noise_std * noise) / self.denominator


@dataclass(frozen=True, kw_only=True)
class Correlated(Clipped, ABC):
    """What mechanisms with correlated noise have in common.

    They need no secret or random choice of clients, but clients whose rounds are some number apart, as the sampler
    promises; the run checks every cohort, and ends before one that breaks the promise. Neighbouring populations differ
    in one client whose deltas count as zero. The denominator is the size of a cohort, which is public.
    """

    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.PRIVATE_MEAN, Fact.ACCOUNTED})

    @abstractmethod
    def encoder(self, rounds: int, where: Participation) -> Encoder:
        """Return C for a run of so many rounds.

        Raises:
            UserError: if the settings do not go with the rounds.
        """

    def bind(self, bound: Bound) -> CorrelatedInRun:
        """Find C and the noise for the run's rounds and sampler.

        Raises:
            UserError: if the sampler promises nothing, no noise meets the target, or C does not go with the run.
        """
        sampler, num_clients = bound.sampler, bound.population.num_clients
        if not isinstance(sampler, Separated):
            raise UserError(
                f"sampler={option_name(sampler)}: the accountant of privacy={option_name(self)} needs clients whose "
                "rounds are known to be some number apart; take sampler=min_separation or round_robin"
            )
        where = sampler.participation(num_clients, bound.rounds)
        encoder = self.encoder(bound.rounds, where)
        about = guarantee(bound, None, ZERO_OUT, self.delta, self.noise_stream, fixed=True)
        multiplier = self.noise_multiplier
        if multiplier is None:
            assert self.target_epsilon is not None, "one of the two is set"
            if about.before:
                raise UserError(
                    f"privacy.target_epsilon={self.target_epsilon}: the model of init_from has spent some of it on the "
                    f"same clients, and privacy={option_name(self)} finds no noise for the rest; give noise_multiplier"
                )
            multiplier = noise_for(self.target_epsilon, self.delta) * encoder.sensitivity(bound.rounds)
        mechanism = Mechanism(encoder, multiplier, self.delta, about.before)
        budget = mechanism.budget(float(sampler.limits(num_clients)[1]))
        budget.epsilon(1)  # which needs the accountant, before anything is written
        names = bound.population.client_names
        return CorrelatedInRun(budget, about, bound.seed, self, mechanism, where, bound.rounds, names)


@dataclass(frozen=True)
class Mechanism:
    """An encoder and the standard deviation of its fresh noise: all that epsilon and the noise follow from.

    Attributes:
        encoder: C.
        multiplier: z, the standard deviation of a number of Z, in units of the clipping norm.
        delta: the delta of (epsilon, delta).
        before: what was spent on the same clients before round 1.
    """

    encoder: Encoder
    multiplier: float
    delta: float
    before: tuple[Spending, ...] = ()

    def spent(self, rounds: int) -> tuple[Spending, ...]:
        """Return what so many rounds are: C X is one Gaussian mechanism of noise multiplier z / sensitivity."""
        if rounds == 0:
            return self.before
        return (*self.before, Spending(ZERO_OUT, self.multiplier / self.encoder.sensitivity(rounds), 1))

    def epsilon(self, rounds: int) -> float:
        """Return what so many rounds have spent, with what was spent before."""
        return _epsilon_of(self.spent(rounds), self.delta)

    def budget(self, expected: float) -> Budget:
        """Return the budget of a run whose cohorts have so many clients."""
        return Budget(self.multiplier, self.delta, ZERO_OUT, expected, self.epsilon, self.spent)

    def zcdp(self, rounds: int) -> float:
        """Return the rho of zero-concentrated privacy that so many rounds have spent (Bun and Steinke 2016)."""
        ratio = self.encoder.sensitivity(rounds) / self.multiplier
        return ratio * ratio / 2

    def kept(self) -> Drawer:
        """Return the numbers to keep with the run, so that an optimizer of another version changes nothing."""
        return {NOISE: torch.tensor(self.multiplier, dtype=torch.float64), **self.encoder.kept()}

    def restored(self, drawer: Drawer) -> Mechanism:
        """Return the mechanism of the run that kept these numbers."""
        return replace(self, encoder=self.encoder.restored(drawer), multiplier=float(drawer[NOISE]))


class Source:
    """The mechanism that a run goes by, which is the one in its drawer, and the noise of that in this process."""

    def __init__(self, fresh: Mechanism, seed: int, stream: tuple[int, ...]) -> None:
        """Take the mechanism that this process has found, the run's seed, and what the keys of its noise end with."""
        self._fresh, self._seed, self._stream = fresh, seed, stream
        self._drawer: Drawer = {}
        self._mechanism, self._replay = fresh, Replay(self._begin)

    def of(self, drawer: Drawer) -> Mechanism:
        """Return the mechanism that a run keeps in its drawer."""
        held = self._drawer
        if held.keys() != drawer.keys() or any(not torch.equal(drawer[name], held[name]) for name in held):
            self._drawer = dict(drawer)
            self._mechanism, self._replay = self._fresh.restored(drawer), Replay(self._begin)
        return self._mechanism

    def noise(self, number: int, size: int) -> NDArray[np.float64]:
        """Return the unit noise ``[size]`` of a round, for the mechanism that `of` returned last."""
        return self._replay.row(number, size)

    def _begin(self, size: int) -> Iterator[NDArray[np.float64]]:
        def draw(*numbers: int) -> NDArray[np.float64]:
            key = (*numbers, *self._stream)
            return seeding.generator(self._seed, "correlated noise", *key).standard_normal(size)

        return self._mechanism.encoder.noise(draw)


@dataclass(frozen=True)
class CorrelatedInRun(Accounted):
    """Correlated noise, bound to a run.

    Attributes:
        settings: the mechanism's settings.
        fresh: the mechanism as this process has found it.
        where: what the sampler promises.
        rounds: R.
        names: the clients' names.
        source: the mechanism and the noise that the run goes by.
    """

    settings: Correlated
    fresh: Mechanism
    where: Participation
    rounds: int
    names: Sequence[str]
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", Source(self.fresh, self.seed, self.settings.stream))

    def start(self, row: Tensor) -> Drawer:
        """Return the noise multiplier and the numbers that define C."""
        return self.fresh.kept()

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Whether these are numbers for such a C, and nearly the same noise as what this process has found."""
        if not super().accepts(drawer, fresh) or not all(bool(numbers.isfinite().all()) for numbers in drawer.values()):
            return False
        return bool(torch.isclose(drawer[NOISE], fresh[NOISE], rtol=0.01))

    def open(self, round: Round) -> None:
        """Check that the cohort keeps the sampler's promise, and note that its clients take part.

        Raises:
            UserError: if it does not; epsilon is about runs that keep it.
        """
        clients, number, where = round.cohort.clients, round.number, self.where
        never = round.state.row.new_zeros((len(clients), 2), dtype=torch.float64)
        before = round.store.read(SEEN, clients, never)
        last, times = before.cpu().T
        early = (last > 0) & (number - last < where.separation)
        if bool((early | (times >= where.most)).any()):
            first = int((early | (times >= where.most)).nonzero()[0, 0])
            name = self.names[int(clients[first])]
            broken = (
                f"in round {int(last[first])}, less than {where.separation} rounds before"
                if bool(early[first])
                else f"in {int(times[first])} rounds, as often as a client may"
            )
            raise UserError(
                f"round {number}: client {name} has taken part {broken}, which the sampler promised not to happen and "
                f"the accountant of privacy={option_name(self.settings)} does not know; the run ends here, and its "
                f"epsilon holds up to round {number - 1}"
            )
        now = torch.stack([torch.full_like(last, number), times + 1], dim=1)
        round.store.write(SEEN, clients, now.to(never))

    def rule(self, combine: Any, round: Round) -> CorrelatedMean:
        """Return the private mean, even for an empty cohort, whose round has its share of the noise too."""
        mechanism = self.source.of(round.drawer(self))
        clip_norm = self.settings.clip_norm
        return CorrelatedMean(
            clip_norm=clip_norm,
            noise_std=mechanism.multiplier * clip_norm,
            denominator=self.budget.expected,
            seed=self.seed,
            round_number=round.number,
            adaptive=None,
            drawer={},
            noise=self.source.noise,
        )

    def measure(self, round: Round) -> Metrics:
        """Return the privacy spent so far by the mechanism that the run goes by."""
        mechanism = self.source.of(round.drawer(self))
        return super().measure(round) | {"epsilon": mechanism.epsilon(self.spent(round.state))}

    def introduce(self) -> list[str]:
        """Return the lines about the guarantee, and one about what it takes for granted."""
        guarantee, *rest = super().introduce()
        promise = (
            f"a client takes part in at most {self.where.most} rounds, at least {self.where.separation} apart, so that "
            f"it moves what is published by {self.fresh.encoder.sensitivity(self.rounds):.4g} clip_norm: zCDP rho "
            f"{self.fresh.zcdp(self.rounds):.4g} in {self.rounds} rounds"
        )
        return [guarantee, promise, *rest]

    def summary(self, state: State) -> dict[str, Any]:
        """Return the guarantee in numbers, with what it takes for granted."""
        mechanism = self.source.of(state.drawers.get(self.group, self.fresh.kept()))
        more = {
            **mechanism.encoder.facts(),
            "separation": self.where.separation,
            "participations": self.where.most,
            "sensitivity": mechanism.encoder.sensitivity(state.round),
            "zcdp": mechanism.zcdp(state.round),
        }
        goes_by = replace(self, budget=mechanism.budget(self.budget.expected))
        return {"privacy": {**super(CorrelatedInRun, goes_by).summary(state)["privacy"], **more}}


_epsilon_of = cache(epsilon_of)


def noise_for(epsilon: float, delta: float) -> float:
    """Return the smallest noise multiplier for which one Gaussian mechanism spends no more than epsilon.

    Raises:
        UserError: if dp-accounting is not installed, or no noise meets the target.
    """
    dp, bracket = _dp_accounting(), importlib.import_module("dp_accounting.mechanism_calibration")
    try:
        return float(
            dp.calibrate_dp_mechanism(
                _accountant, dp.GaussianDpEvent, epsilon, delta, dp.LowerEndpointAndGuess(LEAST_NOISE, 1.0)
            )
        )
    except bracket.NoBracketIntervalFoundError:
        raise UserError(
            f"privacy.target_epsilon={epsilon}: no noise of {LEAST_NOISE} or more times the sensitivity spends that"
        ) from None


def _accountant() -> Any:
    return importlib.import_module("dp_accounting.rdp").RdpAccountant()
