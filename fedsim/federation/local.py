"""Local training of a chunk of clients, who may have got their models for different rounds (asynchronous schedules)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.aggregation.rules import concatenate_reports, part_of
from fedsim.clients.measures import add_measures, refuse_diverged
from fedsim.clients.report import Memory, Report
from fedsim.core.cohort import Cohort
from fedsim.core.facts import Fact
from fedsim.core.part import Round
from fedsim.server.screening import count_as_zero

if TYPE_CHECKING:
    from torch import Tensor


def train_chunk(part: Cohort, anchors: Tensor, memory: Memory | None, round: Round) -> tuple[Tensor, Report]:
    """Train clients from `anchors` ``[P]`` or ``[c, P]``; return deltas ``[c, P]``, and reports with all needs."""
    groups = round.federation.schedule.as_given(part, round)
    if not groups:
        return _train(part.clients, part.steps, anchors, memory, round)
    found = [
        _train(part.clients[which], part.steps[which], _of(anchors, which), memory and memory.of(which), given)
        for which, given in groups
    ]
    back = torch.argsort(torch.cat([which for which, _ in groups]))
    report = concatenate_reports([report for _, report in found])
    return torch.cat([deltas for deltas, _ in found])[back], part_of(report, back)


def finite_deltas(deltas: Tensor, report: Report, clients: Tensor, round: Round) -> Tensor:
    """Return the deltas ``[c, P]``, all of which are finite.

    Where an epsilon is stated, those of clients that diverged count as zero, for no client may decide whether the run
    goes on: that would be an output without noise.

    Raises:
        Diverged: if a client's loss or delta is not finite and no epsilon is stated.
    """
    if Fact.ACCOUNTED in round.federation.bound.facts:
        return count_as_zero(deltas, round)[0]
    refuse_diverged(round.federation.population, deltas, report, clients, round.number)
    return deltas


def train_personal(part: Cohort, anchors: Tensor, round: Round) -> None:
    """Train the personal models of clients who got `anchors` ``[P]`` or ``[c, P]`` from the server."""
    personal, groups = round.federation.personal, round.federation.schedule.as_given(part, round)
    for which, given in groups:
        personal.train(_of(anchors, which), part.clients[which], given)
    if not groups:
        personal.train(anchors, part.clients, round)


def _train(
    clients: Tensor, steps: Tensor, anchors: Tensor, memory: Memory | None, round: Round
) -> tuple[Tensor, Report]:
    deltas, report = round.trainer.train(anchors, clients, round.number, round.store, memory, None, steps)
    needs = round.federation.needs
    return deltas, add_measures(report, needs, round.task, round.trainer, anchors, clients, round.number)


def _of(anchors: Tensor, which: Tensor) -> Tensor:
    return anchors if anchors.dim() == 1 else anchors[which]
