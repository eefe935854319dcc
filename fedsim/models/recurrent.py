"""The recurrent models of ``model=``, and the parameters they have on given data.

A `RecurrentModel` is what the user configures. Together with what the data ask for (features or tokens, outputs,
task) it becomes an `Architecture`: the shapes that both engines work from, and the hidden size where a number of
parameters was asked for instead.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
import torch

from fedsim import seeding
from fedsim.data.dataset import Task, WordTokens
from fedsim.data.population import Population
from fedsim.errors import FieldError, UserError, check_at_least, check_between, check_exactly_one, check_one_of
from fedsim.models import initial
from fedsim.models.constants import constant
from fedsim.models.parameters import ParameterLayout

if TYPE_CHECKING:
    from torch import Tensor

DropoutMask: TypeAlias = "Callable[[int, int, int], Tensor]"
"""``mask(layer, T, b) -> [C, T, b, S]``, what to multiply that layer's outputs with."""

DEFAULT_EMBEDDING_SIZE = 8
"""Embedding width where the inputs are tokens and none is given, as in McMahan 2017 and Reddi 2021 (Shakespeare)."""

ACTIVATIONS = ("none", "tanh")
POOLINGS = ("last", "mean", "max", "attention")


@dataclass(frozen=True, kw_only=True)
class RecurrentModel:
    """Stacked recurrent layers between an optional token embedding and a linear head.

    Attributes:
        hidden_size: H, units of every recurrent layer; None leaves it to `parameters`.
        parameters: number of parameters that the model should have on the data; H is chosen to come nearest to it.
            Exclusive with `hidden_size`; see `Architecture.hidden_size`.
        num_layers: recurrent layers on top of each other.
        dropout: probability of zeroing an output between two layers while training, as in ``torch.nn.GRU(dropout=)``.
        bias: whether the recurrent layers, `head_projection` and the head have biases.
        gate_biases: biases of each gate: 2, one beside each product, as ``torch.nn`` has them, or 1, as Keras has. Only
            their sum counts, except in the GRU's candidate: two add parameters and no freedom, and a step of SGD moves
            the sum of two twice as far.
        embedding_size: width of the token embedding; None means 8 where the inputs are tokens, and must stay None
            where they are numbers.
        initialisation: how the untrained model is drawn: as ``torch.nn`` does, as ``keras`` does, ``keras_he``
            with larger input weights, or with ``orthogonal`` recurrent matrices (see `fedsim.models.initial.draw`).
        bidirectional: whether every layer reads a sequence backwards too, with weights of its own, and passes on both
            states, one after the other; only where a sequence has one target. The last state of the second is that
            after the first step.
        pooling: what a prediction for a whole sequence is made of: the ``last`` valid state, the ``mean`` or ``max`` of
            each of its numbers over the valid steps, or their mean weighted by ``attention``: the softmax over the
            steps of ``w h``, w being learnt (Raffel and Ellis 2015, with a score that is linear).
        head_projection: width of a dense layer between the recurrent layers and the head, which makes the head of a
            large vocabulary small; None means none.
        head_activation: what that layer applies to its outputs: ``none`` or ``tanh``.
        tied_embeddings: the head's weights are the embedding's, with a bias of their own (Press and Wolf 2017; Inan et
            al. 2017). Inputs and targets must be of one vocabulary, and what the head gets as wide as the embedding.
    """

    hidden_size: int | None = 64
    parameters: int | None = None
    num_layers: int = 1
    dropout: float = 0.0
    bias: bool = True
    gate_biases: int = 2
    embedding_size: int | None = None
    initialisation: str = "torch"
    bidirectional: bool = False
    pooling: str = "last"
    head_projection: int | None = None
    head_activation: str = "none"
    tied_embeddings: bool = False

    gates: ClassVar[int]
    """Blocks of H rows in the weight matrices: 1 (RNN), 3 (GRU, CIFG) or 4 (LSTM)."""
    forget: ClassVar[int | None] = None
    """The place of the forget gate among them."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "hidden_size", "parameters", "num_layers", "embedding_size", "head_projection")
        check_exactly_one(self, "hidden_size", "parameters")
        check_between(self, 1, 1000, "num_layers")  # as every layer is an entry of the layout
        check_between(self, 0, 1, "dropout", open_high=True)
        check_between(self, 1, 2, "gate_biases")
        if self.gate_biases == 1 and not self.bias:
            raise FieldError("gate_biases", self.gate_biases, "has an effect only with bias=true")
        check_one_of(self, "initialisation", initial.STYLES)
        check_one_of(self, "pooling", POOLINGS)
        check_one_of(self, "head_activation", ACTIVATIONS)
        if self.head_activation != "none" and self.head_projection is None:
            raise FieldError("head_activation", self.head_activation, "has an effect only with head_projection")
        if self.dropout > 0 and self.num_layers == 1:
            raise FieldError("dropout", self.dropout, "acts between layers and needs num_layers of 2 or more")

    @property
    def projection(self) -> int | None:
        """P, the width of the states of all layers, or None if it is H."""
        return None

    @property
    def cell(self) -> str:
        """The kind of cell, one of ``rnn_tanh, rnn_relu, lstm, cifg, gru, gru_reset_before``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RNN(RecurrentModel):
    """Elman's network (Elman 1990), ``h' = g(W x + b + U h + c)``, as `torch.nn.RNN`."""

    nonlinearity: str = "tanh"
    gates: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(self, "nonlinearity", ("tanh", "relu"))

    @property
    def cell(self) -> str:
        """``rnn_tanh`` or ``rnn_relu``."""
        return f"rnn_{self.nonlinearity}"


@dataclass(frozen=True, kw_only=True)
class _WithCellState(RecurrentModel):
    """What has a cell state of H units, of which a smaller state can be made.

    Attributes:
        recurrent_projection: P, width of the state ``h = W (o * tanh(c))`` that a layer passes on to its next step and
            upwards, below `hidden_size` (Sak 2014, LSTMP, as ``torch.nn.LSTM(proj_size=)``); None means none: the state
            is ``o * tanh(c)``.
    """

    recurrent_projection: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "recurrent_projection")
        width, hidden = self.recurrent_projection, self.hidden_size
        if width is not None and hidden is not None and width >= hidden:
            raise FieldError("recurrent_projection", width, f"must be below hidden_size={hidden}")

    @property
    def projection(self) -> int | None:
        """P, or None if the state is not projected."""
        return self.recurrent_projection


@dataclass(frozen=True, kw_only=True)
class LSTM(_WithCellState):
    """Long short-term memory with a forget gate (Gers 2000), gates in the order i, f, g, o, as `torch.nn.LSTM`."""

    gates: ClassVar[int] = 4
    forget: ClassVar[int | None] = 1
    cell: ClassVar[str] = "lstm"


@dataclass(frozen=True, kw_only=True)
class CIFG(_WithCellState):
    """Long short-term memory whose input gate is what the forget gate leaves over, gates in the order f, g, o.

    With f and o the sigmoid and g the tanh of ``W x + b + U h + c``, ``c' = f * c + (1 - f) * g`` and
    ``h' = o * tanh(c')``: the coupled input and forget gate of Greff 2017, section III, without peepholes, as in the
    keyboards of Hard 2018. It has three quarters of the weights of an LSTM.
    """

    gates: ClassVar[int] = 3
    forget: ClassVar[int | None] = 0
    cell: ClassVar[str] = "cifg"


@dataclass(frozen=True, kw_only=True)
class GRU(RecurrentModel):
    """Gated recurrent unit, gates r, z, n, as `torch.nn.GRU`.

    ``n = tanh(W x + b + r * (U h + c))`` and ``h' = (1 - z) * n + z * h``: the reset gate acts after the matrix product
    (the variant of cuDNN and PyTorch).
    """

    gates: ClassVar[int] = 3
    cell: ClassVar[str] = "gru"


@dataclass(frozen=True, kw_only=True)
class GRUResetBefore(RecurrentModel):
    """Gated recurrent unit with the reset gate inside the matrix product, as in Cho 2014, eq. 8.

    ``n = tanh(W x + b + U (r * h) + c)`` and ``h' = (1 - z) * h + z * n``: here z is the share of the *new* state, as
    in Chung 2014. PyTorch has no such module.
    """

    gates: ClassVar[int] = 3
    cell: ClassVar[str] = "gru_reset_before"


@dataclass(frozen=True)
class Architecture:
    """A recurrent model on given data: everything that decides the shapes of its parameters.

    Attributes:
        model: the configured model.
        input_size: D, features per step; 0 where the inputs are tokens.
        vocabulary_size: V, number of tokens, or None.
        num_outputs: classes, vocabulary entries, or regression outputs.
        task: what is predicted.
        quantiles: of a regression, those that each target's outputs predict, in turn; empty where they predict means.
        words: which outputs stand for no word, where the next word is predicted; metrics alone depend on it.
        class_weights: of the classes in the loss of training; empty where all count the same.
    """

    model: RecurrentModel
    input_size: int
    vocabulary_size: int | None
    num_outputs: int
    task: Task
    quantiles: tuple[float, ...] = ()
    words: WordTokens | None = None
    class_weights: tuple[float, ...] = ()

    def levels(self, like: Tensor) -> Tensor | None:
        """The quantile ``[K]`` that each output predicts, as `like` is; None where outputs predict the mean."""
        if not self.quantiles:
            return None
        return constant(self.quantiles * (self.num_outputs // len(self.quantiles)), like)

    @property
    def embedding_size(self) -> int:
        """Width of the embedding, 0 where the inputs are numbers."""
        if self.vocabulary_size is None:
            return 0
        return self.model.embedding_size or DEFAULT_EMBEDDING_SIZE

    @property
    def state_size(self) -> int:
        """S, how many numbers a layer passes on: H, or ``model.recurrent_projection``, from every direction."""
        return len(self.directions) * (self.model.projection or self.hidden_size)

    @property
    def directions(self) -> tuple[str, ...]:
        """What ends the names of a layer's parameters, for each direction in which it reads."""
        return ("", "_reverse") if self.model.bidirectional else ("",)

    @property
    def head_size(self) -> int:
        """F, how many numbers the head gets: those of a state, or of ``model.head_projection``."""
        return self.model.head_projection or self.state_size

    @property
    def head_weight(self) -> str:
        """The name of the head's weights ``[K, F]``: they may be those of the embedding."""
        return "embedding.weight" if self.model.tied_embeddings else "head.weight"

    @cached_property
    def hidden_size(self) -> int:
        """H, units of every recurrent layer: as configured, or the size that comes nearest to ``model.parameters``.

        Of two sizes that are equally near it is the smaller. Embedding, biases and head count too, all layers have the
        same H, and the width of the embedding does not change with it.

        Raises:
            UserError: if even one unit per layer has more than ``model.parameters``.
        """
        if (wanted := self.model.parameters) is None:
            assert self.model.hidden_size is not None  # exactly one of them is set
            return self.model.hidden_size
        fewest = 1 if self.model.projection is None else self.model.projection + 1
        if (least := self._count(fewest)) > wanted:
            units = "one unit" if fewest == 1 else f"{fewest} units"
            raise UserError(
                f"model.parameters={wanted}: {type(self.model).__name__} has at least {least:,} parameters on these "
                f"data (with {units} per layer); set at least that many"
            )
        sizes = range(fewest, wanted + 1)  # at least one parameter per unit
        above = sizes[bisect_left(sizes, wanted, key=self._count)]  # the first that does not fall short
        below = max(fewest, above - 1)
        return below if wanted - self._count(below) <= self._count(above) - wanted else above

    @cached_property
    def layout(self) -> ParameterLayout:
        """Names and shapes, those of ``torch.nn.Embedding``, ``torch.nn.GRU`` (LSTM, RNN) and ``torch.nn.Linear``.

        Where the embedding is the head, its weights are there once.
        """
        return ParameterLayout.of(self._shapes(self.hidden_size))

    def _count(self, hidden: int) -> int:
        return sum(math.prod(shape) for _, shape in self._shapes(hidden))

    def _shapes(self, hidden: int) -> list[tuple[str, tuple[int, ...]]]:
        m = self.model
        parameters: list[tuple[str, tuple[int, ...]]] = []
        if self.vocabulary_size is not None:
            parameters.append(("embedding.weight", (self.vocabulary_size, self.embedding_size)))
        own = m.projection or hidden
        state = len(self.directions) * own
        for name in (f"l{layer}{direction}" for layer in range(m.num_layers) for direction in self.directions):
            width = (self.embedding_size or self.input_size) if name.startswith("l0") else state
            parameters.append((f"recurrent.weight_ih_{name}", (m.gates * hidden, width)))
            parameters.append((f"recurrent.weight_hh_{name}", (m.gates * hidden, own)))
            for side in ("ih", "hh")[: m.gate_biases if m.bias else 0]:
                parameters.append((f"recurrent.bias_{side}_{name}", (m.gates * hidden,)))
            if m.projection is not None:
                parameters.append((f"recurrent.weight_hr_{name}", (own, hidden)))
        if m.pooling == "attention":
            parameters.append(("pooling.weight", (1, state)))
        dense = [] if m.head_projection is None else [("projection", m.head_projection, state)]
        for block, out, inputs in [*dense, ("head", self.num_outputs, m.head_projection or state)]:
            if block != "head" or not m.tied_embeddings:
                parameters.append((f"{block}.weight", (out, inputs)))
            if m.bias:
                parameters.append((f"{block}.bias", (out,)))
        return parameters


def architecture(model: RecurrentModel, population: Population) -> Architecture:
    """Fit a configured model to the data of a population.

    Raises:
        UserError: if ``model.embedding_size`` is set and the inputs are not tokens, if ``model.pooling`` or
            ``model.bidirectional`` is set and there is a target at every step, if the embedding cannot be the head as
            ``model.tied_embeddings`` asks, if ``model.parameters`` are too few for one unit, or if the model is larger
            than any machine's memory.
    """
    if model.embedding_size is not None and population.vocabulary_size is None:
        raise UserError(
            f"model.embedding_size={model.embedding_size}: has no effect, because the inputs are numbers, not tokens; "
            "leave it null"
        )
    if population.task is Task.SEQUENCE_LABELLING:
        every = "these data have a target at every step"
        if model.pooling != "last":
            raise UserError(f"model.pooling={model.pooling}: has no effect, because {every}; leave it at last")
        if model.bidirectional:
            raise UserError(f"model.bidirectional=true: would read the targets, because {every}; set it to false")
    arch = Architecture(
        model,
        population.input_size,
        population.vocabulary_size,
        population.num_outputs,
        population.task,
        population.forecast.quantiles if population.forecast is not None else (),
        population.words,
    )
    _ = arch.hidden_size  # raises here, before anything is built from it
    if model.tied_embeddings:
        _check_tied(arch)
    if (count := arch.layout.num_parameters) > _MOST_PARAMETERS:
        sized = "hidden_size" if model.parameters is None else "parameters"
        raise UserError(
            f"model.{sized}={getattr(model, sized)}: makes a model of {count:,} parameters, more than any machine holds"
        )
    return arch


def _check_tied(arch: Architecture) -> None:
    """Raise `UserError` unless an embedding can be the head."""
    start = "model.tied_embeddings=true:"
    if arch.vocabulary_size is None:
        raise UserError(f"{start} the inputs are numbers, not tokens, so there is no embedding; set it to false")
    if arch.vocabulary_size != arch.num_outputs:
        raise UserError(
            f"{start} there are {arch.vocabulary_size:,} tokens and {arch.num_outputs:,} outputs, which are therefore "
            "not scores of the tokens; set it to false"
        )
    if arch.embedding_size != arch.head_size:
        raise UserError(
            f"{start} the embedding has {arch.embedding_size} numbers per token and the head gets {arch.head_size}; "
            f"set model.embedding_size={arch.head_size} or model.head_projection={arch.embedding_size}"
        )


_MOST_PARAMETERS = 2**50
"""So that the bytes of a client's training fit 64 bits."""


def initial_row(arch: Architecture, seed: int, dtype: torch.dtype) -> Tensor:
    """Draw the untrained model, a row ``[P]`` on the CPU, from the distributions of ``model.initialisation``.

    The draws are keyed by parameter name and made in float64, so float32 and float64 runs start from the same model.
    """
    model, hidden = arch.model, arch.hidden_size
    row = torch.empty(arch.layout.num_parameters, dtype=dtype)
    for name, view in arch.layout.views(row).items():
        rng = seeding.generator(seed, f"initial {name}")
        wide = {"pooling": arch.state_size, "projection": arch.state_size, "head": arch.head_size}
        width = wide.get(name.split(".")[0], hidden)
        draws = initial.draw(model.initialisation, name, tuple(view.shape), width, model.forget, rng)
        view.copy_(torch.from_numpy(np.asarray(draws)))
    return row
