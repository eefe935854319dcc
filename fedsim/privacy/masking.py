"""Pairwise masks of whole numbers modulo ``2^k``: what clients send under secure aggregation, and how sums come out.

Bonawitz 2017, "Practical secure aggregation for privacy-preserving machine learning", section 4 and Figure 4. Client u
sends ``x_u + p_uu + sum_{v: u < v} p_uv - sum_{v: u > v} p_uv mod 2^k``, with a mask ``p_uv`` that each pair of
clients makes of a seed of its own, and ``p_uu`` of a seed of the client alone. In a sum over all clients the masks of
pairs cancel. The others come off because the clients that are still there reveal their shares of secrets: of the seed
of ``p_uu`` for a client whose row arrived, of the key from which the seeds of its pairs follow for a client whose row
did not; never both of one client.

This simulates what is sent, added and taken off. Keys that clients agree on and Shamir's shares are not: a seed is the
run's seed with the numbers of round and clients, and whether enough shares are left is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim import seeding

CELLS = 1 << 16
"""Masks drawn at a time, so that the drawing stays in the processor's cache."""


@dataclass(frozen=True)
class Masking:
    """What the clients of a round agree on before anything is sent.

    Attributes:
        asked: ``[A]`` int64, numbers of the clients that take part, whether their rows will arrive or not.
        partners: ``[A, d]`` int64 positions in `asked`, with whom each client shares masks.
        bits: k, numbers are modulo ``2^k``.
        pair_key: of the stream of masks of pairs.
        self_key: of the stream of masks of single clients.
    """

    asked: Tensor
    partners: Tensor
    bits: int
    pair_key: int
    self_key: int

    def masked(self, values: Tensor, positions: Tensor) -> Tensor:
        """What clients send.

        Args:
            values: ``[c, n]`` int64, one row per client.
            positions: ``[c]`` of the clients in `asked`.

        Returns:
            ``[c, n]`` int64 from 0 to ``2^k - 1``.
        """
        total = values + self._own(positions, values.shape[1], values.device)
        for row, position in zip(total, positions.tolist(), strict=True):
            self._add_pairs(row, position, self.partners[position])
        return total & self._mask

    def unmasked(self, total: Tensor, arrived: Tensor) -> Tensor:
        """Take off what the masked rows' sum ``[n]`` has of masks that did not cancel.

        Args:
            total: sum of the masked rows of the clients `arrived`, modulo ``2^k`` or not yet.
            arrived: ``[A]`` bool.

        Returns:
            ``[n]`` int64, the sum of their values as a number from ``-2^(k-1)`` to ``2^(k-1) - 1``.
        """
        there = arrived.nonzero()[:, 0]
        total = total.clone()
        for part in there.split(max(1, CELLS // len(total))):
            total -= self._own(part, len(total), total.device).sum(0)
        pairs = torch.zeros_like(total)
        for position in there.tolist():
            partners = self.partners[position]
            self._add_pairs(pairs, position, partners[~arrived[partners]])
        half = 1 << (self.bits - 1)
        return ((total - pairs + half) & self._mask) - half

    def recoverable(self, arrived: Tensor, threshold: float) -> bool:
        """Whether the sum of the rows that arrived, ``[A]`` bool, can be had, and is not just one client's row.

        A client's secrets are shared among itself and its partners; ``floor(threshold * shares) + 1`` put one together.
        """
        shares = arrived[self.partners].sum(1) + arrived.long()
        needed = math.floor(threshold * (self.partners.shape[1] + 1)) + 1
        return int(arrived.sum()) > 1 and bool((shares >= needed).all())

    @property
    def _mask(self) -> int:
        return (1 << self.bits) - 1

    def _own(self, positions: Tensor, count: int, device: torch.device) -> Tensor:
        """``p_uu``, ``[c, count]``."""
        clients = self.asked[positions].to(device)[:, None]
        return seeding.random_bits(self.self_key, clients, torch.arange(count, device=device)) & self._mask

    def _add_pairs(self, row: Tensor, position: int, partners: Tensor) -> None:
        """Add to `row` ``[n]`` what a client has of the masks that it shares with `partners` ``[q]``."""
        me, others = self.asked[position].to(row.device), self.asked[partners].to(row.device)[:, None]
        low, high, sign = torch.minimum(me, others), torch.maximum(me, others), torch.sign(others - me)
        for first in range(0, len(row), CELLS):
            place = torch.arange(first, min(first + CELLS, len(row)), device=row.device)
            step = max(1, CELLS // len(place))
            for some in range(0, len(others), step):
                which = slice(some, some + step)
                masks = seeding.random_bits(self.pair_key, low[which], high[which], place)
                row[first : first + CELLS] += (masks * sign[which]).sum(0)  # whole numbers wrap modulo 2^64


def agree(asked: Tensor, neighbours: int | None, bits: int, seed: int, number: int) -> Masking:
    """What clients `asked` ``[A]`` agree on in round `number`.

    Args:
        asked: client numbers.
        neighbours: clients with whom each shares masks, an even number; None is all.
        bits: k.
        seed: of the run.
        number: of the round.
    """
    pair_key = seeding.stream_key(seed, "secure aggregation", number)
    self_key = seeding.stream_key(seed, "secure aggregation, alone", number)
    order_key = seeding.stream_key(seed, "secure aggregation, neighbours", number)
    return Masking(asked, partners_of(asked, neighbours, order_key), bits, pair_key, self_key)


def partners_of(asked: Tensor, neighbours: int | None, key: int) -> Tensor:
    """Who shares masks with whom, ``[A, d]`` positions in `asked` ``[A]``.

    All with all (Bonawitz 2017), or a Harary graph over the clients in random order (Bell 2020, "Secure single-server
    aggregation with (poly)logarithmic overhead"): a ring in which each has as many partners on one side as on the
    other.
    """
    count = len(asked)
    if neighbours is None or neighbours >= count - 1:
        ring, steps = torch.arange(count), torch.arange(1, count)
    else:
        ring = torch.argsort(seeding.random_bits(key, asked), stable=True)
        half = torch.arange(1, neighbours // 2 + 1)
        steps = torch.cat([half, -half])
    partners = torch.empty((count, len(steps)), dtype=torch.int64)
    partners[ring] = ring[(torch.arange(count)[:, None] + steps) % max(1, count)]
    return partners
