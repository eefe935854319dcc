"""A client's sequence, reconstructed from its update, which is a single gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from fedsim.audits.audit import UpdateAudit
from fedsim.audits.scores import Floats
from fedsim.clients.optimizers import SGD
from fedsim.clients.task import LocalTask
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.data.batches import Batch, batch_indices, gather
from fedsim.data.population import Samples
from fedsim.errors import UserError, check_at_least, check_between
from fedsim.metrics import COLUMNS, Column
from fedsim.models.recurrent import Architecture

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Known:
    """What the server knows about every feature, ``[D]`` float64 each: mean, standard deviation, minimum, maximum."""

    average: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, kw_only=True)
class Inversion(UpdateAudit):
    """Search for the sequence whose gradient points where the client's update points (Zhu 2019; Geiping 2020, eq. 4).

    One step of SGD on one sequence sends its gradient times ``-lr``. The search minimises one minus the cosine between
    the two, as least squares of unit vectors by a trust region method (`scipy.optimize.least_squares`) rather than Adam
    or L-BFGS, and starts from the average sequence. The server is assumed to know more than a real one would: the label
    (which the gradient of a single sequence reveals, Zhao 2020), the length, and mean, spread and range of every
    feature.

    ``inversion_error`` is the root mean square error of the reconstruction relative to that of the average sequence: 0
    is an exact copy, 1 is no better than without the update. ``inversion_correlation`` is the correlation of the two
    sequences' deviations from the average. Both are empty for an update that arrives as all zeros.

    Attributes:
        prior: weight of the squared deviation from the average, in standard deviations of each feature. It keeps the
            search from fitting noise; 0 suits updates that arrive unchanged.
        iterations: the largest number of gradient comparisons.
    """

    prior: float = 0.0
    iterations: int = 50

    facts: ClassVar[Facts] = frozenset({Fact.READS_UPDATES, Fact.JUDGES_MODEL})
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["inversion_error"], COLUMNS["inversion_correlation"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "prior")
        check_between(self, 1, 100_000, "iterations")

    def check(self, setting: Setting) -> None:
        """Refuse settings under which an update is not the gradient of one sequence."""
        super().check(setting)
        client, name = setting.client, "audit=inversion"
        if client.steps != 1 or client.batch_size != 1:
            settings = "client.epochs=null client.steps=1 client.batch_size=1"
            raise UserError(f"{name}: needs updates that are the gradient of one sequence; take {settings}")
        if not isinstance(client.optimizer, SGD) or client.optimizer.weight_decay > 0:
            raise UserError(f"{name}: a gradient is a step of SGD alone; take client/optimizer=sgd, weight_decay=0")
        if client.keep_optimizer_state and client.optimizer.momentum > 0:
            raise UserError(f"{name}: a kept momentum adds older gradients; set client.keep_optimizer_state=false")
        if setting.dropout > 0:
            raise UserError(f"{name}: does not know what dropout left out; set model.dropout=0")

    def check_clients(self, setting: Setting) -> None:
        """Refuse sequences of tokens."""
        if setting.population is not None and setting.population.vocabulary_size is not None:
            raise UserError("audit=inversion: these data are tokens, and it searches among numbers; take audit=tokens")

    def inspect(
        self, task: LocalTask, sent: Tensor, clients: Tensor, updates: Tensor, round_number: int
    ) -> dict[str, float]:
        """Return both columns, as means over the clients."""
        known, row = what_is_known(task.population.train), sent.double().cpu()
        found = []
        for client, update in zip(clients, updates.double().cpu(), strict=True):
            if not (bool(torch.isfinite(update).all()) and bool(update.any())):
                continue
            batch = _trained(task, client, round_number)
            guess = reconstruct(task.arch, row, -update, batch, known, self.prior, self.iterations)
            found.append(_compare(guess - known.average, batch.inputs[0, 0] - known.average))
        return (
            dict(zip((column.name for column in self.columns), np.mean(found, 0).tolist(), strict=True))
            if found
            else {}
        )


def reconstruct(
    arch: Architecture, row: Tensor, direction: Tensor, batch: Batch, known: Known, prior: float, iterations: int
) -> Tensor:
    """Return the sequence ``[T, D]`` whose gradient is nearest in direction to `direction`.

    Args:
        arch: the model.
        row: ``[P]`` float64 on the CPU, the parameters of the model.
        direction: ``[P]`` float64; entries of exactly zero did not arrive (a sparse link) and are not compared.
        batch: one sequence of one client, of which only length and target are used.
        known: what the server knows about the features.
        prior: weight of the deviation from the average sequence.
        iterations: the largest number of gradient comparisons.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped]  # here because the import is slow

    from fedsim.clients.sequential import batch_loss  # here because torch.nn is slow to import, too
    from fedsim.models.reference import ReferenceModel, load_row

    module = ReferenceModel(arch).double()
    load_row(module, arch, row)
    parameters = module.parameters_in_order()
    arrived = direction != 0
    goal = direction[arrived] / direction.norm()
    shape = batch.inputs.shape[2:]
    count = shape.numel()
    pull = (prior / count) ** 0.5 * torch.eye(count, dtype=row.dtype)

    def gradients(deviation: Floats, graph: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The deviation ``[n]``, and the gradients of the loss with respect to it and to the parameters ``[P]``."""
        z = torch.from_numpy(deviation).requires_grad_()
        x = known.average + known.spread * z.view(shape)
        loss = batch_loss(arch, module(x[None], batch.lengths[0]), batch)
        by_z, *rest = torch.autograd.grad(loss, [z, *parameters], create_graph=graph)
        return z.detach(), by_z, torch.cat([part.flatten() for part in rest])

    def residuals(deviation: Floats) -> Floats:
        """Unit gradient minus unit update, with squared norm ``2 * (1 - cosine)``, and the residuals of the prior."""
        z, _, gradient = gradients(deviation, graph=False)
        return np.asarray(torch.cat([_unit(gradient[arrived])[0] - goal, pull @ z]).numpy())

    def jacobian(deviation: Floats) -> Floats:
        """``[P' + n, n]``: mixed second derivatives of the loss, one backward pass per value of the sequence."""
        _, by_z, gradient = gradients(deviation, graph=True)
        each = torch.eye(count, dtype=by_z.dtype)
        parts = torch.autograd.grad(by_z, parameters, each, is_grads_batched=True, materialize_grads=True)
        mixed = torch.cat([part.flatten(1) for part in parts], 1)[:, arrived].T
        unit, length = _unit(gradient.detach()[arrived])
        return np.asarray(torch.cat([(mixed - unit[:, None] * (unit @ mixed)) / length, pull]).numpy())

    found = least_squares(residuals, np.zeros(count), jacobian, max_nfev=iterations, ftol=1e-10, xtol=1e-10, gtol=None)
    guess = known.average + known.spread * torch.from_numpy(np.asarray(found.x)).view(shape)
    return guess.clamp(known.low, known.high)


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    """The vector scaled to length 1, and its original length."""
    length = vector.norm().clamp(min=1e-300)
    return vector / length, length


def _trained(task: LocalTask, client: Tensor, round_number: int) -> Batch:
    """The one sequence that a client (its number, ``[]``) trains on in a round, float64 on the CPU."""
    one, train = client.reshape(1), task.population.train
    plan = batch_indices(train, one, task.steps(one), task.config.batch_size, task.batch_key(round_number))
    batch = gather(train, next(iter(plan))[0], None)
    targets = batch.targets.double() if batch.targets.is_floating_point() else batch.targets
    return Batch(batch.inputs.double().cpu(), batch.lengths.cpu(), targets.cpu(), None, False)


def what_is_known(train: Samples) -> Known:
    """Statistics of the features of training samples, over their valid steps."""
    inputs = train.take(torch.arange(len(train), device=train.inputs.device)).cpu()
    values = inputs[torch.arange(inputs.shape[1]) < train.lengths[:, None]].double()
    return Known(values.mean(0), values.std(0, correction=0), values.amin(0), values.amax(0))


def _compare(guess: Tensor, truth: Tensor) -> tuple[float, float]:
    """Relative error and correlation of deviations ``[T, D]`` from the average."""
    error, size = float((guess - truth).norm()), float(truth.norm())
    product = float(guess.norm()) * size
    return error / size if size else float(error > 0), float((guess * truth).sum()) / product if product else 0.0
