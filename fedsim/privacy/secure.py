"""Secure aggregation: the server sees sums of clients' rows and no single one (Bonawitz 2017)."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fedsim.aggregation.mean import Mean
from fedsim.aggregation.weighted import Weighted
from fedsim.clients.report import Report
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between
from fedsim.links.packing import packed_size
from fedsim.privacy.budget import Budget
from fedsim.privacy.masking import Masking, agree
from fedsim.samplers.sampler import PowerOfChoice, WeightedBySize

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment

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


@dataclass(frozen=True)
class Traffic:
    """Bytes for one client beside model and row.

    Attributes:
        down: keys of its partners, and shares of their seeds.
        before: that it sends before the row: its own keys, and shares of its own seeds.
        after: that it sends after the row: the shares that take the masks off.
    """

    down: int
    before: int
    after: int


@dataclass
class MaskedSum:
    """What the server has of a round so far.

    Attributes:
        total: ``[n]`` int64, the sum of masked rows.
        row: ``[P]`` zeros, into which the mean goes.
        count: of rows.
        clipped: numbers beyond the range; the simulator sees that, no server would.
    """

    total: Tensor
    row: Tensor
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
        weighted: gives the weights, or None where all weigh the same.
        shared: ``[n]``, the parameters that are sent, or None for all.
        parts: where the count of clipped numbers goes.
    """

    masking: Masking
    arriving: Tensor
    own: Tensor
    numbers: FixedPoint
    weighted: Weighted | None
    shared: Tensor | None
    parts: MutableMapping[str, Tensor]

    def start(self, like: Tensor) -> MaskedSum:
        """Begin a round."""
        count = (len(like) if self.shared is None else len(self.shared)) + (self.weighted is not None)
        return MaskedSum(like.new_zeros(count, dtype=torch.int64), torch.zeros_like(like, dtype=torch.float64))

    def add(self, state: MaskedSum, deltas: Tensor, report: Report) -> None:
        """The next clients encode and mask their rows; the server adds them."""
        rows = deltas if self.shared is None else deltas[:, self.shared]
        weights = None if self.weighted is None else self.weighted.weights(report)
        positions = self.own[state.count : state.count + len(rows)]
        state.total += self.masking.masked(self.numbers.encode(rows, weights), positions).sum(0)
        state.count += len(rows)
        state.clipped += int((rows.abs() > self.numbers.clip).sum())

    def finish(self, state: MaskedSum) -> Tensor:
        """Take the masks off the sum and read it."""
        arrived = torch.zeros(len(self.masking.asked), dtype=torch.bool)
        arrived[self.arriving] = True
        mean = self.numbers.decode(self.masking.unmasked(state.total, arrived), state.count)
        state.row[slice(None) if self.shared is None else self.shared] = mean
        self.parts["privacy.clipped"] = torch.tensor(state.clipped)
        return state.row


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
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

    columns: ClassVar[tuple[str, ...]] = ("clipped_values", "aborted")
    hides_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_between(self, 2, 53, "bits")  # so that numbers are whole in float64 too
        check_above(self, 0, "clip", "threshold")
        check_between(self, 0, 1, "threshold", open_high=True)
        check_at_least(self, 2, "neighbours")
        if self.neighbours is not None and self.neighbours % 2:
            raise FieldError("neighbours", self.neighbours, "must be even: as many on one side of a ring as the other")

    def check(self, experiment: Experiment) -> None:
        """Nothing but the masked row may leave a client, and the server must need nothing but the sum."""
        e, name = experiment, "privacy=secure_aggregation"
        combine, correction = e.aggregator.combine, e.aggregator.correction
        if not isinstance(combine, Mean | Weighted):
            raise UserError(
                f"{name}: the server sees a sum of the rows and no single one, from which the combine rule "
                f"{type(combine).__name__} cannot be made; take aggregator/combine=mean or weighted"
            )
        if isinstance(combine, Weighted) and combine.by != "samples":
            raise UserError(
                f"{name}: weights must have a largest value that is known beforehand, so that they fit into whole "
                f"numbers; aggregator.combine.by={combine.by} has none that is not far off; take "
                "aggregator.combine.by=samples"
            )
        if correction.remembers:
            raise UserError(
                f"{name}: aggregator/correction={type(correction).__name__.lower()} needs more of the clients than a "
                "mean of their deltas; take aggregator/correction=none, prox or sharpness_aware"
            )
        if not e.link.lossless_up:
            raise UserError(
                f"{name}: a masked number takes privacy.bits={self.bits} bits whatever it hides, so that "
                f"link/up={type(e.link.up).__name__.lower()} would lose something and save nothing; take link/up=none"
            )
        if isinstance(e.sampler, PowerOfChoice | WeightedBySize):
            raise UserError(
                f"{name}: sampler={type(e.sampler).__name__} asks clients for losses or sizes, which no mask covers; "
                "take sampler=uniform"
            )

    def budget(self, experiment: Experiment, num_clients: int) -> Budget | None:
        """None: there is no guarantee in terms of differential privacy."""
        return None

    def numbers(self, experiment: Experiment, sizes: Tensor) -> FixedPoint:
        """How clients write their rows, if they have `sizes` ``[N]`` training samples.

        Raises:
            UserError: for cohorts of one client, or if the numbers have too few bits.
        """
        largest = experiment.sampler.limits(len(sizes))[1]
        if largest < 2:
            raise UserError("privacy=secure_aggregation: the sum of one client's rows is that row; take larger cohorts")
        if self.neighbours is not None and self.neighbours >= largest - 1:
            raise UserError(
                f"privacy.neighbours={self.neighbours}: in cohorts of {largest} each shares masks with all "
                "others; take fewer, or privacy.neighbours=null"
            )
        combine, heaviest, ratio = experiment.aggregator.combine, None, 1.0
        if isinstance(combine, Weighted):
            weights = sizes.double() ** combine.power
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

    def describe(self, experiment: Experiment, sizes: Tensor) -> str:
        """One line for the start of a run."""
        step = self.clip / self.numbers(experiment, sizes).levels
        return f"secure aggregation: sums modulo 2^{self.bits} of numbers in steps of {step:.2g}"

    def masking(self, asked: Tensor, seed: int, number: int) -> Masking:
        """What the clients `asked` ``[A]`` agree on in round `number`, before anything is sent."""
        return agree(asked.cpu(), self.neighbours, self.bits, seed, number)

    def traffic(self, asked: int) -> Traffic:
        """What the protocol sends beside the rows in a round of `asked` clients, for each of them.

        Together ``2 n a_K + (5 n - 4) a_S`` as in Bonawitz 2017, section 7.1, with n - 1 partners each.
        """
        partners = max(0, asked - 1) if self.neighbours is None else min(self.neighbours, max(0, asked - 1))
        down = partners * 2 * KEY + partners * 2 * SHARE
        return Traffic(down, 2 * KEY + partners * 2 * SHARE, (partners + 1) * SHARE)

    def row_bytes(self, count: int, combine: object) -> int:
        """Bytes of a masked row of `count` numbers, and of the weight that goes with it."""
        return packed_size(count + isinstance(combine, Weighted), self.bits)
