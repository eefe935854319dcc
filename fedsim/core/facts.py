"""What parts of a run must know of each other: facts, so that no part needs to name another's class."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any


class Fact(Enum):
    """One thing that is true of a part, whatever its class. `fedsim.federation.clashes` says which exclude each other.

    Who says nothing is taken to do the most: see ``facts`` of the kinds in `fedsim.core.part`, and `UNDECLARED`.
    """

    # Combine rules
    READS_ROWS = auto()  # looks at single clients' rows, beyond a sum of them
    READS_REPORT = auto()  # needs more of a client than its row: samples, steps, losses
    COMPARES = auto()  # weighs the clients of a cohort against each other: of one alone it makes nothing new
    UNBOUNDED_WEIGHTS = auto()  # the largest weight is not known beforehand
    NEEDS_COEFFICIENTS = auto()  # must know how much of each local gradient is in a delta

    # Server optimizers
    OWN_STEP = auto()  # adds something else than a multiple of the delta
    SCALES_STEP = auto()  # adds a multiple of the delta other than 1

    # Corrections
    REMEMBERS = auto()  # client and server keep rows from round to round
    TELLS = auto()  # clients send rows besides the delta
    PULLS = auto()  # towards the anchor, in proportion to the distance (`Correction.pull`)
    BENDS = auto()  # changes gradients in ways whose share in the delta is not known

    # Samplers
    ASKS_LOSSES = auto()  # clients compute losses before the round begins
    ASKS_SIZES = auto()  # clients say how many samples they have
    NO_COHORT_SIZE = auto()  # how many clients take part is left to chance
    TAKES_TURNS = auto()  # who comes depends on the number of the round
    GOES_BY_ROUNDS = auto()  # clients go on and off from round to round

    # Local training and blocks
    KEEPS_OPTIMIZER_STATE = auto()  # clients keep their optimizer's state from round to round
    PRIVATE_BLOCKS = auto()  # some parameters stay with each client
    NOTHING_SHARED = auto()  # all of them do

    # Between clients and server
    EXCHANGES = auto()  # acts on what clients and server send each other
    NOISE_ON_CLIENTS = auto()  # nothing leaves a client without noise
    PRIVATE_MEAN = auto()  # the server replaces the rule by a mean of its own with noise
    HIDES_ROWS = auto()  # the server sees a sum of rows and no single one
    LOSSY_UP = auto()  # deltas arrive changed
    LOSSY_DOWN = auto()  # all clients hold one copy of the model, which lags behind
    FEEDS_BACK = auto()  # clients keep what was lost of earlier deltas
    COLLUDES = auto()  # malicious clients know the rows of all clients

    # Judges
    JUDGES_MODEL = auto()  # looks at a whole global model
    READS_UPDATES = auto()  # looks at single clients' updates, and takes them to be a cohort's honest training

    # Devices and schedules
    TIMED = auto()  # a virtual clock says who arrives when
    DEADLINE = auto()  # a round ends after so many virtual seconds
    SHORTENS = auto()  # late clients take fewer local steps
    OVER_SELECTS = auto()  # more clients are asked than are kept
    NEEDS_ARRIVALS = auto()  # a round with too few arrivals is given up
    HARDLY_ARRIVES = auto()  # nearly all clients vanish
    ASYNCHRONOUS = auto()  # clients train from different versions of the model
    ONE_AT_A_TIME = auto()  # every arrival is mixed into the model alone

    # Instead of the federation, or besides it
    SECOND_MODEL = auto()  # clients train another model in the same round
    PERSONAL = auto()  # clients use models of their own
    NO_FEDERATION = auto()  # nothing is exchanged between clients and server
    NO_COMMON_MODEL = auto()  # every client has its own


Facts = frozenset[Fact]

UNDECLARED: Mapping[str, Facts] = {
    "aggregator/combine": frozenset(
        {
            Fact.READS_ROWS,
            Fact.READS_REPORT,
            Fact.COMPARES,
            Fact.UNBOUNDED_WEIGHTS,
        }
    ),
    "aggregator/server_optimizer": frozenset({Fact.OWN_STEP}),
    "sampler": frozenset({Fact.ASKS_LOSSES, Fact.ASKS_SIZES, Fact.NO_COHORT_SIZE, Fact.TAKES_TURNS}),
}
"""What is assumed of rules that are not `Part`s and declare no ``facts``, by config group."""


def facts_of(group: str, part: Any) -> dict[Fact, str]:
    """The facts of a part, each with the setting that makes it so (empty: the part itself).

    Args:
        group: the config group that chooses the part.
        part: a `Part`, or a rule with or without a class variable ``facts`` and a method ``conditional_facts``.
    """
    declared: Facts = getattr(part, "facts", UNDECLARED.get(group, frozenset()))
    conditional = getattr(part, "conditional_facts", dict[Fact, str])
    return {**dict.fromkeys(declared, ""), **conditional()}
