"""Secure aggregation: the server sees only sums of clients' rows (Bonawitz 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

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

if TYPE_CHECKING:
    from torch import Tensor

CLIPPED, ABORTED = "privacy.clipped", "privacy.aborted"
"""Names of the round's notes: how many values were clipped, and whether the round was aborted."""

KEY, SHARE = 32, 32
"""Bytes of a public key and of an encrypted share of a seed (256 bits each, Bonawitz 2017, section 7)."""


@dataclass(frozen=True)
class FixedPoint:
    """Values as integers, small enough for the sum over the largest cohort to fit.

    Attributes:
        clip: the magnitude to which larger values are clipped.
        levels: Q, the integer that represents `clip`; one step is ``clip / levels``.
        heaviest: the largest weight of any client; None if all have the same weight.
    """

    clip: float
    levels: int
    heaviest: float | None

    def encode(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """``round(clipped row / clip * U)`` with ``U = round(Q * weight / heaviest)``; U itself comes last.

        Args:
            rows: ``[c, n]`` float64; infinite values are clipped like any other, and what is no number becomes 0.
            weights: ``[c]``, or None if all are the same: then U is Q, and need not be sent.

        Returns:
            ``[c, n]`` int64, or ``[c, n + 1]`` with weights.
        """
        parts = rows.clamp(-self.clip, self.clip).nan_to_num(nan=0.0) / self.clip
        if weights is None:
            return (parts * self.levels).round().long()
        assert self.heaviest is not None
        shares = (weights.to(rows) / self.heaviest * self.levels).round()[:, None]
        return torch.cat([parts * shares, shares], dim=1).round().long()

    def decode(self, total: Tensor, count: int) -> Tensor:
        """Return the weighted mean ``[n]`` float64 of `count` clients' rows, given the sum of the encoded rows."""
        if self.heaviest is None:
            return total.double() * (self.clip / (self.levels * count))
        return total[:-1].double() * (self.clip / float(total[-1]))


@dataclass
class MaskedSum:
    """What the server has of a round so far.

    Attributes:
        total: ``[n]`` int64, the sum of masked rows.
        count: the number of rows in it.
        clipped: how many values were clipped; only the simulator knows this, a real server could not.
    """

    total: Tensor
    count: int = 0
    clipped: int = 0


@dataclass(frozen=True)
class SecureMean:
    """The mean of one round, weighted or not, from masked rows.

    Attributes:
        masking: what the clients agreed on.
        arriving: ``[C]``, positions among the asked clients of those whose rows will arrive.
        own: ``[c]``, positions among the asked clients of those whose rows `add` gets, in that order.
        numbers: how clients encode their rows.
        weigh: returns the weights ``[c]`` of clients; None if all have the same weight.
        notes: where the count of clipped values is stored.
    """

    masking: Masking
    arriving: Tensor
    own: Tensor
    numbers: FixedPoint
    weigh: Callable[[Report], Tensor] | None
    notes: dict[str, Any]

    def start(self, like: Tensor) -> MaskedSum:
        """Return a sum of zeros ``[n]``, with one more entry for the sum of weights if there are any."""
        return MaskedSum(like.new_zeros(len(like) + (self.weigh is not None), dtype=torch.int64))

    def add(self, state: MaskedSum, deltas: Tensor, report: Report) -> None:
        """Encode and mask the rows ``[c, n]`` of the next clients, and add them to the sum."""
        weights = None if self.weigh is None else self.weigh(report)
        positions = self.own[state.count : state.count + len(deltas)]
        state.total += self.masking.masked(self.numbers.encode(deltas, weights), positions).sum(0)
        state.count += len(deltas)
        state.clipped += int((deltas.abs() > self.numbers.clip).sum())

    def finish(self, state: MaskedSum) -> Tensor:
        """Remove the masks from the sum, and return the mean ``[n]``."""
        arrived = torch.zeros(len(self.masking.asked), dtype=torch.bool)
        arrived[self.arriving] = True
        self.notes[CLIPPED] = state.clipped
        return self.numbers.decode(self.masking.unmasked(state.total, arrived), state.count)


def weights_of(combine: Any) -> Callable[[Report], Tensor] | None:
    """Return the function that weighs clients ``[c]``, or None for a rule that needs nothing but their rows."""
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
    """Clients mask their rows in pairs, so that the server sees only their sum (Bonawitz 2017, Figure 4; simulated).

    Each value of a row is clipped to ``[-clip, clip]`` and rounded to steps of
    ``clip / floor((2^(bits-1) - 1) / C)``, where C is the largest cohort: no sum can wrap. With ``combine=weighted``
    each client multiplies its row by its samples over those of the largest client, and sends this weight with its row,
    under the same mask. The mean of the rows is exact to half a step (weighted: to 1.5 steps over the mean of these
    weights). Missing rows do no harm as long as enough of the clients that hold shares of the missing clients' seeds
    remain, and with `neighbours` as long as pairs still tie all rows together; otherwise the round is aborted: the
    column ``aborted`` is 1, and the model does not change.

    This hides rows from the server but gives no differential privacy: a sum can reveal much about one client, and the
    sum of two rows reveals each to the other client. The columns ``clipped_values`` (how many values were clipped),
    ``client_drift`` and the losses are visible to the simulator only; a real server could not know them.

    Attributes:
        bits: k, the bits of each value that is sent; sums are modulo ``2^k``.
        clip: the largest magnitude of a value in a delta.
        neighbours: how many clients each one shares masks and seeds with, an even number (Bell 2020); None is the whole
            cohort.
        threshold: a client's seeds can be reconstructed only if more than this share of their holders remains; at
            least one over the number of holders, so that no single one can do it.
    """

    bits: int = 32
    clip: float = 4.0
    neighbours: int | None = None
    threshold: float = 0.5

    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["clipped_values"], COLUMNS["aborted"])
    facts: ClassVar[Facts] = frozenset({Fact.EXCHANGES, Fact.HIDES_ROWS})

    def __post_init__(self) -> None:
        check_between(self, 2, 53, "bits")  # so that float64 represents the integers exactly, too
        check_above(self, 0, "clip", "threshold")
        check_between(self, 0, 1, "threshold", open_high=True)
        check_at_least(self, 2, "neighbours")
        if self.neighbours is not None and self.neighbours % 2:
            raise FieldError("neighbours", self.neighbours, "must be even: as many on one side of a ring as the other")

    def numbers(self, combine: Any, sizes: Tensor, largest: int) -> FixedPoint:
        """Return how clients encode their rows.

        Args:
            combine: the aggregator's rule: a mean, or a weighted mean by samples.
            sizes: ``[N]`` int64 training samples of each client.
            largest: size of the largest cohort.

        Raises:
            UserError: if cohorts have a single client, a single share opens a secret, or `bits` is too small.
        """
        if largest < 2:
            raise UserError("privacy=secure_aggregation: the sum of one client's rows is that row; take larger cohorts")
        if self.neighbours is not None and self.neighbours >= largest - 1:
            raise UserError(
                f"privacy.neighbours={self.neighbours}: in cohorts of {largest} each client shares masks with all "
                "others; take fewer, or privacy.neighbours=null"
            )
        holders = largest if self.neighbours is None else self.neighbours + 1
        if self.threshold * holders < 1:
            raise UserError(
                f"privacy.threshold={self.threshold:g}: each secret has {holders} shares, and a single one of them "
                f"would open it; take at least {math.ceil(1e3 / holders) / 1e3:g}"
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
        """Choose the encoding for the run's largest cohort and weights."""
        sizes = bound.population.train.sizes
        numbers = self.numbers(bound.combine, sizes, bound.sampler.limits(len(sizes))[1])
        weigh = weights_of(bound.combine)
        row_bytes = packed_size(bound.blocks.size + (weigh is not None), self.bits)
        return SecureAggregationInRun(self, bound.seed, numbers, weigh, row_bytes)

    def masking(self, asked: Tensor, seed: int, round_number: int) -> Masking:
        """Return the masks that the clients `asked` ``[A]`` agree on in a round, before any row is sent."""
        return agree(asked.cpu(), self.neighbours, self.bits, seed, round_number)

    def partners(self, asked: int) -> int:
        """Return how many other clients each of `asked` clients shares masks with."""
        return max(0, asked - 1) if self.neighbours is None else min(self.neighbours, max(0, asked - 1))


@dataclass(frozen=True)
class SecureAggregationInRun(Privacy):
    """Secure aggregation, bound to a run.

    Attributes:
        settings: the settings of the protocol.
        seed: the run's seed.
        numbers: how clients encode their rows.
        weigh: returns the weights ``[c]`` of clients; None if all have the same weight.
        row_bytes: bytes of a masked row, including the weight sent with it.
    """

    settings: SecureAggregation
    seed: int
    numbers: FixedPoint
    weigh: Callable[[Report], Tensor] | None
    row_bytes: int

    def rule(self, combine: Any, round: Round) -> SecureMean | None:
        """Return the mean of masked rows; None if the round is aborted, or if no client was asked."""
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
        """Return how many values were clipped, and whether the round was aborted."""
        return {"clipped_values": round.notes.get(CLIPPED, 0), "aborted": round.notes.get(ABORTED, 0)}

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Add keys and shares, and replace the bytes of the row by those of a masked row.

        In total ``2 n a_K + (5 n - 4) a_S`` as in Bonawitz 2017, section 7.1, with n - 1 partners each.
        """
        partners = self.settings.partners(len(clients))
        return traffic._replace(
            down=traffic.down + partners * 2 * KEY + partners * 2 * SHARE,
            before=traffic.before + 2 * KEY + partners * 2 * SHARE,
            row=self.row_bytes,
            after=traffic.after + (partners + 1) * SHARE,
        )

    def introduce(self) -> list[str]:
        """Return a line about the encoding."""
        step = self.numbers.clip / self.numbers.levels
        return [f"secure aggregation: sums modulo 2^{self.settings.bits} of numbers in steps of {step:.2g}"]
