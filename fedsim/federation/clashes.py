"""Which parts go together: a table of facts that exclude each other, checked before anything is read or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from fedsim.core.facts import Fact, facts_of
from fedsim.core.names import option_name
from fedsim.core.part import Part
from fedsim.errors import UserError


class Clash(NamedTuple):
    """Two facts that do not go together.

    In `why` and `way_out`, ``{first}`` and ``{second}`` stand for the settings that cause the facts, and ``{off}`` for
    the setting that switches off the second.

    Attributes:
        first: the fact whose setting the error message begins with.
        second: the fact that it excludes.
        why: why the two do not go together.
        way_out: what to set instead.
    """

    first: Fact
    second: Fact
    why: str
    way_out: str


class Need(NamedTuple):
    """A fact, `first`, that needs another one, `second`; `why` and `way_out` are as in `Clash`."""

    first: Fact
    second: Fact
    why: str
    way_out: str


class Claim(NamedTuple):
    """A fact of a run.

    Attributes:
        fact: what is true of the run.
        setting: the setting that causes it, as the user would type it.
        off: the setting that switches it off.
        assumed: whether it is only assumed, because the part declares no facts.
    """

    fact: Fact
    setting: str
    off: str
    assumed: bool = False


_NO_MEMORY = "take aggregator/correction=none or prox"
_NO_NOISE = "asks clients for losses or sizes, which would leave them without noise"
_NO_MASK = "asks clients for losses or sizes, which no mask covers"
_DEPENDS = (
    "lets a client's delta depend on rounds in which it was drawn before, which the accountant of {second} does not "
    "know"
)
_NO_ROUND = "{second} is about a round that ends before all have arrived, and here the server waits for no round"
_SIMPLE_SAMPLER = "take sampler=uniform or sampler=weighted"

CLASHES = (
    # Baselines
    Clash(Fact.NO_FEDERATION, Fact.EXCHANGES, "is no federation, in which {second} would act", "use {off}"),
    Clash(Fact.NO_FEDERATION, Fact.PERSONAL, "is no federation, in which {second} would act", "use {off}"),
    Clash(Fact.READS_UPDATES, Fact.NO_FEDERATION, "{second} has no server that sees updates", "take baseline=none"),
    Clash(Fact.JUDGES_MODEL, Fact.NO_COMMON_MODEL, "{second} has no common model", "take baseline=none or centralised"),
    # Nothing shared
    Clash(Fact.NOTHING_SHARED, Fact.EXCHANGES, "nothing is sent that {second} could act on", "take {off}"),
    Clash(Fact.NOTHING_SHARED, Fact.REMEMBERS, "nothing is sent that {second} could remember", "take {off}"),
    Clash(Fact.NOTHING_SHARED, Fact.PULLS, "the server has no parameters to which {second} could pull", "take {off}"),
    # Local differential privacy: nothing but the noisy delta may leave a client.
    Clash(
        Fact.NOISE_ON_CLIENTS,
        Fact.READS_REPORT,
        "{second} asks clients for more than a delta (their samples, steps or losses), which would leave them without "
        "noise",
        "take aggregator/combine=mean",
    ),
    Clash(Fact.NOISE_ON_CLIENTS, Fact.ASKS_LOSSES, "{second} " + _NO_NOISE, "take sampler=uniform"),
    Clash(Fact.NOISE_ON_CLIENTS, Fact.ASKS_SIZES, "{second} " + _NO_NOISE, "take sampler=uniform"),
    Clash(Fact.NOISE_ON_CLIENTS, Fact.REMEMBERS, "{second} keeps or sends what the noise does not cover", _NO_MEMORY),
    # Central differential privacy: a delta may depend on the model that its client got and on nothing else.
    *(
        Clash(
            Fact.PRIVATE_MEAN,
            fact,
            "bounds each client's share of a plain mean over a fixed denominator, which {second} is not",
            "take aggregator/combine=mean",
        )
        for fact in (Fact.READS_ROWS, Fact.READS_REPORT)
    ),
    Clash(Fact.PRIVATE_MEAN, Fact.REMEMBERS, "{second} tells the server more than the clipped deltas", _NO_MEMORY),
    *(
        Clash(fact, Fact.PRIVATE_MEAN, _DEPENDS, "switch one of them off")
        for fact in (Fact.KEEPS_OPTIMIZER_STATE, Fact.FEEDS_BACK, Fact.PRIVATE_BLOCKS)
    ),
    Clash(
        Fact.PRIVATE_MEAN,
        Fact.COLLUDES,
        "with {second} the attackers' rows are made of all others', so that no client's influence is bounded",
        "take another attack or privacy=local_dp",
    ),
    Clash(
        Fact.OVER_SELECTS,
        Fact.PRIVATE_MEAN,
        "who is kept depends on how fast the others are, and so on their data, which the accountant of {second} does "
        "not know",
        "take system.over_selection=1 (deadlines and dropouts go with it)",
    ),
    Clash(
        Fact.NEEDS_ARRIVALS,
        Fact.PRIVATE_MEAN,
        "lets a single client decide whether a round counts, which the accountant of {second} does not know",
        "take system.min_clients=1",
    ),
    # Secure aggregation: nothing but the masked row leaves a client, and the server gets the sum alone.
    Clash(
        Fact.HIDES_ROWS,
        Fact.READS_ROWS,
        "the server sees a sum of the rows and no single one, from which {second} cannot be made",
        "take aggregator/combine=mean or weighted",
    ),
    Clash(
        Fact.HIDES_ROWS,
        Fact.UNBOUNDED_WEIGHTS,
        "weights must have a largest value that is known beforehand, so that they fit into whole numbers, and {second} "
        "has none that is not far off",
        "take aggregator/combine=mean, or weighted with aggregator.combine.by=samples",
    ),
    Clash(
        Fact.HIDES_ROWS,
        Fact.REMEMBERS,
        "{second} needs more of the clients than a mean of their deltas",
        "take aggregator/correction=none, prox or sharpness_aware",
    ),
    Clash(
        Fact.HIDES_ROWS,
        Fact.LOSSY_UP,
        "a masked number takes privacy.bits bits whatever it hides, so that {second} would lose something and save "
        "nothing",
        "take link/up=none",
    ),
    Clash(Fact.HIDES_ROWS, Fact.ASKS_LOSSES, "{second} " + _NO_MASK, "take sampler=uniform"),
    Clash(Fact.HIDES_ROWS, Fact.ASKS_SIZES, "{second} " + _NO_MASK, "take sampler=uniform"),
    # Asynchronous schedules: no rounds, and clients start from different versions.
    Clash(
        Fact.ASYNCHRONOUS, Fact.NO_FEDERATION, "{second} is no federation", "take schedule=synchronous or baseline=none"
    ),
    Clash(Fact.ASYNCHRONOUS, Fact.DEADLINE, _NO_ROUND, "take system.deadline=null"),
    Clash(Fact.ASYNCHRONOUS, Fact.OVER_SELECTS, _NO_ROUND, "take system.over_selection=1"),
    Clash(Fact.ASYNCHRONOUS, Fact.NEEDS_ARRIVALS, _NO_ROUND, "take system.min_clients=1"),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.HARDLY_ARRIVES,
        "with {second} hardly any client ever fills the buffer",
        "take at most system.dropout=0.99",
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.ASKS_LOSSES,
        "{second} asks clients for losses before a round begins",
        _SIMPLE_SAMPLER,
    ),
    Clash(Fact.ASYNCHRONOUS, Fact.TAKES_TURNS, "{second} has clients take turns by rounds", _SIMPLE_SAMPLER),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.GOES_BY_ROUNDS,
        "{second} has clients go on and off by rounds (system.availability has them do so by chance)",
        _SIMPLE_SAMPLER,
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.NO_COHORT_SIZE,
        "{second} does not say how many clients are at work at once",
        _SIMPLE_SAMPLER,
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.REMEMBERS,
        "{second} keeps memories of all clients that belong to one model, and here clients start from different ones",
        _NO_MEMORY,
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.PRIVATE_BLOCKS,
        "{second} has clients put private blocks into the newest model, and here they start from older ones",
        "take aggregator.blocks=null",
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.PRIVATE_MEAN,
        "the accountant of {second} counts rounds that each draw a cohort from all clients, and here who arrives "
        "depends on how long the others take",
        "take privacy=local_dp or none",
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.HIDES_ROWS,
        "{second} has a cohort agree on masks before it trains, and here it is not known who will be in a buffer "
        "together",
        "take privacy=local_dp or none",
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.READS_UPDATES,
        "{second} takes clients to have started from the newest model",
        "take audit=membership or none",
    ),
    Clash(
        Fact.ASYNCHRONOUS,
        Fact.LOSSY_DOWN,
        "{second} keeps one copy of the model for all clients, and here they have different versions",
        "take link/down=none",
    ),
    Clash(
        Fact.ONE_AT_A_TIME,
        Fact.COMPARES,
        "takes one update at a time, so that {second} has nothing to combine",
        "take aggregator/combine=mean, or schedule=fedbuff",
    ),
    Clash(
        Fact.ONE_AT_A_TIME,
        Fact.OWN_STEP,
        "mixes models, and {second} adds deltas by a rule of its own",
        "take aggregator/server_optimizer=sgd, or schedule=fedbuff",
    ),
    Clash(
        Fact.SCALES_STEP,
        Fact.ONE_AT_A_TIME,
        "the step of {second} is schedule.alpha",
        "take aggregator.server_optimizer.lr=1",
    ),
    # Blocks that stay with each client.
    Clash(
        Fact.PRIVATE_BLOCKS,
        Fact.SECOND_MODEL,
        "with private blocks there is no whole global model to which {second} could pull",
        "use personalize=none or personalize=finetune",
    ),
    Clash(
        Fact.PRIVATE_BLOCKS,
        Fact.JUDGES_MODEL,
        "{second} judges a whole global model, of which private blocks leave a part only",
        "take aggregator.blocks=null or {off}",
    ),
    # Devices
    Clash(
        Fact.ASKS_LOSSES,
        Fact.TIMED,
        "asks clients for their losses before a round begins, which takes time that the virtual clock of {second} does "
        "not know",
        "take another sampler or system=none",
    ),
    Clash(
        Fact.OVER_SELECTS,
        Fact.NO_COHORT_SIZE,
        "{second} has no cohort size to ask more clients than",
        "take system.over_selection=1",
    ),
    Clash(
        Fact.SHORTENS,
        Fact.SECOND_MODEL,
        "shortens the training of the global model, and {second} trains a second model in the same round",
        "take system.late=drop or personalize=none",
    ),
    # Audits of single updates
    Clash(
        Fact.READS_UPDATES,
        Fact.HIDES_ROWS,
        "under {second} the server sees a sum and no client's update, which is what there would be to look at",
        "audit=membership looks at the model",
    ),
    Clash(
        Fact.READS_UPDATES,
        Fact.SHORTENS,
        "takes clients to have done all their local steps, which {second} cuts short",
        "take system.late=drop",
    ),
    Clash(
        Fact.READS_UPDATES,
        Fact.BENDS,
        "{second} mixes more into an update than the client's samples",
        _NO_MEMORY,
    ),
    # FedNova
    Clash(
        Fact.BENDS,
        Fact.NEEDS_COEFFICIENTS,
        "{second} knows the coefficients of the local gradients with aggregator/correction=none or prox only",
        _NO_MEMORY,
    ),
)
"""Every pair of facts that excludes each other."""

NEEDS = (
    Need(
        Fact.ASYNCHRONOUS,
        Fact.TIMED,
        "needs a virtual clock that says who arrives when",
        "take system=devices or system=profiles",
    ),
)
"""Every fact that needs another one."""


def claims_of(components: Mapping[str, Any]) -> list[Claim]:
    """The facts of components, which are given by config group."""
    claims = []
    for group, component in components.items():
        name = f"{group}={option_name(component)}"
        cls: Any = type(component)
        assumed, off = not _declares(cls), "synchronous" if group == "schedule" else "none"
        for fact, setting in facts_of(group, component).items():
            claims.append(Claim(fact, setting or name, f"{group}={off}", assumed and not setting))
    return claims


@cache
def _declares(cls: type[object]) -> bool:
    """Whether a class, or one that it inherits from outside `fedsim.core.part`, declares its facts."""
    owner = next((base for base in cls.__mro__ if "facts" in vars(base)), None)
    return owner is not None and owner.__module__ != Part.__module__


def refuse_clashes(claims: Sequence[Claim]) -> None:
    """Raise `UserError` for the first two facts that exclude each other, or the first fact that lacks another one."""
    found: dict[Fact, list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.fact, []).append(claim)
    for clash in CLASHES:
        for first in found.get(clash.first, ()):
            for second in found.get(clash.second, ()):
                names = {"first": first.setting, "second": second.setting, "off": second.off}
                unless = [c.setting for c in (first, second) if c.assumed]
                hint = "".join(f" (unless {setting} says otherwise in its `facts`)" for setting in unless)
                raise UserError(f"{first.setting}: {clash.why.format(**names)}{hint}; {clash.way_out.format(**names)}")
    for need in NEEDS:
        if need.first in found and need.second not in found:
            raise UserError(f"{found[need.first][0].setting}: {need.why}; {need.way_out}")
