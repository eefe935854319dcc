"""Pairwise masks modulo ``2^k``: what clients send under secure aggregation, and how the server gets sums from it.

Bonawitz 2017, "Practical secure aggregation for privacy-preserving machine learning", section 4 and Figure 4. Client u
sends ``x_u + p_uu + sum_{v: u < v} p_uv - sum_{v: u > v} p_uv mod 2^k``, with a mask ``p_uv`` that each pair of
clients derives from a common seed, and ``p_uu`` from a seed that only client u knows. In a sum over all clients the
pairwise masks cancel. The remaining masks are removed with the help of the clients that are still online, which reveal
their shares of secrets: for a client whose row arrived, those of the seed of ``p_uu``; for a client whose row did not,
those of the key from which the seeds of its pairs follow; never both for one client.

Only what is sent, added and subtracted is simulated. Key agreement and Shamir's secret sharing are not: seeds are
derived from the run's seed, the round number and client numbers, and the remaining shares are merely counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim import seeding

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 1 << 16
"""Mask values drawn at a time, few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Masking:
    """What the clients of a round agree on before anything is sent.

    Attributes:
        asked: ``[A]`` int64, numbers of the clients that take part, whether their rows will arrive or not.
        partners: ``[A, d]`` int64, positions in `asked` of the clients that each one shares masks with.
        bits: k; values are modulo ``2^k``.
        pair_key: key of the random stream of pairwise masks.
        self_key: key of the random stream of the masks of single clients.
    """

    asked: Tensor
    partners: Tensor
    bits: int
    pair_key: int
    self_key: int

    def masked(self, values: Tensor, positions: Tensor) -> Tensor:
        """Return the masked rows that clients send.

        Args:
            values: ``[c, n]`` int64, one row per client.
            positions: ``[c]``, positions of the clients in `asked`.

        Returns:
            ``[c, n]`` int64 from 0 to ``2^k - 1``.
        """
        total = values + self._own(positions, values.shape[1], values.device)
        for row, position in zip(total, positions.tolist(), strict=True):
            self._add_pairs(row, position, self.partners[position])
        return total & self._mask

    def unmasked(self, total: Tensor, arrived: Tensor) -> Tensor:
        """Remove the masks that did not cancel from a sum of masked rows.

        Args:
            total: ``[n]`` int64, sum of the masked rows of the clients that arrived, reduced modulo ``2^k`` or not.
            arrived: ``[A]`` bool, whose rows arrived.

        Returns:
            ``[n]`` int64, the sum of their values, from ``-2^(k-1)`` to ``2^(k-1) - 1``.
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
        """Whether the sum of the rows in `arrived` ``[A]`` bool can be unmasked, and no sum of fewer rows with it.

        A client's secrets are shared between itself and its partners; `shares_needed` of these shares reconstruct one.
        The masks of pairs tie the rows that arrived together. Where these fall apart into parts that share no pair, the
        server, which learns all other masks, would have the sum of each part (Bell 2020, section 4).
        """
        shares = arrived[self.partners].sum(1) + arrived.long()
        needed = shares_needed(threshold, self.partners.shape[1] + 1)
        enough = int(arrived.sum()) > 1 and bool((shares >= needed).all())
        return enough and self._holds_together(arrived)

    def _holds_together(self, arrived: Tensor) -> bool:
        """Whether each client that arrived is reached from each other one by pairs of such clients."""
        if self.partners.shape[1] >= len(self.asked) - 1:
            return True  # everybody is everybody's partner
        reached = torch.zeros_like(arrived)
        new = arrived.nonzero()[:1, 0]
        while len(new):
            reached[new] = True
            found = self.partners[new].flatten().unique()
            new = found[arrived[found] & ~reached[found]]
        return bool((reached == arrived).all())

    @property
    def _mask(self) -> int:
        return (1 << self.bits) - 1

    def _own(self, positions: Tensor, count: int, device: torch.device) -> Tensor:
        """The clients' own masks ``p_uu``, ``[c, count]``."""
        clients = self.asked[positions].to(device)[:, None]
        return seeding.random_bits(self.self_key, clients, torch.arange(count, device=device)) & self._mask

    def _add_pairs(self, row: Tensor, position: int, partners: Tensor) -> None:
        """Add to `row` ``[n]`` the signed masks that the client at `position` shares with `partners` ``[q]``."""
        me, others = self.asked[position].to(row.device), self.asked[partners].to(row.device)[:, None]
        low, high, sign = torch.minimum(me, others), torch.maximum(me, others), torch.sign(others - me)
        for first in range(0, len(row), CELLS):
            place = torch.arange(first, min(first + CELLS, len(row)), device=row.device)
            step = max(1, CELLS // len(place))
            for some in range(0, len(others), step):
                which = slice(some, some + step)
                masks = seeding.random_bits(self.pair_key, low[which], high[which], place)
                row[first : first + CELLS] += (masks * sign[which]).sum(0)  # int64 wraps modulo 2^64


def shares_needed(threshold: float, holders: int) -> int:
    """Return how many of a secret's shares reconstruct it: more than `threshold` of them, and two at the least.

    The least is for cohorts smaller than the one for which the threshold was checked: what a single share opens is no
    secret.
    """
    return max(2, math.floor(threshold * holders) + 1)


def agree(asked: Tensor, neighbours: int | None, bits: int, seed: int, round_number: int) -> Masking:
    """Return the masks that clients `asked` ``[A]`` agree on in a round.

    Args:
        asked: client numbers.
        neighbours: how many clients each one shares masks with, an even number; None is all.
        bits: k; values are modulo ``2^k``.
        seed: the run's seed.
        round_number: 1, 2, ...
    """
    pair_key = seeding.stream_key(seed, "secure aggregation", round_number)
    self_key = seeding.stream_key(seed, "secure aggregation, alone", round_number)
    order_key = seeding.stream_key(seed, "secure aggregation, neighbours", round_number)
    return Masking(asked, partners_of(asked, neighbours, order_key), bits, pair_key, self_key)


def partners_of(asked: Tensor, neighbours: int | None, key: int) -> Tensor:
    """The clients that each one shares masks with, as positions ``[A, d]`` in `asked` ``[A]``.

    All clients (Bonawitz 2017), or a Harary graph over the clients in random order (Bell 2020, "Secure single-server
    aggregation with (poly)logarithmic overhead"): a ring in which each client has as many partners on one side as on
    the other.
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
