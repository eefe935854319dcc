"""The table of sizes and addresses that a kernel works from, and what it says about a work item."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.formulas import elementwise
from fedsim.models.numba_kernels.pointers import advance, at_address, caller, njit

# Places in the int64 table that a kernel gets: counters shared by the threads, sizes, addresses, and offsets (in
# numbers) of the regions of a worker's scratch memory.
(
    WORKER,
    ITEM,
    ITEMS,
    STEPS,
    SAMPLES,
    INPUTS,
    HIDDEN,
    STATE,
    GATES,
    X_FIRST,
    ROLL,
    SPLIT,
    STEP,
    MULTIPLY,
    SHARES,
    BLOCK,
    X,
    X_STRIDE,
    W_IH,
    W_IH_STRIDE,
    W_HH,
    W_HH_STRIDE,
    B_IH,
    B_IH_STRIDE,
    B_HH,
    B_HH_STRIDE,
    W_HR,
    W_HR_STRIDE,
    LENGTHS,
    STATES,
    SAVED,
    SAVED_LD,
    KEEP,
    STATE_LD,
    EVERY,
    LAST,
    LAST_LENGTHS,
    D_X,
    D_W_IH,
    D_W_IH_STRIDE,
    D_W_HH,
    D_W_HH_STRIDE,
    D_B_IH,
    D_B_IH_STRIDE,
    D_B_HH,
    D_B_HH_STRIDE,
    D_W_HR,
    D_W_HR_STRIDE,
    GATES_LD,
    D_HH_LD,
    SCRATCH,
    SCRATCH_STRIDE,
    AT_PLAN,
    AT_X,
    AT_SAVED,
    AT_H,
    AT_WORK,
    AT_UNITS,
    AT_CELL,
    AT_BIAS,
    AT_PACKED_IH,
    AT_PACKED_HH,
    AT_PACKED_HR,
    AT_PREVIOUS,
    AT_EXTRA,
    AT_GATES,
    AT_D_IH,
    AT_D_HH,
    AT_D_HR,
    AT_D_STATES,
    AT_D_X,
    D_X_LD,
    TABLE_SIZE,
) = range(73)

STEP_KINDS = "pipippppipppiiiippi"
"""Arguments of a cell's step, forward and backward."""

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
