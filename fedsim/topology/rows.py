"""What federations with several rows have in common: clients start from different models, and all of them are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from fedsim.aggregation.rules import concatenate_reports, whole_reports
from fedsim.clients.report import Report
from fedsim.core.cohort import Update
from fedsim.core.facts import Fact
from fedsim.core.names import option_name
from fedsim.core.part import Federation, Round
from fedsim.core.setting import Setting
from fedsim.errors import UserError
from fedsim.server.schedules import CONSTANT
from fedsim.server.step import OptimizerStep

if TYPE_CHECKING:
    from torch import Tensor

ROWS = "rows"
"""The entry of the drawer with the models, ``[E, P]``."""

NEXT = "schedule.next"
"""The note of a round with the models that it has made."""


def refuse_one_model(setting: Setting, name: str) -> None:
    """Refuse what works on the one model that all clients get, and server optimizers that step with it.

    Args:
        setting: the settings of the run.
        name: of the schedule, in the config.

    Raises:
        UserError: if some part does.
    """
    facts, where = setting.facts, f"under schedule={name} clients start from different ones"
    if Fact.NO_FEDERATION in facts:
        raise UserError(
            f"{facts[Fact.NO_FEDERATION]}: is no federation, in which schedule={name} would act; take "
            "schedule=synchronous or baseline=none"
        )
    for fact in (Fact.PRIVATE_BLOCKS, Fact.REMEMBERS, Fact.LOSSY_DOWN, Fact.JUDGES_MODEL, Fact.READS_UPDATES):
        if fact in facts:
            raise UserError(
                f"{facts[fact]}: is about one model that all clients get, and {where}; take schedule=synchronous or "
                "switch it off"
            )
    if Fact.ASKS_LOSSES in facts:
        raise UserError(f"{facts[Fact.ASKS_LOSSES]}: asks for losses of one model, and {where}; take another sampler")
    for fact in (Fact.OWN_STEP, Fact.SCALES_STEP):
        if fact in facts:
            raise UserError(
                f"{facts[fact]}: steps with one model, and schedule={name} averages several; take "
                "aggregator/server_optimizer=sgd with aggregator.server_optimizer.lr=1"
            )
    if (other := facts.get(Fact.PERSONAL, f"schedule={name}")) != f"schedule={name}":
        raise UserError(f"{other}: makes personal models from one model, and {where}; take schedule=synchronous")


def refuse_server_schedule(federation: Federation, name: str) -> None:
    """Refuse a learning rate of the server that changes over rounds, since nothing steps with it.

    Raises:
        UserError: if there is one.
    """
    server = federation.server
    if isinstance(server, OptimizerStep) and server.optimizer.schedule != CONSTANT:
        group, option = "aggregator/server_optimizer/schedule", option_name(server.optimizer.schedule)
        raise UserError(
            f"{group}={option}: is about the length of a server's step, and schedule={name} averages models; take "
            f"{group}=constant"
        )


def gathered(updates: Iterator[Update], round: Round) -> tuple[list[Update], Tensor | None, Tensor, Report | None]:
    """Wait for the updates of all clients.

    Returns:
        this process's updates; and of all processes the rows ``[C, P]``, the clients ``[C]`` and their report, where
        rows and report are None if nobody has arrived.
    """
    division = round.division
    with division.together():
        held = list(updates)
    own: dict[str, Tensor] = {}
    if held:
        own = {"clients": torch.cat([u.clients for u in held]), "rows": torch.cat([u.rows for u in held])}
    whole = division.whole(own)
    reports = whole_reports(division, [concatenate_reports([u.report for u in held])] if held else [])
    no_clients = torch.zeros(0, dtype=torch.int64)
    return held, whole.get("rows"), whole.get("clients", no_clients), reports[0] if reports else None
