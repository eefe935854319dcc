"""The table of sizes and addresses that the kernel of Adam works from."""

from __future__ import annotations

# Places in the int64 table: a counter shared by the threads, sizes, and addresses with the distance of two clients.
(
    ITEM,
    ITEMS,
    PARTS,
    PART,
    COUNT,
    SCALES,
    NUMBERS,
    ROWS,
    ROWS_STRIDE,
    GRADIENT,
    GRADIENT_STRIDE,
    MEAN,
    MEAN_STRIDE,
    SQUARE,
    SQUARE_STRIDE,
    TABLE_SIZE,
) = range(16)
