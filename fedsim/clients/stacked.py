"""``engine=stacked``: a chunk of clients trains at once, one row per client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import torch

from fedsim.client_store import ClientStore
from fedsim.clients.optimizers import step_of
from fedsim.clients.report import Memory, Report
from fedsim.clients.scores import EVALUATION_BATCH, make_report
from fedsim.clients.step import Step
from fedsim.clients.task import LocalTask
from fedsim.clients.trainer import keep_state, starting_state
from fedsim.data.batches import Batch, batch_indices, gather
from fedsim.data.dataset import Task
from fedsim.data.population import Samples
from fedsim.models import stacked
from fedsim.models.cuda_graphs import Graphs
from fedsim.models.recurrent import DropoutMask
from fedsim.models.scores import Sums, concatenate, kept_outputs

if TYPE_CHECKING:
    from torch import Tensor


Piece: TypeAlias = "tuple[slice, dict[str, Tensor], dict[str, Tensor]]"
"""Some clients of a stack, and the views of their rows and of their gradients."""

Dropouts: TypeAlias = "Callable[[slice], DropoutMask | None]"
"""The dropout of some of the clients of a step, or None."""


@dataclass(frozen=True)
class StackedTrainer:
    """Trains the clients of a chunk together; see `fedsim.clients.trainer.Trainer`.

    Attributes:
        task: what the clients train.
        kernels: module of the recurrent kernels (`torch_kernels` or `numba_kernels`).
        evaluation_blocks: how many blocks of `EVALUATION_BATCH` samples are evaluated at a time.
        graphs: the loss and gradient of a local step as CUDA graphs, or None to launch kernel by kernel.
    """

    task: LocalTask
    kernels: ModuleType
    evaluation_blocks: int
    graphs: Graphs | None = None

    @contextmanager
    def _threads(self, models: int, samples: int, steps: int, device: torch.device) -> Iterator[None]:
        """Leave all threads to the kernels, and one to torch's own operations where these are small.

        Threads that meet after every small operation gain little, and lose much where another process wants a core:
        each meeting then waits for the one that has none. It follows from shapes alone, on which the bytes depend.

        Args:
            models: how many rows are worked on at a time.
            samples: how many samples, of all rows together.
            steps: T.
            device: of the rows.
        """
        arch, most = self.task.arch, torch.get_num_threads()
        outputs = samples * (steps if arch.task is Task.SEQUENCE_LABELLING else 1)
        numbers = max(models * arch.layout.num_parameters, samples * steps * arch.hidden_size)
        small = numbers <= _FEW_NUMBERS and outputs * arch.hidden_size * arch.num_outputs <= _FEW_PRODUCTS
        alone = getattr(self.kernels, "set_threads", None)
        if alone is None or most == 1 or device.type != "cpu" or not small:
            yield
            return
        alone(most)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(most)
            alone(0)

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
        """Train all clients step by step, most local steps first, so that those still training are a prefix."""
        samples = self.task.population.train
        batch = self.task.config.batch_size or int(samples.sizes.max())
        with self._threads(len(clients), len(clients) * batch, samples.steps, anchor.device):
            return self._train(anchor, clients, round_number, store, memory, start, steps)

    def _train(
        self,
        anchor: Tensor,
        clients: Tensor,
        round_number: int,
        store: ClientStore,
        memory: Memory | None,
        start: Tensor | None,
        steps: Tensor | None,
    ) -> tuple[Tensor, Report]:
        task, optimizer = self.task, self.task.config.optimizer
        all_steps = task.steps(clients) if steps is None else steps
        order = torch.argsort(all_steps, descending=True, stable=True)
        ranked = clients[order]
        anchors = anchor if anchor.dim() == 1 else anchor[order]
        rows = anchors.expand(len(clients), -1).clone() if start is None else start[order]
        recalled = None if memory is None else memory.of(order)
        gradient = torch.empty_like(rows)
        state = starting_state(task, rows, ranked, store)
        lr, take_step = task.lr(round_number), step_of(optimizer, self.kernels)
        loss_sum = torch.zeros(len(clients), dtype=torch.float64, device=rows.device)
        key = task.batch_key(round_number)
        plan = batch_indices(task.population.train, ranked, all_steps[order], task.config.batch_size, key)
        active = 0
        for step, (index, real) in enumerate(plan):
            if len(index) != active:
                # Only the prefix changes: a finished client's row and optimizer state stay as they are.
                active = len(index)
                now, slope, losses = rows[:active], gradient[:active], loss_sum[:active]
                layout = task.arch.layout
                pieces = [
                    (piece, layout.views(now[piece]), layout.views(slope[piece]))
                    for piece in self._pieces(active, index.shape[1])
                ]
                moments = {name: value[:active] for name, value in state.items()}
                pulled = anchors if anchors.dim() == 1 else anchors[:active]
                known = None if recalled is None else recalled.of(slice(active))
                total = all_steps[order[:active]]
            batch = gather(task.population.train, index, real)
            dropouts = partial(self._dropout, round_number, ranked[:active], step, rows)
            loss = self._loss_and_gradient(now, pieces, batch, dropouts, slope)
            losses += loss * (index.shape[1] if real is None else batch.num_samples)
            at = partial(self._gradient, batch=batch, dropouts=dropouts)
            task.correction.correct(slope, Step(now, pulled, known, step, total, task.arch.layout, task.blocks, at))
            if task.config.clip_norm is not None:
                norm = slope.norm(dim=1, keepdim=True)
                slope.mul_((task.config.clip_norm / (norm + 1e-6)).clamp(max=1.0))  # as clip_grad_norm_
            take_step(now, slope, moments, lr)
        keep_state(task, state, ranked, store)
        train_loss = loss_sum / task.samples(ranked, all_steps[order]).to(rows.device, non_blocking=True)
        if not torch.equal(ranked, clients):
            back = torch.argsort(order).to(rows.device, non_blocking=True)
            rows, train_loss = rows[back], train_loss[back]
        report = self._report(rows, clients, all_steps, train_loss)
        return rows.sub_(anchor if start is None else start), report

    def _pieces(self, clients: int, batch: int) -> list[slice]:
        """Cut the active clients so that what the forward pass leaves for the backward pass stays in the cache.

        It follows from shapes and the number of threads alone, on which the bytes depend.
        """
        threads = getattr(self.kernels, "most_threads", None)
        if threads is None:
            return [slice(clients)]
        arch, samples = self.task.arch, self.task.population.train
        left = (
            arch.model.num_layers
            * len(arch.directions)
            * arch.hidden_size
            * (arch.model.gates + 2)
            * samples.steps
            * batch
        )
        count = max(1, clients * left // _LEFT_IN_CACHE) if 4 * left <= _LEFT_IN_CACHE else 1
        width = -(-clients // count)
        width = -(-width // threads()) * threads()  # no thread without a client
        return [slice(first, min(first + width, clients)) for first in range(0, clients, width)]

    def _gradient(self, rows: Tensor, batch: Batch, dropouts: Dropouts) -> Tensor:
        """The gradient ``[A, P]`` of a batch at `rows` ``[A, P]``, or ``[P]`` if all clients share one."""
        rows = rows.expand(len(batch.lengths), -1).contiguous()
        layout, gradient = self.task.arch.layout, torch.empty_like(rows)
        whole = [(slice(len(rows)), layout.views(rows), layout.views(gradient))]
        self._loss_and_gradient(rows, whole, batch, dropouts, gradient)
        return gradient

    def _loss_and_gradient(
        self, rows: Tensor, pieces: list[Piece], batch: Batch, dropouts: Dropouts, gradient: Tensor
    ) -> Tensor:
        """Return the losses ``[A]`` of a batch at `rows` ``[A, P]``, and overwrite `gradient` ``[A, P]``."""
        arch = self.task.arch
        if self.graphs is not None and dropouts(slice(0, 1)) is None:
            loss = self.graphs.loss_and_gradient(rows, batch, gradient)
        else:
            losses = [
                stacked.loss_and_gradient(
                    arch, views, batch if len(pieces) == 1 else batch.of(piece), self.kernels, dropouts(piece), slopes
                )
                for piece, views, slopes in pieces
            ]
            loss = losses[0] if len(losses) == 1 else torch.cat(losses)
        if (positions := self.task.positions(batch.num_samples)) is None:
            return loss
        share = stacked.count_targets(arch, batch, loss) / positions
        gradient.mul_(share[:, None])
        return loss * share

    def _dropout(self, round_number: int, clients: Tensor, step: int, rows: Tensor, piece: slice) -> DropoutMask | None:
        """The dropout of some of the clients ``[A]``."""
        return self.task.dropout(round_number, clients[piece], step, rows)

    def given(self, round_number: int) -> StackedTrainer:
        """Return the engine bound to the task of that round."""
        return replace(self, task=replace(self.task, given=round_number))

    def full_gradients(self, rows: Tensor, clients: Tensor) -> Tensor:
        """Add up the gradients of `EVALUATION_BATCH` samples of every client at a time."""
        rows = rows.expand(len(clients), -1)
        total, counts = torch.zeros_like(rows), rows.new_zeros((len(clients), 1))
        for which, index, real in _own_blocks(self.task.population.train, clients):
            batch = gather(self.task.population.train, index, real)
            positions = self.task.positions(batch.num_samples)
            count = stacked.count_targets(self.task.arch, batch, rows) if positions is None else positions
            count = count.to(rows.dtype)[:, None]
            total[which] += count * self._gradient(rows[which], batch, _no_dropout)
            counts[which] += count
        return total / torch.where(counts > 0, counts, 1)

    def _report(self, rows: Tensor, clients: Tensor, steps: Tensor, train_loss: Tensor) -> Report:
        population = self.task.population
        sums = None
        if population.local_validation is not None:
            sums = self.score_clients(rows, clients, population.local_validation)
        return make_report(self.task, clients, steps, train_loss.cpu(), sums)

    def score_samples(self, row: Tensor, samples: Samples) -> Sums:
        """Score one model on many blocks of samples at a time, as if each block were a client."""
        together = min(len(samples), self.evaluation_blocks * EVALUATION_BATCH)
        with self._threads(1, together, samples.steps, row.device):
            return self._score_samples(row, samples)

    def _score_samples(self, row: Tensor, samples: Samples) -> Sums:
        width = EVALUATION_BATCH
        parts: list[Sums] = []
        for start in range(0, len(samples), self.evaluation_blocks * width):
            stop = min(start + self.evaluation_blocks * width, len(samples))
            blocks = -(-(stop - start) // width)
            index = torch.arange(start, start + blocks * width)
            real = (index < stop).view(blocks, width)
            index = index.clamp(max=stop - 1).view(blocks, width)
            batch = gather(samples, index, real)
            score = stacked.score(self.task.arch, row.expand(blocks, -1), batch, self.kernels)
            parts.append(Sums(*(part.flatten(0, 1)[: stop - start].cpu() for part in score.columns())))
        return concatenate(parts)

    def features(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the kernels up to the head, and the head."""
        with self._threads(len(rows), batch.lengths.numel(), self.task.population.train.steps, rows.device):
            return stacked.features_of(self.task.arch, self.task.arch.layout.views(rows), batch, self.kernels)

    def score_clients(self, rows: Tensor, clients: Tensor, samples: Samples) -> Sums:
        """Score each client's own model on its own samples, `EVALUATION_BATCH` samples of every client at a time."""
        together = int(samples.sizes[clients].clamp(max=EVALUATION_BATCH).sum())
        with self._threads(len(clients), together, samples.steps, rows.device):
            return self._score_clients(rows, clients, samples)

    def _score_clients(self, rows: Tensor, clients: Tensor, samples: Samples) -> Sums:
        sums = torch.zeros(3, len(clients), dtype=torch.float64)
        sizes = samples.sizes[clients]
        shift = (sizes.cumsum(0) - sizes) - samples.offsets[:-1][clients]  # from a sample's number to its place here
        outputs = rows.new_empty((int(sizes.sum()), _width(self.task)), device="cpu")
        for which, index, real in _own_blocks(samples, clients):
            score = stacked.score(self.task.arch, rows[which], gather(samples, index, real), self.kernels)
            sums[:, which] += torch.stack([part.sum(1).cpu() for part in score.columns()[:3]])
            outputs[(index + shift[which, None])[real]] = score.outputs.cpu()[real]
        return Sums(sums[0], sums[1], sums[2], outputs)


_LEFT_IN_CACHE = 2_000_000
"""Numbers that a piece of a stack leaves between its two passes, some eight megabytes: less would save nothing more,
and every piece takes a tenth of a millisecond in Python."""

_FEW_NUMBERS, _FEW_PRODUCTS = 4_000_000, 20_000_000
"""Numbers of a tensor, and multiplications of the head, up to which one thread does torch's operations: most take a
fraction of a millisecond."""


def _no_dropout(piece: slice) -> None:
    return None


def _width(task: LocalTask) -> int:
    """How many outputs of a sample are kept."""
    return kept_outputs(task.arch.task, task.arch.num_outputs, task.arch.words)


def _own_blocks(samples: Samples, clients: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield ``(which [A], index [A, b], real [A, b])`` until every sample of every client has been covered."""
    sizes, starts = samples.sizes[clients], samples.offsets[:-1][clients]
    for first in range(0, int(sizes.max()), EVALUATION_BATCH):
        which = (sizes > first).nonzero()[:, 0]
        width = min(EVALUATION_BATCH, int(sizes.max()) - first)
        position = first + torch.arange(width)
        real = position[None] < sizes[which, None]
        yield which, starts[which, None] + torch.where(real, position[None], first), real
