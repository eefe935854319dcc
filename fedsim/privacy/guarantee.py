"""What an epsilon is about: whose data, which neighbours, which sampling, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.core.bound import Bound
from fedsim.core.origin import Origin, Spending
from fedsim.data.population import Population
from fedsim.errors import UserError
from fedsim.samplers.sampler import Sampling

NOT_COVERED = (
    "metrics.csv and clients.csv, which tell losses and scores on clients' samples without noise",
    "what is chosen by them: the best round, early stopping, settings",
    "forks and other runs on the same clients, whose difference is without noise if they share seed and "
    "privacy.noise_stream",
    "floating-point attacks, which read the last bits of the noise (Mironov 2012)",
)
"""What every run gives away besides the models whose release epsilon is about."""


@dataclass(frozen=True)
class Guarantee:
    """What a stated epsilon is about.

    Attributes:
        sampling: who takes part in a round, in words.
        public: what is taken to be known to everybody, if anything is.
        not_covered: what the run gives away besides the models.
        warnings: what makes the epsilon worth less than it seems.
        origin: the model that the run starts from; None for an untrained one.
        before: what was spent on the same clients before round 1.
    """

    sampling: str
    public: str = ""
    not_covered: tuple[str, ...] = NOT_COVERED
    warnings: tuple[str, ...] = ()
    origin: Origin | None = None
    before: tuple[Spending, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return it for ``summary.json`` and the checkpoints."""
        return {
            "sampling": self.sampling,
            "public": self.public,
            "not_covered": [*self.not_covered],
            "warnings": [*self.warnings],
            "origin": None if self.origin is None else self.origin.record(),
        }


def refuse_pooled(population: Population, mechanism: str) -> None:
    """Raise `UserError` if something was learnt from all clients' samples that a setting would do without.

    Args:
        population: the clients.
        mechanism: the setting that asks for privacy, as the user would type it.
    """
    own = {name for name, _ in population.fitted.clients}
    if own and not own.issuperset(population.client_names):
        raise UserError(
            f"{mechanism}: the data are scaled by the training samples of each of their own clients, whose samples the "
            "partition divides among others; take partition=natural, or another data.scale"
        )
    for pooled in population.pooled:
        if pooled.way_out:
            raise UserError(
                f"{mechanism}: {pooled.what} would be taken from all clients' samples without noise, so that one "
                f"client changes what all others send, and no epsilon holds; {pooled.way_out}"
            )


def guarantee(
    bound: Bound, where: Sampling | None, relation: str, delta: float, noise_stream: int, fixed: bool
) -> Guarantee:
    """Return what the epsilon of a run is about.

    Args:
        bound: the run.
        where: how clients are sampled; None if that is not counted.
        relation: which populations are neighbours.
        delta: the delta of (epsilon, delta).
        noise_stream: number of the noise among all that the seed gives.
        fixed: whether the denominator of the mean is given, or there is none.

    Raises:
        UserError: if the model that the run starts from was trained with the same noise.
    """
    clients = bound.population.num_clients
    pooled = tuple(f"{one.what}, taken from all clients' samples" for one in bound.population.pooled)
    public = ""
    if where is not None and where.probability is not None and not fixed:
        public = f"the number of clients, {clients}, by which the mean is divided (unless privacy.denominator is given)"
    before, warnings = _before(bound.origin, relation, bound.population.client_names)
    sampled = where is not None and where.expected < where.num_clients
    _refuse_the_same_draws(before, bound.seed, noise_stream, sampled)
    if delta >= 1 / clients:
        warnings = (
            f"privacy.delta={delta:g} is not below one over the number of clients, {clients}: publishing all samples "
            "of one of them, chosen by chance, would meet it; take much less",
            *warnings,
        )
    return Guarantee(_words(where), public, (*NOT_COVERED, *pooled), warnings, bound.origin, before)


def _refuse_the_same_draws(before: tuple[Spending, ...], seed: int, noise_stream: int, sampled: bool) -> None:
    """Raise `UserError` if a run would draw noise or cohorts anew that were drawn for the same clients before."""
    for one in before:
        if one.seed != seed:
            continue
        if one.noise_stream == noise_stream:
            raise UserError(
                f"privacy.noise_stream={noise_stream}: with seed={seed} that is the noise with which the model was "
                "trained on the same clients, so that the difference of the two would be without noise; "
                "take another seed" + ("" if sampled or one.is_sampled else " or another privacy.noise_stream")
            )
        if sampled or one.is_sampled:
            raise UserError(
                f"seed={seed}: draws the cohorts with which the model was trained on the same clients, and the "
                "accountant composes rounds that are drawn independently; take another seed"
            )


def _words(where: Sampling | None) -> str:
    if where is None:
        return "not counted: a round in which a client takes part counts in full"
    if where.probability is not None:
        return f"each client on its own, with probability {where.probability:g}"
    return f"{where.expected:g} of {where.num_clients} clients, drawn without replacement"


def _before(origin: Origin | None, relation: str, names: Sequence[str]) -> tuple[tuple[Spending, ...], tuple[str, ...]]:
    """What was spent on these clients before round 1, and what must be said of the model that the run starts from."""
    if origin is None:
        return (), ()
    what = f"init_from={origin.path}"
    if origin.private is None:
        return (), (f"{what}: says nothing of what training that model has spent, which epsilon leaves out",)
    if not origin.private:
        return (), (
            f"{what}: that model was trained without differential privacy; epsilon leaves out what it says of the "
            "clients that it was trained on",
        )
    if not origin.has_clients(names):
        return (), (
            f"{what}: that model's clients are taken to be others; if they are not, what it spent on them comes on top "
            "of epsilon",
            *origin.warnings,
        )
    if any(one.relation != relation for one in origin.spent):
        return (), (
            f"{what}: that model was trained on the same clients under another relation of neighbours, so that what it "
            "spent cannot be added; it comes on top of epsilon",
            *origin.warnings,
        )
    return origin.spent, origin.warnings
