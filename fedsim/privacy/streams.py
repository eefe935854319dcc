"""Noise that is correlated over rounds, one round after another, from draws that a key can give again at any time.

A stream yields the noise of round 1, 2, ... as rows ``[n]`` float64. What it holds between rounds is never saved: for
whoever needs round t first, such as a resumed run, the rounds before it are drawn again, with the same operations in
the same order and hence the same bits.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Row: TypeAlias = NDArray[np.float64]

Draw: TypeAlias = "Callable[..., Row]"
"""``draw(*key)`` returns standard normal numbers ``[n]``, always the same for a key, in a row that may be changed."""


def banded(column: Sequence[float], draw: Draw) -> Iterator[Row]:
    """Yield the rows of ``C^-1 Z`` for a banded Toeplitz matrix C (Choquette-Choo 2023, Algorithm 9).

    Row t of ``C X = Z`` is ``x_t = z_t - c_1 x_(t-1) - ... - c_(b-1) x_(t-b+1)``, with ``c_0 = 1``.

    Args:
        column: c_0, c_1, ..., of which the first is 1.
        draw: ``draw(t)`` is row t of Z.
    """
    earlier: deque[Row] = deque(maxlen=len(column) - 1)
    for number in itertools.count(1):
        row = draw(number)
        for factor, other in zip(column[1:], earlier, strict=False):
            row -= factor * other
        earlier.appendleft(row)
        yield row


def buffered(decays: Sequence[float], scales: Sequence[float], draw: Draw) -> Iterator[Row]:
    """Yield the rows of ``C^-1 Z`` for a BLT matrix C (McMahan 2024, Algorithm 3).

    Args:
        decays: ``[d]``, what is left of each buffer after a round.
        scales: ``[d]``, with which the buffers are subtracted.
        draw: ``draw(t)`` is row t of Z.
    """
    buffers: list[Row] = []
    for number in itertools.count(1):
        row = draw(number)
        for scale, buffer in zip(scales, buffers, strict=False):
            row -= scale * buffer
        kept = buffers or [np.zeros_like(row)] * len(decays)
        buffers = [decay * buffer + row for decay, buffer in zip(decays, kept, strict=True)]
        yield row


def tree(restart_every: int | None, draw: Draw) -> Iterator[Row]:
    """Yield what each round adds to the noise of the running sum, by binary trees (Kairouz 2021, Algorithm 1).

    The running sum of a tree is that of the largest complete nodes into which it divides. A node is estimated from all
    noisy nodes below it as well ("from below", Honaker 2015): from itself, with noise of variance 1, and from the
    estimates of its two halves, with noise of variance v each, with weights in inverse proportion to 1 and 2v. Once a
    tree is over, its noise stays as it is in the running sum, and the next tree begins.

    Args:
        restart_every: rounds per tree; None is one tree for all.
        draw: ``draw(k, h, i)`` is the noise of node i, from 0, of ``2^h`` rounds, in tree k from 0.
    """
    for number in itertools.count():
        estimates: list[Row] = []  # of the nodes that the sum divides into, the largest first
        before: Row | None = None
        for leaf in itertools.count() if restart_every is None else range(restart_every):
            row = draw(number, 0, leaf)
            for height in range(1, ((leaf + 1) & -(leaf + 1)).bit_length()):
                own = variance_of_node(height)  # 1/1 over 1/1 + 1/(2v)
                halves = estimates.pop() + row
                row = own * draw(number, height, leaf >> height) + (1 - own) * halves
            estimates.append(row)
            total = estimates[0].copy()
            for estimate in estimates[1:]:
                total += estimate
            yield total if before is None else total - before
            before = total


def variance_of_node(height: int) -> float:
    """Return the variance of the estimate of a node: ``v_0 = 1``, ``1 / v_h = 1 + 1 / (2 v_(h-1))`` (Honaker 2015)."""
    variance = 1.0
    for _ in range(height):
        variance = 1 / (1 + 1 / (2 * variance))
    return variance


class Replay:
    """A stream that can be asked for any round; it begins anew unless that is the next one, or the one before again."""

    def __init__(self, begin: Callable[[int], Iterator[Row]]) -> None:
        """Take a function that begins the stream, for rows of a given length."""
        self._begin = begin
        self._size, self._number = -1, 0
        self._stream: Iterator[Row] = iter(())
        self._row: Row = np.zeros(0)

    def row(self, number: int, size: int) -> Row:
        """Return the noise ``[size]`` of round ``number >= 1``, which must not be changed."""
        if size != self._size or number < self._number or self._number == 0:
            self._stream, self._size, self._number = self._begin(size), size, 0
        while self._number < number:
            self._row, self._number = next(self._stream), self._number + 1
        return self._row
