"""How much one client can change all nodes of the binary trees of DP-FTRL (Kairouz 2021, Appendix D).

A tree has rounds as leaves, and a node is the sum of the rounds below it; only nodes whose rounds are all over exist.
A client that takes part in the rounds c changes the node z by ``|c in z|`` at most, hence all nodes together by the
root of ``sum_z |c in z|^2``. The largest such sum over all c that keep the rounds b apart is found without going
through them all:

Within a complete node, a *plan* is a choice of rounds, up to shifts that change no sum. What matters of it outside is
its number of rounds m, its sum, and with which others it fits together: it can begin s rounds after the node's first
round, and at the same time end e rounds before its last, if ``s <= alpha``, ``e <= beta`` and ``s + e <= gamma``. Two
plans side by side are again of this form (Fourier-Motzkin elimination of the rounds between them), and only those count
that no other beats in everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedsim.samplers.participation import Participation

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAIRS = 1 << 20
"""So many pairs of plans are compared at a time, whatever the number of rounds."""


@dataclass(frozen=True)
class Forest:
    """The trees of a run.

    Attributes:
        where: how often and how far apart a client takes part.
        rounds: R, the round limit, which decides whether `Participation.most` excludes anything.
        restart_every: rounds per tree; None is one tree for all.
    """

    where: Participation
    rounds: int
    restart_every: int | None = None
    _nodes: dict[int, NDArray[np.int64]] = field(default_factory=dict, compare=False, repr=False)
    _prefixes: dict[int, NDArray[np.int64]] = field(default_factory=dict, compare=False, repr=False)

    def sensitivity(self, rounds: int) -> float:
        """Return how far one client moves all nodes that exist after so many rounds, in units of the clipping norm."""
        return math.sqrt(int(self._prefix(rounds)[:, 1].max()))

    def size_of_last(self, rounds: int) -> int:
        """Return the number of leaves of the largest node whose last leaf is round ``rounds >= 1``."""
        in_tree = rounds if self.restart_every is None else (rounds - 1) % self.restart_every + 1
        return in_tree & -in_tree

    @property
    def _scarce(self) -> bool:
        """Whether a client takes part less often than the separation would allow, so that fewer rounds are a merit."""
        return self.where.most < math.ceil(self.rounds / self.where.separation)

    def _prefix(self, rounds: int) -> NDArray[np.int64]:
        """The plans for the first rounds, of which neither the beginning nor, unless `most` is scarce, m matters."""
        missing = []
        while rounds > 0 and rounds not in self._prefixes:
            missing.append(rounds)
            rounds -= self.size_of_last(rounds)
        plans = self._prefixes.get(rounds, np.zeros((1, 5), dtype=np.int64))
        for later in reversed(missing):
            size = self.size_of_last(later)
            plans = self._joined(plans, self._node(size), later - size, size)
            plans[:, 2], plans[:, 4] = 0, plans[:, 3]
            if not self._scarce:
                plans[:, 0] = np.minimum(plans[:, 0], 1)
            plans = self._prefixes[later] = _best(plans, self._scarce)
        return plans

    def _node(self, size: int) -> NDArray[np.int64]:
        """The plans of a complete node with ``size = 2^h`` leaves."""
        if size not in self._nodes:
            apart = self.where.separation
            if size <= apart:  # one round at most, which is in h + 1 nodes wherever it is
                plans = np.array([[0] * 5, [1, size.bit_length(), size - 1, size - 1, size - 1]], dtype=np.int64)
            else:
                half = self._node(size // 2)
                plans = self._joined(half, half, size // 2, size // 2)
                plans[:, 1] += plans[:, 0] ** 2
            self._nodes[size] = plans
        return self._nodes[size]

    def _joined(self, left: NDArray[np.int64], right: NDArray[np.int64], before: int, after: int) -> NDArray[np.int64]:
        """The best ways to go on from one of the plans `left` for `before` rounds with one of `right` for `after`.

        Plans are rows ``[p, 5]`` of m, sum, alpha, beta and gamma; the first row is the empty plan.
        """
        guard = self.where.separation - 1  # rounds that must lie between two
        alone = left[1:] + np.array([0, 0, 0, after, after])
        begun = right[1:] + np.array([0, 0, before, 0, before])
        found = [left[:1], _capped(alone, guard), _capped(begun, guard)]
        step = max(1, PAIRS // len(right))
        for first in range(1, len(left), step):
            one, two = left[first : first + step, None, :], right[None, 1:, :]
            alpha = np.minimum(one[..., 2], one[..., 4] + two[..., 2] - guard)
            beta = np.minimum(two[..., 3], one[..., 3] + two[..., 4] - guard)
            count, total = one[..., 0] + two[..., 0], one[..., 1] + two[..., 1]
            fits = (one[..., 3] + two[..., 2] >= guard) & (alpha >= 0) & (beta >= 0) & (count <= self.where.most)
            pairs = np.stack([count, total, alpha, beta, one[..., 4] + two[..., 4] - guard], axis=-1)[fits]
            found.append(_best(_capped(pairs, guard), self._scarce))
        return _best(np.concatenate(found), self._scarce)


def _capped(plans: NDArray[np.int64], guard: int) -> NDArray[np.int64]:
    """The plans with bounds no higher than any neighbour asks for, who never has to keep away further than `guard`."""
    highest = np.array([np.iinfo(np.int64).max] * 2 + [guard, guard, 2 * guard])
    capped: NDArray[np.int64] = np.minimum(plans, highest)
    return capped


def _best(plans: NDArray[np.int64], scarce: bool) -> NDArray[np.int64]:
    """The plans, best sum first, that no other one beats; an empty one stays, and is the first.

    If `scarce`, rounds that a client has left are worth something, so that only plans of equally many compete.
    """
    empty, plans = plans[plans[:, 0] == 0][:1], plans[plans[:, 0] > 0]
    plans = plans[np.lexsort(-plans.T[[4, 3, 2, 0, 1]])]
    kept = [empty]
    while len(plans) > 0:
        best = plans[0]
        kept.append(best[None])
        plans = plans[(plans > best).any(axis=1) | (scarce & (plans[:, 0] != best[0]))]
    return np.concatenate(kept)
