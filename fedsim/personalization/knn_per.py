"""kNN-Per: every client mixes the global model's prediction with what it remembers of its own training samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from fedsim import seeding
from fedsim.clients.scores import EVALUATION_BATCH
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Federation, Personalization
from fedsim.core.results import Evaluation, merge
from fedsim.core.state import State
from fedsim.data.batches import Batch, gather
from fedsim.data.dataset import IGNORE, Task
from fedsim.data.population import Population, Samples
from fedsim.errors import UserError, check_above, check_at_least, check_between
from fedsim.evaluation.evaluate import evaluate_own, personal_prefixes
from fedsim.models.recurrent import Architecture
from fedsim.models.scores import Sums, concatenate
from fedsim.models.stacked import score_outputs

if TYPE_CHECKING:
    from torch import Tensor

_DISTANCES = 2**22
"""Distances that are held at a time."""
_NEVER = -126 * math.log(2)
"""Logarithm of the probability, float32's smallest, that a label without a neighbour has where neighbours alone decide:
the loss of 0 would be infinite."""


@dataclass(frozen=True, kw_only=True)
class KNNPer(Personalization):
    """Every client mixes the global prediction with that of its nearest neighbours (kNN-Per, Marfoq 2022, section 3).

    Nothing is trained. Before an evaluation a client runs the model that it has over its own training samples, and
    remembers each target with z, what the head got for it. With N(x) the k remembered pairs that are nearest to the z
    of a sample x,

        ``p(y | x) = lambda * sum_{i in N(x), y_i = y} a_i + (1 - lambda) * p_model(y | x)``,
        ``a_i = exp(-||z - z_i||^2 / (F * scale)) / sum_{j in N(x)} exp(-||z - z_j||^2 / (F * scale))``,

    with F the numbers in z: the distance of the authors' code. Where there is a target at every step, every step is a
    pair. In a regression, which the paper does not have, the same weights make a mean of the neighbours' targets. The
    paper chooses lambda for each client on held-back samples; here it is one number. A client that never trained
    remembers its own samples in the same way. Nothing is kept from one evaluation to the next.

    Of equally near neighbours the one that comes first in the client's samples counts as nearer.

    Attributes:
        neighbours: k, or all that a client remembers if those are fewer.
        weight: lambda, the share of the neighbours; 0 is the global model, 1 the neighbours alone.
        scale: how fast neighbours count less with their distance; large values give all k the same weight.
        capacity: pairs that a client remembers, drawn once from all of its own if it has more.
    """

    neighbours: int = 10
    weight: float = 0.5
    scale: float = 1.0
    capacity: int = 10_000

    option: ClassVar[str] = "knn_per"
    facts: ClassVar[Facts] = frozenset({Fact.PERSONAL})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "neighbours", "capacity")
        check_between(self, 0, 1, "weight")
        check_above(self, 0, "scale")

    def bind(self, bound: Bound) -> KNNPerInRun:
        """Bind the method to the clients, those that never train included.

        Raises:
            UserError: if the model predicts quantiles.
        """
        if bound.task.arch.quantiles:
            raise UserError(
                f"personalize={self.option}: mixes means or probabilities, and the model predicts quantiles; take "
                "data.quantiles=null or another way to personalise"
            )
        trainer, newcomers = bound.make_trainer(bound.task), None
        if (unseen := bound.population.unseen) is not None:
            newcomers = Remembering(self, trainer, unseen, bound.task.arch, bound.seed, f"unseen.{self.option}")
        own = Remembering(self, trainer, bound.population, bound.task.arch, bound.seed, self.option)
        return KNNPerInRun(own, newcomers)


@dataclass(frozen=True)
class KNNPerInRun(Personalization):
    """kNN-Per, bound to the clients.

    Attributes:
        own: scores the clients that train.
        newcomers: scores those that never do, or None if there are none.
    """

    own: Remembering
    newcomers: Remembering | None = None

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``personal_*`` columns, and those of unseen clients, who have the global model."""
        chunk, world = federation.chunk_size, federation.world

        def models(clients: Tensor) -> Tensor:
            return federation.blocks.models(state.store, clients, state.row).expand(len(clients), -1)

        population = federation.population
        own = [
            evaluate_own(self.own, models, population, chunk, prefix, world) for prefix in personal_prefixes(population)
        ]
        if (others := self.newcomers) is None:
            return merge(own)
        theirs = evaluate_own(
            others,
            lambda clients: state.row.expand(len(clients), -1),
            others.population,
            chunk,
            "unseen_personal",
            world,
        )
        return merge([*own, Evaluation(theirs.metrics, unseen=theirs.clients)])

    def introduce(self) -> list[str]:
        """Say if clients do not remember all that they have."""
        capacity, counts = self.own.settings.capacity, self.own.counts()
        if (full := int((counts > capacity).sum())) == 0:
            return []
        return [
            f"personalize=knn_per: {full:,} of {len(counts):,} clients have more than {capacity:,} targets to "
            f"remember, up to {int(counts.max()):,}, and remember so many, drawn at random (personalize.capacity)"
        ]


class Datastore(NamedTuple):
    """M pairs that a client remembers: what the head got, ``[M, F]`` float64, and the target, ``[M]`` or ``[M, K]``."""

    features: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Remembering:
    """Scores clients by the mixture of their model and what they remember; one client's memory is held at a time.

    Attributes:
        settings: of the method.
        trainer: the engine that runs the models.
        population: the clients, whose training samples are remembered.
        arch: the model.
        seed: the run's seed.
        stream: of the draw of what is remembered.
    """

    settings: KNNPer
    trainer: Trainer
    population: Population
    arch: Architecture
    seed: int
    stream: str

    def counts(self) -> Tensor:
        """``[N]`` int64, how many pairs each client could remember: its targets that count."""
        return torch.tensor([self._count(client) for client in range(self.population.num_clients)])

    def _count(self, client: int) -> int:
        train = self.population.train
        first, last = (int(train.offsets[client + end]) for end in (0, 1))
        if self.population.task is not Task.SEQUENCE_LABELLING:
            return last - first
        return int((train.targets[first:last] != IGNORE).sum())

    def score_clients(self, rows: Tensor, clients: Tensor, samples: Samples) -> Sums:
        """Score the mixture of each client's model ``[C, P]`` and its own memory, one client after another."""
        return concatenate(
            [self._score(row, client, samples) for row, client in zip(rows, clients.tolist(), strict=True)]
        )

    def _score(self, row: Tensor, client: int, samples: Samples) -> Sums:
        """The sums ``[1]`` of one client."""
        store, parts = self.remember(row, client), []
        for batch in _batches(samples, client):
            features, outputs = (part[0] for part in self.trainer.features(row[None], batch))
            counted = _in_order(self.population.task, batch)
            mixed = outputs if self.population.task is Task.REGRESSION else outputs.log_softmax(1)
            mixed[counted] = self.mix(mixed[counted], self.recall(store, features[counted]))
            sums = score_outputs(self.arch, mixed[None], batch)
            parts.append(Sums(*(part[0].cpu() for part in sums.columns())))
        loss, hits, count, kept = concatenate(parts).columns()
        return Sums(loss.sum()[None], hits.sum()[None], count.sum()[None], kept)

    def remember(self, row: Tensor, client: int) -> Datastore:
        """Return the pairs of one client under a model ``[P]``, or a draw of as many as its capacity."""
        train, task, capacity = self.population.train, self.population.task, self.settings.capacity
        total, kept = self._count(client), None
        if total > capacity:
            rng = seeding.generator(self.seed, self.stream, client)
            kept = torch.from_numpy(rng.permutation(total)[:capacity]).sort().values
        features, targets, passed = [], [], 0
        for batch in _batches(train, client):
            counted = _in_order(task, batch)
            which = counted
            if kept is not None:
                which = counted[(kept[(kept >= passed) & (kept < passed + len(counted))] - passed).to(counted.device)]
            passed += len(counted)
            if len(which):
                features.append(self.trainer.features(row[None], batch)[0][0, which].double())
                targets.append(_flat_targets(task, batch)[which])
        if not features:
            width = (0, self.arch.num_outputs) if task is Task.REGRESSION else (0,)
            return Datastore(
                row.new_empty((0, self.arch.head_size), dtype=torch.float64), train.targets.new_empty(width)
            )
        return Datastore(torch.cat(features), torch.cat(targets))

    def recall(self, store: Datastore, features: Tensor) -> Tensor | None:
        """Return what the neighbours of `features` ``[q, F]`` say: probabilities or means ``[q, K]`` float64.

        None if nothing is remembered.
        """
        if len(store.features) == 0:
            return None
        lengths, parts = store.features.square().sum(1), []
        for some in features.double().split(max(1, _DISTANCES // len(lengths))):
            squared = some.square().sum(1, keepdim=True) + lengths - 2 * some @ store.features.T
            near = _nearest(squared, min(self.settings.neighbours, len(lengths)), float(lengths.max()))
            apart = squared.gather(1, near).clamp_(min=0)
            # From the nearest, which then has the weight 1 even where a tiny scale leaves nothing of the others.
            shares = ((apart.amin(1, keepdim=True) - apart) / (some.shape[1] * self.settings.scale)).softmax(1)
            said = store.targets[near]
            if said.is_floating_point():
                parts.append((shares[..., None] * said).sum(1))
                continue
            found = shares.new_zeros(len(some), self.arch.num_outputs)
            for label, share in zip(said.unbind(1), shares.unbind(1), strict=True):  # always added in the same order
                found.scatter_add_(1, label[:, None], share[:, None])
            parts.append(found)
        return torch.cat(parts) if parts else features.new_zeros((0, self.arch.num_outputs), dtype=torch.float64)

    def mix(self, own: Tensor, said: Tensor | None) -> Tensor:
        """Mix the model's means or log-probabilities ``[q, K]`` with those of the neighbours, as `own` is."""
        if said is None:
            return own
        weight = self.settings.weight
        if self.population.task is Task.REGRESSION:
            return (weight * said + (1 - weight) * own.double()).to(own.dtype)
        log_weight, log_rest = torch.tensor([weight, 1 - weight], dtype=torch.float64).log().tolist()
        mixed = torch.logaddexp(said.log() + log_weight, own.double() + log_rest)
        return mixed.masked_fill(mixed == -math.inf, _NEVER).to(own.dtype)


def _batches(samples: Samples, client: int) -> Iterator[Batch]:
    """The samples of one client, `EVALUATION_BATCH` at a time, each ``[1, b]``."""
    first, last = (int(samples.offsets[client + end]) for end in (0, 1))
    for index in torch.arange(first, last).split(EVALUATION_BATCH):
        yield gather(samples, index[None], None)


def _in_order(task: Task, batch: Batch) -> Tensor:
    """Which of the R predictions for a batch ``[1, b]`` count, ``[n]`` int64: sample by sample, step by step."""
    size = batch.lengths.shape[1]
    if task is not Task.SEQUENCE_LABELLING:
        return torch.arange(size, device=batch.targets.device)
    sample, step = (batch.targets[0] != IGNORE).nonzero(as_tuple=True)
    return step * size + sample


def _flat_targets(task: Task, batch: Batch) -> Tensor:
    """The targets of a batch ``[1, b]`` in the order of its predictions, ``[R]`` or ``[R, K]``."""
    return batch.targets[0].T.flatten() if task is Task.SEQUENCE_LABELLING else batch.targets[0]


def _nearest(squared: Tensor, count: int, largest: float) -> Tensor:
    """Return the places ``[q, count]`` of the smallest of the squared distances ``[q, M]``, the first of equal ones.

    Texts that begin alike have equal states. Their distances differ by rounding, and so might the neighbours then, from
    engine to engine: hence distances are equal here that are equal to seven digits, or that far from none.

    Args:
        squared: float64.
        count: at most M.
        largest: squared length of the longest remembered state, by which distances from nothing are judged.
    """
    rounded = (squared.clamp(min=0) + 1e-6 * largest).float()
    # The bits of numbers that are not negative are in the order of the numbers, and the place decides among equals.
    keys = (rounded.view(torch.int32).long() << 32) | torch.arange(squared.shape[1], device=squared.device)
    return keys.topk(count, 1, largest=False).values & 0xFFFFFFFF
