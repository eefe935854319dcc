"""The table of sizes and addresses that the kernels of the head work from."""

from __future__ import annotations

LONG_CHUNK = 64
"""Numbers of a long row that are reduced side by side, whatever a vector of the machine has."""

# Places in the int64 table: counters shared by the threads, sizes, addresses and strides, and regions of a worker's
# scratch memory. No kernel needs all of them.
(
    WORKER,
    ITEM,
    ITEMS,
    MULTIPLY,
    SQUARES,
    ROWS,
    PARTS,
    WIDTH,
    TOKENS,
    LD,
    CHUNK,
    BLOCK,
    FEATURES,
    TARGETS,
    SHARES,
    LOSS,
    HITS,
    AHEAD,
    D_FEATURES,
    W,
    W_STRIDE,
    BIAS,
    BIAS_STRIDE,
    D_W,
    D_W_STRIDE,
    D_BIAS,
    D_BIAS_STRIDE,
    SCRATCH,
    SCRATCH_STRIDE,
    AT_LOGITS,
    AT_ACROSS,
    AT_DOWN,
    AT_OWN,
    AT_FEATURES,
    AT_BIAS,
    AT_D_BIAS,
    AT_REDUCED,
    AT_MOST,
    AT_TOTAL,
    AT_RIGHT,
    AT_SHARES,
    AT_LOSS,
    AT_ONES,
    AT_ZEROS,
    TABLE_SIZE,
) = range(45)
