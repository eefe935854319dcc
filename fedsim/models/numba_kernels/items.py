"""What the table says about a work item of the walks, and what both of them call."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.formulas import elementwise
from fedsim.models.numba_kernels.pointers import advance, at_address, caller, njit
from fedsim.models.numba_kernels.table import LENGTHS, SAMPLES, SHARES, STEP_KINDS, STEPS

take_step = caller(STEP_KINDS)

add = elementwise(lambda a, b: (a + b, None))


@njit
def plan(table: Any, client: int, share: int, order: Any, active: Any) -> Any:
    """Order the item's samples by descending length; return their number.

    Writes the samples' numbers to `order` and to ``active[t]`` how many of them have a step t.
    """
    b, steps, shares = table[SAMPLES], table[STEPS], table[SHARES]
    if table[LENGTHS] == 0:
        own = (b - share + shares - 1) // shares
        for i in range(own):
            order[i] = share + i * shares
        for t in range(steps):
            active[t] = own
        active[steps] = 0
        return own
    lengths = advance(at_address(table, table[LENGTHS]), client * b)
    for t in range(steps + 1):
        active[t] = 0
    for i in range(b):
        active[min(max(lengths[i], 0), steps)] += 1
    rank = 0  # counting sort: active[n] becomes the first rank of the samples of length n
    for t in range(steps, -1, -1):
        count = active[t]
        active[t] = rank
        rank += count
    own = 0
    for i in range(b):
        length = min(max(lengths[i], 0), steps)
        rank = active[length]
        active[length] += 1
        if rank % shares == share:  # dealt out like cards, so that the shares are about equally long
            order[rank // shares] = i
            own += 1
    running = own
    for t in range(steps):
        while running > 0 and lengths[order[running - 1]] <= t:
            running -= 1
        active[t] = running
    active[steps] = 0
    return own


@njit
def first_row(table: Any, client: int, share: int) -> Any:
    """Where the item's rows of ``saved`` begin: every sample has room for all steps."""
    b, shares = table[SAMPLES], table[SHARES]
    return (client * b + share * (b // shares) + min(share, b % shares)) * table[STEPS]
