"""Secure aggregation: the server sees sums of clients' rows and no single one (Bonawitz 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.clients.report import Report
from fedsim.core.cohort import Traffic
from fedsim.core.facts import Fact, Facts, facts_of
from fedsim.core.names import option_name
from fedsim.core.part import Bound, Privacy, Round
from fedsim.core.results import Metrics
from fedsim.core.state import State
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between
from fedsim.links.packing import packed_size
from fedsim.metrics import COLUMNS, Column
from fedsim.privacy.masking import Masking, agree

CLIPPED, ABORTED = "privacy.clipped", "privacy.aborted"
"""What a round notes: numbers beyond the range, and whether it was aborted."""

KEY, SHARE = 32, 32
"""Bytes of a public key and of an encrypted share of a seed (256 bits each, Bonawitz 2017, section 7)."""


@dataclass(frozen=True)
class FixedPoint:
    """Numbers as whole ones, so small that the sum over the largest cohort fits.

    Attributes:
        clip: the largest magnitude that a number keeps.
        levels: Q, the whole number that stands for `clip`; one step is ``clip / levels``.
        heaviest: the largest weight of any client; None where all weigh the same.
    """

    clip: float
    levels: int
    heaviest: float | None

    def encode(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """``round(clipped row / clip * U)`` with ``U = round(Q * weight / heaviest)``; U itself comes last.

        Args:
            rows: ``[c, n]`` float64.
            weights: ``[c]``, or None where all weigh the same: U is Q then, and need not be sent.

        Returns:
            ``[c, n]`` int64, or ``[c, n + 1]`` with weights.
        """
        parts = rows.clamp(-self.clip, self.clip) / self.clip
        if weights is None:
            return (parts * self.levels).round().long()
        assert self.heaviest is not None
        shares = (weights.to(rows) / self.heaviest * self.levels).round()[:, None]
        return torch.cat([parts * shares, shares], dim=1).round().long()

    def decode(self, total: Tensor, count: int) -> Tensor:
        """The weighted mean ``[n]`` float64 of `count` clients' rows, from the sum of what they encoded."""
        if self.heaviest is None:
            return total.double() * (self.clip / (self.levels * count))
        return total[:-1].double() * (self.clip / float(total[-1]))


@dataclass
class MaskedSum:
    """What the server has of a round so far.

    Attributes:
        total: ``[n]`` int64, the sum of masked rows.
        count: of rows.
        clipped: numbers beyond the range; the simulator sees that, no server would.
    """

    total: Tensor
    count: int = 0
    clipped: int = 0


@dataclass(frozen=True)
class SecureMean:
    """The mean of one round, weighted or not, from masked rows.

    Attributes:
        masking: what the clients agreed on.
        arriving: ``[C]`` positions among those asked, of the clients whose rows will come.
        own: ``[c]`` positions of those of them whose rows `add` gets, in that order.
        numbers: how clients write their rows.
        weigh: gives the weights ``[c]`` of clients, or None where all weigh the same.
        notes: where the count of clipped numbers goes.
    """

    masking: Masking
    arriving: Tensor
    own: Tensor
    numbers: FixedPoint
    weigh: Callable[[Report], Tensor] | None
    notes: dict[str, Any]

    def start(self, like: Tensor) -> MaskedSum:
        """Zeros ``[n]``, and one more number for the sum of weights."""
        return MaskedSum(like.new_zeros(len(like) + (self.weigh is not None), dtype=torch.int64))

    def add(self, state: MaskedSum, deltas: Tensor, report: Report) -> None:
        """The next clients encode and mask their rows ``[c, n]``; the server adds them."""
        weights = None if self.weigh is None else self.weigh(report)
        positions = self.own[state.count : state.count + len(deltas)]
        state.total += self.masking.masked(self.numbers.encode(deltas, weights), positions).sum(0)
        state.count += len(deltas)
        state.clipped += int((deltas.abs() > self.numbers.clip).sum())

    def finish(self, state: MaskedSum) -> Tensor:
        """Take the masks off the sum and read the mean ``[n]``."""
        arrived = torch.zeros(len(self.masking.asked), dtype=torch.bool)
        arrived[self.arriving] = True
        self.notes[CLIPPED] = state.clipped
        return self.numbers.decode(self.masking.unmasked(state.total, arrived), state.count)


def weights_of(combine: Any) -> Callable[[Report], Tensor] | None:
    """How a weighted mean weighs clients ``[c]``, or None for a rule that needs nothing of them but their rows."""
    if Fact.READS_REPORT not in facts_of("aggregator/combine", combine):
        return None
    weigh: Callable[[Report], Tensor] | None = getattr(combine, "weights", None)
    if weigh is None:
        raise UserError(
            f"privacy=secure_aggregation: aggregator/combine={option_name(combine)} has no method weights(report), by "
            "which clients would weigh their own rows; take aggregator/combine=mean or weighted"
        )
    return weigh


@dataclass(frozen=True, kw_only=True)
class SecureAggregation(Privacy):
    """Clients mask their rows in pairs, so that the server sees their sum alone (Bonawitz 2017, Figure 4; simulated).

    A row is clipped number by number to ``[-clip, clip]`` and written in whole steps of
    ``clip / floor((2^(bits-1) - 1) / C)``, where C is the largest cohort: no sum can wrap. With ``combine=weighted``
    each client multiplies by its samples over those of the largest client, and sends this weight with its row, under
    the same mask. The mean of the rows is exact to half a step (weighted: to 1.5 steps over the mean of these
    weights). Clients whose rows do not arrive are no harm as long as enough of those that hold shares of their seeds
    are left; otherwise the round is aborted: the column ``aborted`` is 1, and the model stays as it is.

    It hides rows from the server and gives no differential privacy: a sum can tell much about one client, and the sum
    of two tells each of them the other. The columns ``clipped_values`` (numbers beyond the range), ``client_drift``
    and the losses are what the simulator sees, and no server would.

    Attributes:
        bits: k, of each number that is sent; sums are modulo ``2^k``.
        clip: the largest magnitude of a number in a delta.
        neighbours: clients with whom each shares masks and seeds, an even number (Bell 2020); None is all of the
            cohort.
        threshold: the share of those who hold a client's seeds of whom more must be left to put them together.
    """

    bits: int = 32
    clip: float = 4.0
    neighbours: int | None = None
    threshold: float = 0.5

    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["clipped_values"], COLUMNS["aborted"])
    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.HIDES_ROWS})

    def __post_init__(self) -> None:
        check_between(self, 2, 53, "bits")  # so that numbers are whole in float64 too
        check_above(self, 0, "clip", "threshold")
        check_between(self, 0, 1, "threshold", open_high=True)
        check_at_least(self, 2, "neighbours")
        if self.neighbours is not None and self.neighbours % 2:
            raise FieldError("neighbours", self.neighbours, "must be even: as many on one side of a ring as the other")

    def numbers(self, combine: Any, sizes: Tensor, largest: int) -> FixedPoint:
        """How clients write their rows.

        Args:
            combine: the aggregator's rule: a mean, or a weighted mean by samples.
            sizes: ``[N]`` int64 training samples of each client.
            largest: clients of the largest cohort.

        Raises:
            UserError: for cohorts of one client, or if the numbers have too few bits.
        """
        if largest < 2:
            raise UserError("privacy=secure_aggregation: the sum of one client's rows is that row; take larger cohorts")
        if self.neighbours is not None and self.neighbours >= largest - 1:
            raise UserError(
                f"privacy.neighbours={self.neighbours}: in cohorts of {largest} each client shares masks with all "
                "others; take fewer, or privacy.neighbours=null"
            )
        heaviest, ratio = None, 1.0
        if (weigh := weights_of(combine)) is not None:
            weights = weigh(Report(sizes, torch.zeros_like(sizes), torch.zeros(len(sizes))))
            heaviest = float(weights.max())
            ratio = heaviest / float(weights.min())
        levels = ((1 << (self.bits - 1)) - 1) // largest
        if levels < ratio:
            needed = math.ceil(math.log2(largest * math.ceil(ratio) + 1)) + 1
            raise UserError(
                f"privacy.bits={self.bits}: too few for sums of {largest} clients"
                + (f" of which one weighs {ratio:.4g} times another" if ratio > 1 else "")
                + f"; take at least {needed}"
            )
        return FixedPoint(self.clip, levels, heaviest)

    def bind(self, bound: Bound) -> SecureAggregationInRun:
        """Choose the numbers."""
        sizes = bound.population.train.sizes
        numbers = self.numbers(bound.combine, sizes, bound.sampler.limits(len(sizes))[1])
        weigh = weights_of(bound.combine)
        row_bytes = packed_size(bound.blocks.size + (weigh is not None), self.bits)
        return SecureAggregationInRun(self, bound.seed, numbers, weigh, row_bytes)

    def masking(self, asked: Tensor, seed: int, round_number: int) -> Masking:
        """What the clients `asked` ``[A]`` agree on in a round, before anything is sent."""
        return agree(asked.cpu(), self.neighbours, self.bits, seed, round_number)

    def partners(self, asked: int) -> int:
        """With how many others each of `asked` clients shares masks."""
        return max(0, asked - 1) if self.neighbours is None else min(self.neighbours, max(0, asked - 1))


@dataclass(frozen=True)
class SecureAggregationInRun(Privacy):
    """Secure aggregation of rows whose numbers are chosen.

    Attributes:
        settings: of the protocol.
        seed: of the run.
        numbers: how clients write their rows.
        weigh: gives the weights ``[c]`` of clients, or None where all weigh the same.
        row_bytes: of a masked row, and of the weight that goes with it.
    """

    settings: SecureAggregation
    seed: int
    numbers: FixedPoint
    weigh: Callable[[Report], Tensor] | None
    row_bytes: int

    def rule(self, combine: Any, round: Round) -> SecureMean | None:
        """The mean from masked rows; None if the round is aborted, or if nobody was asked."""
        asked, arriving = round.cohort.informed, round.cohort.clients
        if len(asked) == 0:
            return None
        masking = self.settings.masking(asked, self.seed, round.number)
        if not masking.recoverable(torch.isin(asked, arriving), self.settings.threshold):
            round.notes[ABORTED] = 1
            return None
        places = {client: place for place, client in enumerate(asked.tolist())}
        at_all, at_own = (torch.tensor([places[c] for c in each.tolist()]) for each in (arriving, round.own.clients))
        return SecureMean(masking, at_all, at_own, self.numbers, self.weigh, round.notes)

    def measure(self, round: Round) -> Metrics:
        """Numbers beyond the range, and whether the round was aborted."""
        return {"clipped_values": round.notes.get(CLIPPED, 0), "aborted": round.notes.get(ABORTED, 0)}

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Keys, shares, and a masked row in the place of the row as it is.

        Together ``2 n a_K + (5 n - 4) a_S`` as in Bonawitz 2017, section 7.1, with n - 1 partners each.
        """
        partners = self.settings.partners(len(clients))
        return traffic._replace(
            down=traffic.down + partners * 2 * KEY + partners * 2 * SHARE,
            before=traffic.before + 2 * KEY + partners * 2 * SHARE,
            row=self.row_bytes,
            after=traffic.after + (partners + 1) * SHARE,
        )

    def introduce(self) -> list[str]:
        """The numbers in one line."""
        step = self.numbers.clip / self.numbers.levels
        return [f"secure aggregation: sums modulo 2^{self.settings.bits} of numbers in steps of {step:.2g}"]
