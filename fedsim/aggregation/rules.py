"""The interface of combine rules, and how one is applied to a cohort that arrives in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch

from fedsim.clients.report import Report
from fedsim.core.cohort import BLOCK, Update
from fedsim.core.results import Metrics
from fedsim.parallel.division import Division

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class WeightedSum:
    """A running ``sum(weight * delta)`` ``[P]`` and ``sum(weight)``, in float64."""

    total: Tensor
    weight: float = 0.0

    def add(self, deltas: Tensor, weights: Tensor) -> None:
        """Add deltas ``[C, P]`` with weights ``[C]``."""
        weights = weights.to(device=deltas.device, dtype=torch.float64)
        self.total += weights @ deltas.double()  # blocks of a cohort are float64 already
        self.weight += float(weights.sum())


@runtime_checkable
class StreamingRule(Protocol):
    """A rule that sees clients in blocks and never holds the cohort.

    The state that `start` returns begins at zero and holds nothing but sums over clients: numbers, tensors, and tuples,
    lists and dataclasses of them. If several processes divide a cohort, each adds its own clients to a state, and then
    the states are added up.
    """

    def start(self, like: Tensor) -> Any:
        """Return the state of a round, which `add` changes, such as a `WeightedSum`; `like` is a row ``[P]``."""
        ...

    def add(self, state: Any, deltas: Tensor, report: Report) -> None:
        """Add a block of deltas ``[C, P]`` float64 to the state, in cohort order."""
        ...

    def finish(self, state: Any) -> Tensor:
        """Return the combined delta ``[P]``, float64."""
        ...


@runtime_checkable
class CohortRule(Protocol):
    """A rule that must see every row at once (medians, distances).

    Of an attacked cohort it gets the rows that are finite, which may be fewer than its ``check`` allows for.
    """

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the combined delta ``[P]`` of deltas ``[C, P]``."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A rule that treats each parameter of the model on its own, and has to know where it lies."""

    def on_layers(self, layers: Mapping[str, slice]) -> Combine:
        """Return the rule that runs, given where each aggregated parameter lies in a delta, by name."""
        ...


Combine = StreamingRule | CohortRule
"""A combine rule. It may also have class variables `needs` (names of report columns that are computed only on request;
those that its own settings ask for are what a method ``conditional_needs()`` returns) and `facts`
(`fedsim.core.facts`; without them it is assumed to read everything), and a method ``check(setting)``, which raises
`UserError` if the rule cannot work or has an option without effect (`fedsim.core.setting.Setting`). A streaming rule
with ``without_rows = True`` is asked for a result even if no row is left. See `Layered` for one that treats each
parameter of the model on its own.
"""


def needs_of(rule: Any) -> tuple[str, ...]:
    """Names of the report columns that are computed only because this rule asks for them."""
    return (*getattr(rule, "needs", ()), *getattr(rule, "conditional_needs", tuple[str, ...])())


@dataclass
class Spread:
    """Running sums from which ``client_drift`` is computed once the combined delta is known."""

    total: Tensor
    squares: float = 0.0
    count: int = 0

    def add(self, deltas: Tensor) -> None:
        """Add a block of deltas ``[C, P]`` float64."""
        flat = deltas.reshape(-1)
        self.total += deltas.sum(0)
        self.squares += dot(flat, flat)
        self.count += len(deltas)

    def drift(self, combined: Tensor) -> float:
        """Root mean square distance of the deltas, of which there is at least one, from `combined` ``[P]``.

        ``mean |d_i - m|^2 = mean |d_i|^2 - 2 mean(d_i).m + |m|^2`` needs no second pass over the deltas. A result
        below the rounding error of these sums (and of a float32 mean) counts as zero, so that equal deltas have no
        drift. It is infinite if a delta is not finite, or too long for a float64 square.
        """
        combined = combined.double()
        mean_norm = self.squares / self.count
        mean_square = mean_norm - 2 * dot(self.total, combined) / self.count + dot(combined, combined)
        if not math.isfinite(mean_square):
            return math.inf
        return mean_square**0.5 if mean_square > 1e-14 * mean_norm else 0.0


def dot(one: Tensor, other: Tensor) -> float:
    """The product of two vectors ``[n]``, summed by one thread: several would add in an order that depends on them."""
    threads = torch.get_num_threads()
    if threads == 1:
        return float(one @ other)
    torch.set_num_threads(1)
    try:
        return float(one @ other)
    finally:
        torch.set_num_threads(threads)


class Combined(NamedTuple):
    """A cohort's deltas, combined.

    Attributes:
        delta: the combined delta ``[n]``, in the dtype of the global row.
        spread: of the deltas, for their distance from `delta`.
    """

    delta: Tensor
    spread: Spread


def combine_chunks(
    rule: Combine, like: Tensor, chunks: Iterable[tuple[Tensor, Report]], division: Division | None = None
) -> Combined | None:
    """Apply a rule to the chunks of a cohort.

    Args:
        rule: the combine rule.
        like: a row ``[n]``, for shape, dtype and device.
        chunks: ``(deltas [c, n], report)`` in cohort order.
        division: the division of the cohort that the chunks cover; None is all of it.

    Returns:
        None if all rows were rejected (`Report.finite`) and the rule makes nothing out of no rows.
    """
    zeros = torch.zeros_like(like, dtype=torch.float64)
    spread, division = Spread(zeros.clone()), division or Division()
    if isinstance(rule, StreamingRule):
        state = rule.start(like)

        def add_chunks() -> None:
            for deltas, report in chunks:
                for block, part in _blocks(*_finite(deltas, report)):
                    spread.add(block)
                    rule.add(state, block, part)

        state, spread = division.summed((state, spread), add_chunks)
        if spread.count == 0 and not getattr(rule, "without_rows", False):
            return None
        combined = rule.finish(state)
    else:
        with division.together():
            held = list(chunks)
        held = [_finite(deltas, report) for deltas, report in _of_all(division, held)]
        for deltas, report in held:
            for block, _ in _blocks(deltas, report):
                spread.add(block)
        if spread.count == 0:
            return None
        combined = rule.combine(torch.cat([d for d, _ in held]), concatenate_reports([r for _, r in held]))
    return Combined(combined.to(like.dtype), spread)


def combine(rule: Combine | None, like: Tensor, updates: Iterable[Update], division: Division) -> Combined | None:
    """Apply a rule to the updates that reach the server; with None, clients still train, but nothing is combined."""
    if rule is None:
        division.exhaust(iter(updates))
        return None
    return combine_chunks(rule, like, ((update.rows, update.report) for update in updates), division)


def mean_losses(report: Report) -> Metrics:
    """Sample-weighted means of the clients' losses over the whole cohort, in float64.

    Losses that are not finite, which only go on where such rows count as zero, are left out; None if all are.
    """
    samples = report.num_samples.double()

    def mean(losses: Tensor) -> float | None:
        finite = torch.isfinite(losses)
        weights = samples[finite]
        return float((losses[finite] * weights).sum() / weights.sum()) if len(weights) else None

    losses: Metrics = {"train_loss": mean(report.train_loss)}
    return losses | ({} if report.validation_loss is None else {"local_validation_loss": mean(report.validation_loss)})


def _blocks(deltas: Tensor, report: Report) -> Iterator[tuple[Tensor, Report]]:
    """Cut a chunk into float64 blocks of `BLOCK` rows, each with its part of the report."""
    for first in range(0, len(deltas), BLOCK):
        rows = slice(first, first + BLOCK)
        yield deltas[rows].double(), part_of(report, rows)


def _finite(deltas: Tensor, report: Report) -> tuple[Tensor, Report]:
    """The rows of a chunk that are finite, with their part of the report."""
    if report.finite is None or bool(report.finite.all()):
        return deltas, report
    return deltas[report.finite.to(deltas.device)], part_of(report, report.finite)


def _columns(report: Report) -> dict[str, Tensor | None]:
    return {name: getattr(report, name) for name in Report.__dataclass_fields__}


def _of_all(division: Division, held: list[tuple[Tensor, Report]]) -> list[tuple[Tensor, Report]]:
    """The chunks of all processes as one, in cohort order."""
    if division.world.size == 1:
        return held
    reports = whole_reports(division, [report for _, report in held])
    whole = division.whole({"deltas": torch.cat([deltas for deltas, _ in held])} if held else {})
    return [(whole["deltas"], report) for report in reports]


def whole_reports(division: Division, reports: list[Report]) -> list[Report]:
    """Gather the reports of all clients, in cohort order, from the reports that each process has."""
    if division.world.size == 1:
        return reports
    whole = division.whole(columns_of(reports))
    return [Report(**whole)] if whole else []


def columns_of(reports: list[Report]) -> dict[str, Tensor]:
    """The columns that the reports of chunks have, each joined; none if there is no report."""
    own = _columns(concatenate_reports(reports)) if reports else {}
    return {name: values for name, values in own.items() if values is not None}


def part_of(report: Report, which: Tensor | slice) -> Report:
    """The report of some of the clients, in that order."""
    columns = {name: None if values is None else values[which] for name, values in _columns(report).items()}
    return Report(**columns)  # type: ignore[arg-type]  # the first three are never None


def concatenate_reports(reports: list[Report]) -> Report:
    """Join the reports of chunks."""

    def join(name: str) -> Tensor | None:
        parts = [getattr(report, name) for report in reports]
        return None if parts[0] is None else torch.cat(parts)

    columns = {name: join(name) for name in Report.__dataclass_fields__}
    return Report(**columns)  # type: ignore[arg-type]  # the first three are never None
