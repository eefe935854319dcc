"""What is known of the model that a run starts from (``init_from``), for a privacy accountant."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.errors import UserError

MAX_ROUNDS = 10**9
"""Most rounds that a record of what was spent may tell of."""


@dataclass(frozen=True)
class Spending:
    """Rounds of one Gaussian mechanism, in the terms of which an accountant composes them.

    Attributes:
        relation: which populations are neighbours (`fedsim.samplers.sampler`).
        noise_multiplier: standard deviation of the noise divided by the norm that deltas are clipped to.
        rounds: how many of them; for local privacy, of the client that took part most often.
        probability: with which each client independently takes part in a round; None if it is not so.
        cohort: how many clients are drawn without replacement in each round; None if it is not so.
        num_clients: of how many.
        seed: of the run, by which noise and cohorts were drawn; None if that is not known.
        noise_stream: number of the noise among all that the seed gives.
    """

    relation: str
    noise_multiplier: float
    rounds: int
    probability: float | None = None
    cohort: int | None = None
    num_clients: int | None = None
    seed: int | None = None
    noise_stream: int | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether a round has some of the clients only."""
        return (self.probability or 1.0) < 1 or self.cohort != self.num_clients

    def record(self) -> dict[str, Any]:
        """Return plain data for `read_spending`, without what is None."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Origin:
    """The model that a run starts from.

    Attributes:
        path: as ``init_from`` has it.
        alike: whether it was trained on data with the settings of this run's.
        clients: digest of the names of its clients (`digest_of_names`); empty if unknown, or of another kind of data.
        private: whether it was trained with differential privacy; None if that is not known.
        spent: what its training has spent, and that of the models before it which saw the same clients.
        warnings: what is known of those before it and not covered by `spent`.
    """

    path: str
    alike: bool = False
    clients: str = ""
    private: bool | None = None
    spent: tuple[Spending, ...] = ()
    warnings: tuple[str, ...] = ()

    def has_clients(self, names: Iterable[str]) -> bool:
        """Whether its clients are taken to be those of these names: the same data, or the same names in their like."""
        return self.alike or (self.clients != "" and self.clients == digest_of_names(names))

    def record(self) -> dict[str, Any]:
        """Return plain data for `read_origin`."""
        return {**vars(self), "spent": [one.record() for one in self.spent], "warnings": [*self.warnings]}


def digest_of_names(names: Iterable[str]) -> str:
    """Return a digest of the names of clients, in any order."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(names):
        digest.update(f"{len(name)} {name}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def read_spending(found: Any, where: str) -> Spending:
    """Return what `Spending.record` gave.

    Raises:
        UserError: naming `where` and what is wrong, since the file may be anybody's.
    """
    if not isinstance(found, Mapping) or not set(found) <= set(Spending.__dataclass_fields__):
        raise UserError(f"{where}: its record of the privacy that was spent cannot be read")
    relation, noise, rounds = (found.get(name) for name in ("relation", "noise_multiplier", "rounds"))
    probability, cohort, clients = (found.get(name) for name in ("probability", "cohort", "num_clients"))
    right = (
        isinstance(relation, str)
        and all(found.get(name) is None or _is_key(found[name]) for name in ("seed", "noise_stream"))
        and _is_number(noise)
        and (noise or 0) > 0
        and _is_count(rounds)
        and (probability is None or (_is_number(probability) and 0 < probability <= 1))
        and (cohort is None) == (clients is None)
        and (cohort is None or (_is_count(cohort) and _is_count(clients) and 0 < cohort <= (clients or 0)))
    )
    if not right:
        raise UserError(f"{where}: its record of the privacy that was spent cannot be read ({dict(found)})")
    return Spending(**found)


def read_origin(found: Any, where: str) -> Origin | None:
    """Return what `Origin.record` gave; None if there is nothing.

    Raises:
        UserError: naming `where`, if it cannot be read.
    """
    if found is None:
        return None
    if not isinstance(found, Mapping) or set(found) != set(Origin.__dataclass_fields__):
        raise UserError(f"{where}: its record of the model that the run started from cannot be read")
    texts, spent, warnings = [found["path"], found["clients"]], found["spent"], found["warnings"]
    right = (
        isinstance(spent, list)
        and isinstance(warnings, list)
        and all(isinstance(text, str) for text in texts + warnings)
        and isinstance(found["alike"], bool)
        and (found["private"] is None or isinstance(found["private"], bool))
    )
    if not right:
        raise UserError(f"{where}: its record of the model that the run started from cannot be read")
    return Origin(
        path=found["path"],
        alike=found["alike"],
        clients=found["clients"],
        private=found["private"],
        spent=tuple(read_spending(one, where) for one in spent),
        warnings=tuple(warnings),
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_key(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ROUNDS
