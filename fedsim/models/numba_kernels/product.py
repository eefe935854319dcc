"""Matrix products of one client, small enough that packing and blocking decide their speed."""

from __future__ import annotations

from typing import Any

from fedsim.models.numba_kernels.pointers import advance, caller, clear, copy, lanes, njit
from fedsim.models.numba_kernels.table import MULTIPLY_KINDS
from fedsim.models.numba_kernels.tiles import TILE_ROWS, tiles, transpose_block

_ROWS_1, _ROWS_2, _ROWS_3 = TILE_ROWS[1], TILE_ROWS[2], TILE_ROWS[3]
product = caller(MULTIPLY_KINDS)

_tiles_1, _tiles_2, _tiles_3 = tiles(1), tiles(2), tiles(3)


@njit
def _panel_width(left: int) -> int:
    """Vectors of the next panel when `left` remain: two, or the last three at once."""
    return 3 if left == 3 else min(left, 2)


@njit
def _panel(
    c: Any,
    ldc: int,
    start: Any,
    ld_start: int,
    a: Any,
    row_stride: int,
    k_stride: int,
    b: Any,
    ldb: int,
    m: int,
    k: int,
    w: int,
) -> None:
    """``c = start + a @ b`` for one panel of `w` vectors, in tiles of nearly equal height."""
    most = _ROWS_3 if w == 3 else _ROWS_2 if w == 2 else _ROWS_1
    count = (m + most - 1) // most
    height, taller = m // count, m % count
    for tile in range(count):
        rows = height + (1 if tile < taller else 0)
        if w == 2:
            _tiles_2(rows, c, ldc, start, ld_start, a, row_stride, k_stride, b, ldb, k)
        elif w == 3:
            _tiles_3(rows, c, ldc, start, ld_start, a, row_stride, k_stride, b, ldb, k)
        else:
            _tiles_1(rows, c, ldc, start, ld_start, a, row_stride, k_stride, b, ldb, k)
        c = advance(c, rows * ldc)
        start = advance(start, rows * ld_start)
        a = advance(a, rows * row_stride)


def multiply(
    c: Any,
    ldc: int,
    start: Any,
    ld_start: int,
    a: Any,
    row_stride: int,
    k_stride: int,
    b: Any,
    ldb: int,
    m: int,
    n: int,
    k: int,
) -> None:
    """``c[m, n] = start[m, n] + a[m, k] @ b[k, n]``; columns of `c` up to the next whole vector are written too.

    Args:
        c: result; rows lie `ldc` apart.
        ldc: see `c`.
        start: what the sums begin with (`c` itself to add to it); rows lie `ld_start` apart, 0 for one row for all.
        ld_start: see `start`.
        a: left factor; ``a[i, j]`` lies at ``i * row_stride + j * k_stride``.
        row_stride: see `a`.
        k_stride: see `a`.
        b: right factor; rows lie `ldb` apart, or panels made by `pack` or `pack_transposed` where `ldb` is 0.
        ldb: see `b`.
        m: rows of `c`.
        n: columns of `c`.
        k: columns of `a`.
    """
    size = lanes(c)
    left = (n + size - 1) // size
    while left > 0:
        w = _panel_width(left)
        _panel(c, ldc, start, ld_start, a, row_stride, k_stride, b, ldb if ldb else w * size, m, k, w)
        b = advance(b, w * size * (1 if ldb else k))
        c = advance(c, w * size)
        start = advance(start, w * size)
        left -= w


@njit
def pack(panels: Any, source: Any, first: int, k: int, n: int, shift: int, total: int) -> int:
    """Copy rows `first` to ``first + k`` of ``source[total, n]`` into panels for `multiply`; return their size.

    Row j of the copy is row ``(first + j + shift) % total`` of the source.
    """
    size = lanes(panels)
    left = (n + size - 1) // size
    done = 0
    start = 0
    while left > 0:
        width = _panel_width(left) * size
        count = min(width, n - start)
        for j in range(k):
            old = first + j + shift
            old = old if old < total else old - total
            target = advance(panels, done + j * width)
            copy(target, advance(source, old * n + start), count)
            clear(advance(target, count), width - count)
        done += k * width
        start += width
        left -= width // size
    return done


@njit
def transpose(target: Any, ldt: int, source: Any, lds: int, rows: int, columns: int) -> None:
    """``target[j, i] = source[i, j]`` for `rows` and `columns` of the source; rows lie `ldt` and `lds` apart."""
    size = lanes(target)
    whole_rows, whole_columns = rows - rows % size, columns - columns % size
    for i in range(0, whole_rows, size):
        for j in range(0, whole_columns, size):
            transpose_block(advance(target, j * ldt + i), ldt, advance(source, i * lds + j), lds)
    for i in range(rows):
        for j in range(whole_columns if i < whole_rows else 0, columns):
            target[j * ldt + i] = source[i * lds + j]


@njit
def pack_transposed(panels: Any, source: Any, first: int, n: int, k: int, shift: int, total: int) -> int:
    """Copy rows `first` to ``first + n`` of ``source[total, k]``, transposed, into panels; return their size.

    Column j of the copy is row ``(first + j + shift) % total`` of the source.
    """
    size = lanes(panels)
    left = (n + size - 1) // size
    done = 0
    start = 0
    while left > 0:
        width = _panel_width(left) * size
        count = min(width, n - start)
        target = advance(panels, done)
        if count < width:
            clear(target, k * width)
        old = (first + start + shift) % total
        before_end = min(count, total - old)
        transpose(target, width, advance(source, old * k), k, before_end, k)
        if before_end < count:
            transpose(advance(target, before_end), width, source, k, count - before_end, k)
        done += k * width
        start += width
        left -= width // size
    return done
