"""Synthetic sequences with two dials of heterogeneity, in the spirit of LEAF's synthetic(alpha, beta)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.dataset import Dataset, Split, Task
from fedsim.errors import FieldError, check_at_least, check_one_of
from fedsim.machine import refuse_larger
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DECAY = 0.8
"""Division of the teacher's memory that is left after one step: a tenth after ten steps."""
_HIDDEN = 32
"""Width of the teacher."""
_REFERENCE_SAMPLES = 2000
"""Samples by which the teacher's outputs are scaled to unit variance."""

Floats: TypeAlias = "NDArray[np.float32]"
_Part: TypeAlias = "tuple[Floats, NDArray[np.int64], Floats]"


@dataclass(frozen=True)
class Synthetic:
    """Sequences labelled by a random teacher that has to remember what it saw.

    Client k draws ``x_t = z_t + beta * m_k`` with ``z_t`` and ``m_k`` standard normal. The teacher integrates them
    with a leak, ``s_t = 0.8 s_{t-1} + 0.6 x_t`` (unit variance in the long run), and reads
    ``y = tanh(s_T P) W_k + noise * e`` at the last step, where P is common to all clients and

        ``W_k = (W + alpha * E_k) / sqrt(1 + alpha^2)``.

    Regression predicts y, classification its largest entry. The columns of W and of every E_k are scaled so that each
    entry of y has variance one at ``beta=0`` (before the noise).

    The dials are those of LEAF (Caldas et al. 2018, "LEAF: A Benchmark for Federated Settings") and of Li et al. 2020
    ("Federated Optimization in Heterogeneous Networks", section 5.1): alpha moves the clients' labelling functions
    apart, beta their inputs. Unlike there, samples are sequences, and ``alpha = beta = 0`` is identically distributed
    over clients, because W is common. The memory multiplies a constant shift by 3, so beta=1 already means clients
    that mostly see a single label.

    With `groups` above 1, client k belongs to group ``k mod groups``, and every group has a W of its own, independent
    of the others: the same input has another target in each, which no single model can give (the setting of Ghosh et
    al. 2020, section 6, where clients of a group share a labelling function that nobody knows). The first group's W is
    that of a run without groups.

    Client k's samples depend on the seed, on k and on its own numbers of samples, not on how many clients there are.

    Attributes:
        task: ``classification`` or ``regression``.
        clients: number of natural clients.
        samples_per_client: training samples of each.
        test_samples_per_client: test samples of each.
        length: steps of a sequence.
        min_length: if set, lengths are uniform in ``min_length..length``; else all are `length`.
        features: numbers per step.
        classes: labels of a classification; None means 5.
        outputs: numbers to predict in a regression; None means 1.
        groups: how many groups of clients there are, each with a labelling function of its own; at most `clients`.
        alpha: how far the clients' labelling functions differ, 0 not at all (within a group, if there are several).
        beta: how far the clients' inputs differ, in standard deviations of an input.
        noise: standard deviation of what is added to the teacher's output.
    """

    task: str = "classification"
    clients: int = 10
    samples_per_client: int = 100
    test_samples_per_client: int = 25
    length: int = 20
    min_length: int | None = None
    features: int = 10
    classes: int | None = None
    outputs: int | None = None
    groups: int = 1
    alpha: float = 0.0
    beta: float = 0.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range or has no effect with the task.
        """
        check_one_of(self, "task", ("classification", "regression"))
        check_at_least(self, 1, "clients", "samples_per_client", "test_samples_per_client", "length", "min_length")
        check_at_least(self, 1, "features", "outputs", "groups")
        check_at_least(self, 2, "classes")
        check_at_least(self, 0, "alpha", "beta", "noise")
        if self.min_length is not None and self.min_length > self.length:
            raise FieldError("min_length", self.min_length, f"must be at most length={self.length}")
        if self.groups > self.clients:
            raise FieldError("groups", self.groups, f"must be at most clients={self.clients}: each needs a client")
        if self.task == "regression" and self.classes is not None:
            raise FieldError("classes", self.classes, "has no effect with task=regression, which has outputs")
        if self.task == "classification" and self.outputs is not None:
            raise FieldError("outputs", self.outputs, "has no effect with task=classification, which has classes")

    @property
    def _width(self) -> int:
        """Numbers that the teacher puts out: classes or outputs."""
        return (self.classes or 5) if self.task == "classification" else (self.outputs or 1)

    def load(self, seed: int) -> Dataset:
        """Return inputs ``[S, length, features]`` float32 and labels ``[S]`` int64 or targets ``[S, outputs]`` float32.

        The S samples of a split are in the order of the clients.
        """
        self._check_memory()
        rng = generator(seed, "synthetic_teacher")
        projection = rng.standard_normal((self.features, _HIDDEN), np.float32) / np.float32(self.features**0.5)
        no_shift = np.zeros(self.features, np.float32)
        hidden = _hidden(*self._sequences(rng, _REFERENCE_SAMPLES, no_shift), projection)
        moments = hidden.T @ hidden / np.float32(len(hidden))
        common = [_read_out(rng, moments, self._width)]
        for group in range(1, self.groups):
            common.append(_read_out(generator(seed, "synthetic_group", group), moments, self._width))
        train, test = self._room(self.samples_per_client), self._room(self.test_samples_per_client)
        for client in range(self.clients):
            own = generator(seed, "synthetic_client", client)
            shift = np.float32(self.beta) * own.standard_normal(self.features, np.float32)
            apart = np.float32(self.alpha) * _read_out(own, moments, self._width)
            weights = (common[client % self.groups] + apart) / np.float32(np.hypot(1.0, self.alpha))
            for purpose, count, into in (
                ("synthetic_train", self.samples_per_client, train),
                ("synthetic_test", self.test_samples_per_client, test),
            ):
                rng = generator(seed, purpose, client)
                inputs, lengths = self._sequences(rng, count, shift)
                noise = np.float32(self.noise) * rng.standard_normal((count, self._width), np.float32)
                rows = slice(client * count, (client + 1) * count)
                into[0][rows], into[1][rows] = inputs, lengths
                into[2][rows] = _hidden(inputs, lengths, projection) @ weights + noise
        return Dataset(
            name="synthetic",
            task=Task(self.task),
            train=self._split(train),
            test=self._split(test),
            num_outputs=self._width,
            client_names=tuple(f"client_{k}" for k in range(self.clients)),
            groups=np.arange(self.clients) % self.groups if self.groups > 1 else None,
            facts=(("groups", f"{self.groups}: client_k is in group k mod {self.groups}"),) if self.groups > 1 else (),
        )

    def _check_memory(self) -> None:
        samples = self.clients * (self.samples_per_client + self.test_samples_per_client)
        sequences = (samples + _REFERENCE_SAMPLES) * self.length
        needed = 4 * (sequences * self.features + (samples + _REFERENCE_SAMPLES + _HIDDEN) * self._width)
        names = ("clients", "samples_per_client", "test_samples_per_client", "length", "features", "classes", "outputs")
        largest = max(names, key=lambda name: getattr(self, name) or 0)
        refuse_larger(
            2 * (needed + 4 * _HIDDEN * self.features),  # twice while clients get theirs
            f"data.{largest}",
            getattr(self, largest),
            f"{samples:,} sequences of {self.length:,} steps of {self.features:,} features",
            "take fewer",
        )

    def _sequences(self, rng: np.random.Generator, count: int, shift: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Draw inputs ``[count, length, features]``, zero after their end, and lengths ``[count]``."""
        inputs = rng.standard_normal((count, self.length, self.features), np.float32) + shift
        if self.min_length is None:
            return inputs, np.full(count, self.length, np.int64)
        lengths = rng.integers(self.min_length, self.length, count, endpoint=True)
        inputs[np.arange(self.length) >= lengths[:, None]] = 0
        return inputs, lengths

    def _room(self, count: int) -> _Part:
        """Inputs, lengths and outputs of all clients with `count` samples each, to be filled in."""
        samples = self.clients * count
        inputs = np.empty((samples, self.length, self.features), np.float32)
        return inputs, np.empty(samples, np.int64), np.empty((samples, self._width), np.float32)

    def _split(self, parts: _Part) -> Split:
        inputs, lengths, outputs = parts
        owners = np.repeat(np.arange(self.clients), len(inputs) // self.clients)
        return Split(inputs, lengths, outputs.argmax(1) if self.task == "classification" else outputs, owners)


def _hidden(inputs: Floats, lengths: NDArray[np.int64], projection: Floats) -> Floats:
    """Return the teacher's last hidden state ``[S, hidden]``, its recursion written out as one weighted sum."""
    age = lengths[:, None] - 1 - np.arange(inputs.shape[1])
    gain = (1 - _DECAY**2) ** 0.5  # the variances of a long sequence then sum to one
    weights = np.where(age >= 0, gain * _DECAY ** age.clip(0), 0).astype(np.float32)
    memory: Floats = (weights[:, None, :] @ inputs)[:, 0]
    hidden: Floats = np.tanh(memory @ projection)
    return hidden


def _read_out(rng: np.random.Generator, moments: Floats, width: int) -> Floats:
    """Draw ``[hidden, width]`` weights, each column scaled so that its output has unit variance."""
    weights = rng.standard_normal((_HIDDEN, width), np.float32)
    scaled: Floats = weights / np.sqrt((weights * (moments @ weights)).sum(0))
    return scaled
