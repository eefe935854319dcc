"""What a run does and its user may not expect: lines that are printed at its start, and that refuse nothing."""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.core.facts import Fact
from fedsim.core.stopping import Stop

PAIRS = "sampler=weighted with aggregator/combine=mean, or sampler=uniform with aggregator/combine=weighted"


def advise(facts: Mapping[Fact, str], stop: Stop, equal_sizes: bool, all_take_part: bool) -> list[str]:
    """Return the lines for a run.

    Args:
        facts: the facts of all parts, each with the setting that causes it.
        stop: when the run ends early.
        equal_sizes: whether all clients have equally many samples.
        all_take_part: whether every round has all clients.
    """
    lines = []
    by_size = facts.get(Fact.ASKS_SIZES)
    if not equal_sizes and not all_take_part:
        if by_size and (rule := facts.get(Fact.COUNTS_SAMPLES)):
            lines.append(
                f"{by_size} draws clients in proportion to their samples, and {rule} weighs them by their samples "
                f"again, so that sizes count twice; to count them once, take {PAIRS}"
            )
        if not by_size and (rule := facts.get(Fact.TAKES_DRAW_BY_SIZE)):
            lines.append(
                f"{rule} has no sample counts in its formula, since its paper draws clients in proportion to their "
                "samples, and here each client counts the same; the paper's is sampler=weighted"
            )
    alone = facts.get(Fact.NO_COMMON_MODEL) or facts.get(Fact.NOTHING_SHARED)
    if alone and (stop.target is not None or stop.patience is not None):
        lines.append(f"{alone}: stop ends all clients together, by the evaluations of their own models taken together")
    return lines
