"""The workloads, with their random data, initial model and arithmetic, and the protocol of the benchmark.

Every contender imports this file, also in other environments, so it needs only NumPy and runs on Python 3.10. Data and
initial model are the same wherever they are made.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Workload:
    """A federation with random data, and how it is trained.

    Attributes:
        clients: number of clients in the population.
        samples: number of samples of each client.
        cohort: clients per round, drawn without replacement.
        steps: T, the length of a sequence.
        features: D, numbers per step; 0 if the inputs are tokens.
        hidden: H, units per layer.
        outputs: classes, tokens or regression outputs.
        cell: ``gru``, ``lstm`` or ``rnn``.
        layers: number of recurrent layers.
        task: ``classification``, ``sequence_labelling`` (a token after every step) or ``regression``.
        vocabulary: number of tokens, or 0 if the inputs are numbers.
        embedding: width of the token embedding, or 0.
        projection: width of a dense layer before the head, or 0.
        batch_size: samples per local step.
        epochs: passes over a client's samples per round.
        optimizer: the clients' optimizer, ``sgd`` or ``adam``.
        lr: its learning rate.
    """

    clients: int
    samples: int
    cohort: int
    steps: int
    features: int
    hidden: int
    outputs: int
    cell: str = "gru"
    layers: int = 1
    task: str = "classification"
    vocabulary: int = 0
    embedding: int = 0
    projection: int = 0
    batch_size: int = 16
    epochs: int = 1
    optimizer: str = "sgd"
    lr: float = 0.1

    def __post_init__(self) -> None:
        allowed = {
            "cell": ("gru", "lstm", "rnn"),
            "task": ("classification", "sequence_labelling", "regression"),
            "optimizer": ("sgd", "adam"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)}: must be one of {', '.join(values)}")
        if not 1 <= self.cohort <= self.clients:
            raise ValueError(f"cohort={self.cohort}: must be from 1 to clients={self.clients}")

    @property
    def flops_per_sample(self) -> int:
        """Floating-point operations of one forward pass over one sequence, counting only matrix products, as usual."""
        gates = {"gru": 3, "lstm": 4, "rnn": 1}[self.cell]
        widths = [self.embedding or self.features] + [self.hidden] * (self.layers - 1)
        recurrent = self.steps * sum(2 * (width + self.hidden) * gates * self.hidden for width in widths)
        heads = self.steps if self.task == "sequence_labelling" else 1
        wide = self.projection or self.hidden
        return recurrent + heads * 2 * (self.hidden * self.projection + wide * self.outputs)

    @property
    def flops_per_round(self) -> int:
        """Operations in a round's training; forward and backward together count as three forward passes."""
        return 3 * self.flops_per_sample * self.cohort * self.samples * self.epochs

    def in_words(self) -> str:
        """The model, the federation and the data in four short lines, for the axis of a picture."""
        layers = "" if self.layers == 1 else f"{self.layers} layers of "
        inputs = "tokens" if self.vocabulary else f"steps of {self.features}"
        return (
            f"{self.cell.upper()}, {layers}{self.hidden} units\n{self.cohort} of {self.clients:,} clients\n"
            f"batches of {self.batch_size}\n{self.samples} samples of {self.steps} {inputs}"
        )

    def full_batch(self) -> Workload:
        """The same with all clients in every round and all of a client's samples in one batch, so without chance."""
        return replace(self, cohort=self.clients, batch_size=self.samples)


WORKLOADS = {
    "W1": Workload(100, 64, 50, steps=29, features=12, hidden=64, outputs=9, batch_size=16),
    "W2": Workload(1000, 20, 100, steps=29, features=12, hidden=32, outputs=9, batch_size=10),
    "W3": Workload(
        50,
        100,
        10,
        steps=80,
        features=0,
        hidden=256,
        outputs=90,
        cell="lstm",
        layers=2,
        task="sequence_labelling",
        vocabulary=90,
        embedding=8,
        batch_size=10,
    ),
    "W4": Workload(
        5,
        100,
        5,
        steps=20,
        features=10,
        hidden=64,
        outputs=1,
        layers=2,
        task="regression",
        batch_size=16,
        epochs=5,
        optimizer="adam",
        lr=1e-3,
    ),
    "W5": Workload(
        100,
        256,
        100,
        steps=20,
        features=0,
        hidden=670,
        outputs=10_004,
        cell="lstm",
        task="sequence_labelling",
        vocabulary=10_004,
        embedding=96,
        projection=96,
        lr=0.3,
    ),
}


def parse(text: str) -> Workload:
    """Read ``W1``, or ``W1:cohort=100,hidden=128``: a workload with some of its values changed.

    Raises:
        ValueError: naming the part that cannot be read.
    """
    name, _, changes = text.partition(":")
    if name not in WORKLOADS:
        raise ValueError(f"{text}: no such workload; start from one of {', '.join(WORKLOADS)}")
    kinds = {f.name: {"int": int, "float": float, "str": str}[str(f.type)] for f in fields(Workload)}
    values: dict[str, Any] = {}
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        if key not in kinds:
            raise ValueError(f"{change}: no such value; known are {', '.join(kinds)}")
        values[key] = kinds[key](value)
    return replace(WORKLOADS[name], **values)


def make_data(w: Workload) -> tuple[NDArray[Any], NDArray[Any]]:
    """Random inputs ``[clients, samples, T, D]`` (or ``[clients, samples, T]`` tokens) and targets of every client."""
    rng = np.random.Generator(np.random.PCG64(1))
    shape = (w.clients, w.samples)
    if w.vocabulary:
        text = rng.integers(0, w.vocabulary, (*shape, w.steps + 1))
        inputs: NDArray[Any] = text[..., :-1]
        if w.task == "sequence_labelling" and w.outputs == w.vocabulary:
            return inputs, text[..., 1:]  # the next token
    else:
        inputs = rng.standard_normal((*shape, w.steps, w.features), dtype=np.float32)
    if w.task == "regression":
        return inputs, rng.standard_normal((*shape, w.outputs), dtype=np.float32)
    each = (*shape, w.steps) if w.task == "sequence_labelling" else shape
    return inputs, rng.integers(0, w.outputs, each)


def first_model(w: Workload) -> Arrays:
    """The initial model, with the parameter names and shapes of `torch.nn`."""
    rng = np.random.Generator(np.random.PCG64(2))
    rows = {"gru": 3, "lstm": 4, "rnn": 1}[w.cell] * w.hidden
    shapes: dict[str, tuple[int, ...]] = {}
    if w.vocabulary:
        shapes["embedding.weight"] = (w.vocabulary, w.embedding)
    for layer in range(w.layers):
        width = w.hidden if layer else (w.embedding or w.features)
        shapes[f"recurrent.weight_ih_l{layer}"] = (rows, width)
        shapes[f"recurrent.weight_hh_l{layer}"] = (rows, w.hidden)
        shapes[f"recurrent.bias_ih_l{layer}"] = shapes[f"recurrent.bias_hh_l{layer}"] = (rows,)
    if w.projection:
        shapes |= {"projection.weight": (w.projection, w.hidden), "projection.bias": (w.projection,)}
    shapes |= {"head.weight": (w.outputs, w.projection or w.hidden), "head.bias": (w.outputs,)}
    bound = w.hidden**-0.5
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Spec:
    """What a contender is to run, passed as JSON on its command line.

    Attributes:
        workload: what to train.
        rounds: number of rounds, each timed by the contender.
        threads: CPU threads; None leaves the number to the contender.
        device: ``cpu`` or ``cuda``.
        kernels: ``engine.kernels`` of fedsim.
    """

    workload: Workload
    rounds: int
    threads: int | None = None
    device: str = "cpu"
    kernels: str = "auto"

    def to_json(self) -> str:
        """The spec as text for the command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        """Read the output of `to_json`."""
        values = json.loads(text)
        return Spec(**{**values, "workload": Workload(**values["workload"])})


class Turns:
    """A contender's side of the protocol: a line on standard input starts a round, and a JSON line answers it.

    Between rounds a contender sleeps and leaves the machine to the rest. Output of libraries goes to standard error.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._started = 0.0

    def begin(self) -> None:
        """Wait for the turn and start the clock."""
        if not sys.stdin.readline():
            os._exit(0)  # the benchmark has ended, so do not wait for threads and helpers
        self._started = time.perf_counter()

    def end(self, **more: float) -> None:
        """Stop the clock and answer."""
        self._answer({"seconds": time.perf_counter() - self._started, **more})

    def rounds(self, count: int) -> Iterator[int]:
        """Number the rounds 1, 2, ... and time each; for contenders that write the loop over rounds themselves."""
        for round_number in range(1, count + 1):
            self.begin()
            yield round_number
            self.end()

    def finish(self, loss: Callable[[], float]) -> None:
        """Wait for the request for the final model's mean loss over all clients' samples, answer it and exit."""
        self.begin()
        self._answer({"loss": float(loss())})
        sys.stderr.flush()
        os._exit(0)

    def _answer(self, values: dict[str, float]) -> None:
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()
