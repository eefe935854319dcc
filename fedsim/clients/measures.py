"""Measurements of clients that have trained: report columns that some combine rules need, and a divergence check."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fedsim.clients.optimizers import SGD
from fedsim.clients.report import Report
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import Trainer
from fedsim.data.dataset import IGNORE
from fedsim.data.population import Population, Samples
from fedsim.errors import Diverged

if TYPE_CHECKING:
    from torch import Tensor


def add_measures(
    report: Report,
    needs: Collection[str],
    task: LocalTask,
    trainer: Trainer,
    anchor: Tensor,
    clients: Tensor,
    round_number: int,
) -> Report:
    """Return the report with the columns that a combine rule needs filled in.

    Args:
        report: the report of `clients` ``[C]``.
        needs: names of report columns; others are left as they are.
        task: what the clients train.
        trainer: the engine.
        anchor: the models that they started from, ``[P]`` or ``[C, P]``.
        clients: ``[C]`` int64.
        round_number: 1, 2, ...
    """
    if "start_loss" in needs:
        report = replace(report, start_loss=training_loss(task, trainer, anchor, clients))
    if "lr" in needs:
        report = replace(report, lr=torch.full((len(clients),), task.lr(round_number), dtype=torch.float64))
    if "coefficient_norm" in needs:
        report = replace(report, coefficient_norm=coefficient_norms(task, report.local_steps, round_number))
    if "num_tokens" in needs:
        report = replace(report, num_tokens=count_tokens(task.population.train, clients))
    return report


def count_tokens(samples: Samples, clients: Tensor) -> Tensor:
    """``[C]`` int64 on the CPU, how many targets count among the samples of `clients` ``[C]``."""
    bounds = zip(samples.offsets[:-1][clients].tolist(), samples.offsets[1:][clients].tolist(), strict=True)
    return torch.tensor([int((samples.targets[first:last] != IGNORE).sum()) for first, last in bounds])


def training_loss(task: LocalTask, trainer: Trainer, anchor: Tensor, clients: Tensor) -> Tensor:
    """Mean loss ``[C]`` float64 of `anchor` (``[P]`` or ``[C, P]``) on each client's own training samples."""
    sums = trainer.score_clients(anchor.expand(len(clients), -1), clients, task.population.train)
    positions = task.positions(task.population.train.sizes[clients])
    return sums.loss / (sums.count if positions is None else positions)


def coefficient_norms(task: LocalTask, steps: Tensor, round_number: int) -> Tensor:
    """``|a_k|_1`` ``[C]`` float64 of clients that take `steps` ``[C]`` (FedNova, Wang 2020, section 4).

    With SGD, ``delta_k = -lr * sum_j a_kj g_j`` over the gradients g_j of the client's minibatches (weight decay is
    part of them). How much of one gradient has arrived j steps later, ``h_j``, follows from giving the optimizer a
    single gradient of 1 and zeros after it: momentum carries it on, and the proximal term pulls back. The coefficients
    of a client with tau steps are ``h_(tau-1), ..., h_0``: all 1 for plain SGD, ``(1 - rho^(j+1)) / (1 - rho)`` with
    momentum rho, ``(1 - lr * mu)^j`` with the proximal term.
    """
    optimizer = task.config.optimizer
    assert isinstance(optimizer, SGD), "checked before the run"
    pull = task.lr(round_number) * task.correction.pull
    norms, velocity, arrived, total = [0.0], 0.0, 0.0, 0.0
    for step in range(int(steps.max())):
        gradient = (1.0 if step == 0 else 0.0) - pull * arrived
        velocity = optimizer.momentum * velocity + gradient
        arrived += gradient + optimizer.momentum * velocity if optimizer.nesterov else velocity
        total += abs(arrived)
        norms.append(total)
    return torch.tensor(norms, dtype=torch.float64)[steps]


def refuse_diverged(population: Population, deltas: Tensor, report: Report, clients: Tensor, round_number: int) -> None:
    """Raise `Diverged` naming the first of `clients` ``[c]`` whose loss or delta ``[c, P]`` is not finite."""
    if math.isfinite(float(deltas.sum())) and math.isfinite(float(report.train_loss.sum())):
        return  # a sum is not finite if any term is not, and is much cheaper than a look at every number
    broken = ~(torch.isfinite(report.train_loss) & torch.isfinite(deltas).all(1).cpu())
    if bool(broken.any()):
        name = population.client_names[int(clients[broken][0])]
        others = f" (and of {int(broken.sum()) - 1} more of {len(clients)})" if int(broken.sum()) > 1 else ""
        raise Diverged(f"round {round_number}: the local model of client {name!r}{others} is no longer finite")
