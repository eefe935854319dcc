"""``engine=sequential``: plain `torch.nn` modules and `torch.optim`, one client at a time.

The reference that the stacked engine is tested against: short and simple rather than fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fedsim.client_store import ClientStore
from fedsim.clients.report import Memory, Report
from fedsim.clients.scores import EVALUATION_BATCH, make_report
from fedsim.clients.step import Step
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import keep_state, starting_state
from fedsim.data.batches import Batch, batch_indices, gather
from fedsim.data.dataset import IGNORE, Task
from fedsim.data.population import Samples
from fedsim.models.constants import constant
from fedsim.models.recurrent import Architecture, DropoutMask
from fedsim.models.reference import ReferenceModel, load_row, read_row
from fedsim.models.scores import TOP, Sums, concatenate, pinball

if TYPE_CHECKING:
    from torch import Tensor

# Our names of optimizer state, and those of torch.optim.
_TORCH_STATE = {"momentum": "momentum_buffer", "mean": "exp_avg", "square": "exp_avg_sq", "steps": "step"}


@dataclass(frozen=True)
class SequentialTrainer:
    """Trains one client after another; see `fedsim.clients.trainer.Trainer`."""

    task: LocalTask

    def train(
        self,
        anchor: Tensor,
        clients: Tensor,
        round_number: int,
        store: ClientStore,
        memory: Memory | None = None,
        start: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> tuple[Tensor, Report]:
        """Train the clients one after another."""
        steps = self.task.steps(clients) if steps is None else steps
        deltas, losses, sums = [], [], []
        validation = self.task.population.local_validation
        for place in range(len(clients)):
            one = slice(place, place + 1)
            sent = anchor if anchor.dim() == 1 else anchor[place]
            begin = sent if start is None else start[place]
            known = None if memory is None else memory.of(one)
            client = clients[one]
            row, loss = self._train_one(sent, begin, client, steps[one], round_number, store, known)
            deltas.append(row - begin)
            losses.append(loss)
            if validation is not None:
                sums.append(self.score_clients(row[None], client, validation))
        total = concatenate(sums) if sums else None
        report = make_report(self.task, clients, steps, torch.tensor(losses, dtype=torch.float64), total)
        return torch.stack(deltas), report

    def _train_one(
        self,
        anchor: Tensor,
        begin: Tensor,
        client: Tensor,
        steps: Tensor,
        round_number: int,
        store: ClientStore,
        memory: Memory | None,
    ) -> tuple[Tensor, float]:
        """Return the local row ``[P]`` of one client (``[1]``) and the mean of its minibatch losses."""
        task = self.task
        module = self._module(begin)
        load_row(module, task.arch, begin)
        parameters = module.parameters_in_order()
        kind, arguments = task.config.optimizer.reference()
        optimizer = kind(parameters, lr=task.lr(round_number), **arguments)
        self._load_state(optimizer, module, anchor, client, store)
        key = task.batch_key(round_number)
        loss_sum, seen = 0.0, 0
        for step, (index, _) in enumerate(
            batch_indices(task.population.train, client, steps, task.config.batch_size, key)
        ):
            batch = gather(task.population.train, index, None)
            dropout = task.dropout(round_number, client, step, anchor)
            loss = self._backward(module, batch, dropout)
            gradient, row = _gradients(module)[None], read_row(module)
            at = partial(self._gradient, batch=batch, dropout=dropout)
            task.correction.correct(
                gradient, Step(row[None], anchor, memory, step, steps, task.arch.layout, task.blocks, at)
            )
            for parameter, view in zip(parameters, task.arch.layout.views(gradient[0]).values(), strict=True):
                parameter.grad = view.clone()
            if task.config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, task.config.clip_norm)
            optimizer.step()
            loss_sum += loss.item() * index.shape[1]
            seen += index.shape[1]
        self._save_state(optimizer, module, anchor, client, store)
        return read_row(module), loss_sum / seen

    def _backward(self, module: ReferenceModel, batch: Batch, dropout: DropoutMask | None) -> Tensor:
        """Return a minibatch's loss, leaving its gradient in the module's parameters."""
        module.zero_grad()
        loss = self._loss(module(batch.inputs[0], batch.lengths[0], dropout), batch)
        loss.backward()
        return loss

    def _loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss of one client's batch: the mean that `ClientConfig.loss_over` asks for."""
        positions = self.task.positions(batch.num_samples)
        return batch_loss(self.task.arch, outputs, batch, None if positions is None else int(positions))

    def _module(self, like: Tensor) -> ReferenceModel:
        return ReferenceModel(self.task.arch).to(device=like.device, dtype=like.dtype)

    def _gradient(self, rows: Tensor, batch: Batch, dropout: DropoutMask | None) -> Tensor:
        """The gradient ``[1, P]`` of a batch at another row ``[1, P]`` or ``[P]``."""
        module = self._module(rows)
        load_row(module, self.task.arch, rows.reshape(-1))
        self._backward(module, batch, dropout)
        return _gradients(module)[None]

    def given(self, round_number: int) -> SequentialTrainer:
        """Return the engine bound to the task of that round."""
        return replace(self, task=replace(self.task, given=round_number))

    def full_gradients(self, rows: Tensor, clients: Tensor) -> Tensor:
        """Differentiate each client's summed loss, `EVALUATION_BATCH` samples at a time."""
        train, gradients = self.task.population.train, []
        for place, client in enumerate(clients.tolist()):
            module = self._module(rows)
            load_row(module, self.task.arch, rows if rows.dim() == 1 else rows[place])
            count = 0.0
            for index in torch.arange(int(train.offsets[client]), int(train.offsets[client + 1])).split(
                EVALUATION_BATCH
            ):
                batch = gather(train, index[None], None)
                positions = self.task.positions(batch.num_samples)
                targets = _count_targets(self.task.arch, batch) if positions is None else int(positions)
                if targets == 0:
                    continue
                (targets * self._loss(module(batch.inputs[0], batch.lengths[0]), batch)).backward()
                count += targets
            gradients.append(_gradients(module) / (count or 1))
        return torch.stack(gradients)

    def _load_state(
        self, optimizer: torch.optim.Optimizer, module: ReferenceModel, row: Tensor, client: Tensor, store: ClientStore
    ) -> None:
        """Load the state that the client kept into `torch.optim`, if clients keep any."""
        if not self.task.config.keep_optimizer_state:
            return
        layout = self.task.arch.layout
        for name, kept in starting_state(self.task, row[None], client, store).items():
            whole = kept.shape[1] == layout.num_parameters
            views = layout.views(kept[0]).values() if whole else [kept[0, 0]] * len(layout.names)
            for parameter, view in zip(module.parameters_in_order(), views, strict=True):
                optimizer.state[parameter][_TORCH_STATE[name]] = view.clone()

    def _save_state(
        self, optimizer: torch.optim.Optimizer, module: ReferenceModel, row: Tensor, client: Tensor, store: ClientStore
    ) -> None:
        state = {}
        for name, fresh in self.task.config.optimizer.state(row[None]).items():
            values = [optimizer.state[p][_TORCH_STATE[name]].reshape(-1) for p in module.parameters_in_order()]
            state[name] = (torch.cat(values) if fresh.shape[1] > 1 else values[0]).to(row.dtype)[None]
        keep_state(self.task, state, client, store)

    def score_samples(self, row: Tensor, samples: Samples) -> Sums:
        """Score one model ``[P]`` on every sample, `EVALUATION_BATCH` at a time."""
        module = self._module(row)
        load_row(module, self.task.arch, row)
        parts = []
        for index in torch.arange(len(samples)).split(EVALUATION_BATCH):
            batch = gather(samples, index[None], None)
            with torch.no_grad():
                outputs = module(batch.inputs[0], batch.lengths[0])
            parts.append(score_batch(self.task.arch, outputs, batch))
        return concatenate(parts)

    def features(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the modules up to the head, and the head, one client after another."""
        parts = []
        for place, row in enumerate(rows):
            module = self._module(row)
            load_row(module, self.task.arch, row)
            with torch.no_grad():
                features = module.features(batch.inputs[place], batch.lengths[place])
                parts.append((features, module.head(features)))
        features, outputs = (torch.stack(part) for part in zip(*parts, strict=True))
        if features.dim() == 4:  # from [C, b, T, F] to step-major
            features, outputs = (part.transpose(1, 2).flatten(1, 2) for part in (features, outputs))
        return features, outputs

    def score_clients(self, rows: Tensor, clients: Tensor, samples: Samples) -> Sums:
        """Score each client's own model on its own samples, one client after another."""
        sums = torch.zeros(3, len(clients), dtype=torch.float64)
        outputs = []
        for place, client in enumerate(clients.tolist()):
            first, last = int(samples.offsets[client]), int(samples.offsets[client + 1])
            if last > first:
                scored = self.score_samples(rows[place], samples.part(first, last))
                sums[:, place] = torch.stack([column.sum() for column in scored.columns()[:3]])
                outputs.append(scored.outputs)
        all_outputs = torch.cat(outputs) if outputs else rows.new_empty((0, 0), device="cpu")
        return Sums(sums[0], sums[1], sums[2], all_outputs)


def _gradients(module: ReferenceModel) -> Tensor:
    """The gradient row ``[P]``, with zeros for parameters that have no gradient."""
    grads = ((p, p.grad) for p in module.parameters_in_order())
    return torch.cat([(torch.zeros_like(p) if grad is None else grad).reshape(-1) for p, grad in grads])


def batch_loss(arch: Architecture, outputs: Tensor, batch: Batch, positions: int | None = None) -> Tensor:
    """The mean loss of one client's batch, by `torch.nn.functional` where that has it.

    Args:
        arch: the model.
        outputs: what it predicts, ``[b, K]`` or ``[b, T, K]``.
        batch: with the targets.
        positions: what the sum of a loss with a target at every step is divided by; None: the targets that count.
    """
    targets = batch.targets[0]
    if arch.task is Task.REGRESSION:
        if (levels := arch.levels(outputs)) is not None:
            return pinball(outputs - targets, levels)[0].mean()
        return torch.nn.functional.mse_loss(outputs, targets)
    flat, labels = outputs.flatten(0, -2), targets.flatten()
    weight = constant(arch.class_weights, outputs) if arch.class_weights else None
    if positions is None:
        return torch.nn.functional.cross_entropy(flat, labels, weight, ignore_index=IGNORE)
    return torch.nn.functional.cross_entropy(flat, labels, weight, ignore_index=IGNORE, reduction="sum") / positions


def _count_targets(arch: Architecture, batch: Batch) -> float:
    """How many targets the mean loss of one client's batch is over (samples, for regression), or what they weigh."""
    targets = batch.targets[0]
    if arch.task is Task.REGRESSION:
        return len(targets)
    counted = targets[targets != IGNORE].tolist()
    return sum(arch.class_weights[target] for target in counted) if arch.class_weights else len(counted)


def score_batch(arch: Architecture, outputs: Tensor, batch: Batch) -> Sums:
    """Score outputs ``[b, K]`` (``[b, T, K]`` for a target at every step) by `torch.nn.functional`, as sums ``[b]``."""
    targets = batch.targets[0]
    if arch.task is Task.REGRESSION:
        error = outputs.double() - targets.double()
        levels = arch.levels(error)
        loss = (error.square() if levels is None else pinball(error, levels)[0]).sum(1).cpu()
        return Sums(loss, torch.zeros_like(loss), torch.full_like(loss, error.shape[1]), outputs.cpu())
    losses = torch.nn.functional.cross_entropy(
        outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    columns = losses.view(targets.shape), outputs.argmax(-1) == targets, targets != IGNORE
    loss, hits, count = (c.double().view(len(targets), -1).T.contiguous().sum(0).cpu() for c in columns)
    kept = outputs.new_empty((len(targets), 0), device="cpu")
    if arch.words is not None:
        first, last = arch.words.unknown
        known = (targets != IGNORE) & ((targets < first) | (targets >= last))
        word = known & (targets != arch.words.end)
        ahead = (outputs.topk(min(TOP, outputs.shape[-1])).indices == targets[..., None]).any(-1)
        kept = (
            torch.stack([known, known & columns[1], word, word & columns[1], ahead], 2).sum(1).to(outputs.dtype).cpu()
        )
    return Sums(loss, hits, count, kept)
