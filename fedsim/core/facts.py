"""Facts about the parts of a run, so that parts can depend on each other without naming each other's classes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any


class Fact(Enum):
    """Something that is true of a part, whatever its class; `fedsim.federation.clashes` lists which exclude each other.

    A part that declares no facts gets the most cautious ones: see ``facts`` in `fedsim.core.part`, and `UNDECLARED`.
    """

    # Combine rules
    READS_ROWS = auto()  # looks at single clients' rows, not only at their sum
    READS_REPORT = auto()  # needs more from a client than its row: samples, steps, losses
    COMPARES = auto()  # weighs the clients of a cohort against each other; does nothing with a single one
    UNBOUNDED_WEIGHTS = auto()  # the largest weight is not known in advance
    COUNTS_SAMPLES = auto()  # a client counts in proportion to its samples
    TAKES_DRAW_BY_SIZE = auto()  # takes clients to be drawn in proportion to their samples
    NEEDS_COEFFICIENTS = auto()  # must know how much of each local gradient is in a delta

    # Server optimizers
    OWN_STEP = auto()  # adds something other than a multiple of the delta
    SCALES_STEP = auto()  # adds a multiple of the delta other than 1

    # Corrections
    REMEMBERS = auto()  # client and server keep rows from round to round
    TELLS = auto()  # clients send rows in addition to the delta
    PULLS = auto()  # pulls towards the anchor, in proportion to the distance (`Correction.pull`)
    BENDS = auto()  # changes gradients, by an unknown share of the delta

    # Samplers
    ASKS_LOSSES = auto()  # clients compute losses before the round begins
    ASKS_SIZES = auto()  # clients report how many samples they have
    NO_COHORT_SIZE = auto()  # how many clients take part is left to chance
    TAKES_TURNS = auto()  # who takes part depends on the round number
    GOES_BY_ROUNDS = auto()  # clients go online and offline from round to round

    # Local training and blocks
    KEEPS_OPTIMIZER_STATE = auto()  # clients keep their optimizer's state from round to round
    PRIVATE_BLOCKS = auto()  # some parameters stay on the clients
    NOTHING_SHARED = auto()  # all parameters stay on the clients

    # Between clients and server
    EXCHANGES = auto()  # acts on what clients and server send each other
    NOISE_ON_CLIENTS = auto()  # nothing leaves a client without noise
    PRIVATE_MEAN = auto()  # the server replaces the combine rule by a mean with noise
    ACCOUNTED = auto()  # states an epsilon, to which every step of a round must keep
    HIDES_ROWS = auto()  # the server sees only the sum of the rows
    LOSSY_UP = auto()  # deltas are changed on the way to the server
    LOSSY_DOWN = auto()  # all clients hold one copy of the model, which lags behind
    FEEDS_BACK = auto()  # clients keep what the encoding of earlier deltas lost
    COLLUDES = auto()  # malicious clients know the rows of all clients
    FORGES = auto()  # malicious clients send rows that no training gave, which need not even be finite

    # Judges
    JUDGES_MODEL = auto()  # looks at a whole global model
    READS_UPDATES = auto()  # looks at single clients' updates, and assumes that they come from honest training

    # Devices and schedules
    TIMED = auto()  # a virtual clock decides who arrives when
    DEADLINE = auto()  # a round ends after a number of virtual seconds
    SHORTENS = auto()  # late clients take fewer local steps
    OVER_SELECTS = auto()  # more clients are asked than are kept
    NEEDS_ARRIVALS = auto()  # a round with too few arrivals is given up
    HARDLY_ARRIVES = auto()  # nearly all clients drop out
    ASYNCHRONOUS = auto()  # clients train from different versions of the model
    ONE_AT_A_TIME = auto()  # every update is mixed into the model on arrival

    # Instead of the federation, or in addition to it
    SECOND_MODEL = auto()  # clients train another model in the same round
    PERSONAL = auto()  # clients use personal models
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
"""Facts assumed of rules that are not `Part`s and declare no ``facts``, by config group."""


def facts_of(group: str, part: Any) -> dict[Fact, str]:
    """The facts of a part, each with the setting that causes it (empty: the choice of the part).

    Args:
        group: the config group of the part.
        part: a `Part`, or a rule with or without a class variable ``facts`` and a method ``conditional_facts``.
    """
    declared: Facts = getattr(part, "facts", UNDECLARED.get(group, frozenset()))
    conditional = getattr(part, "conditional_facts", dict[Fact, str])
    return {**dict.fromkeys(declared, ""), **conditional()}
