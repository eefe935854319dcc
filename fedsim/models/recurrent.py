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
from fedsim.models.parameters import ParameterLayout

if TYPE_CHECKING:
    from torch import Tensor

DropoutMask: TypeAlias = "Callable[[int, int, int], Tensor]"
"""``mask(layer, T, b) -> [C, T, b, H]``, what to multiply that layer's outputs with."""

DEFAULT_EMBEDDING_SIZE = 8
"""Embedding width where the inputs are tokens and none is given, as in McMahan 2017 and Reddi 2021 (Shakespeare)."""


@dataclass(frozen=True, kw_only=True)
class RecurrentModel:
    """Stacked recurrent layers between an optional token embedding and a linear head.

    Attributes:
        hidden_size: H, units of every recurrent layer; None leaves it to `parameters`.
        parameters: number of parameters that the model should have on the data; H is chosen to come nearest to it.
            Exclusive with `hidden_size`; see `Architecture.hidden_size`.
        num_layers: recurrent layers on top of each other.
        dropout: probability of zeroing an output between two layers while training, as in ``torch.nn.GRU(dropout=)``.
        bias: whether the recurrent layers and the head have biases.
        embedding_size: width of the token embedding; None means 8 where the inputs are tokens, and must stay None
            where they are numbers.
        initialisation: how the untrained model is drawn: as ``torch.nn`` does, as ``keras`` does, ``keras_he``
            with larger input weights, or with ``orthogonal`` recurrent matrices (see `fedsim.models.initial.draw`).
    """

    hidden_size: int | None = 64
    parameters: int | None = None
    num_layers: int = 1
    dropout: float = 0.0
    bias: bool = True
    embedding_size: int | None = None
    initialisation: str = "torch"

    gates: ClassVar[int]
    """Blocks of H rows in the weight matrices: 1 (RNN), 3 (GRU) or 4 (LSTM)."""
    forget: ClassVar[int | None] = None
    """The place of the forget gate among them."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "hidden_size", "parameters", "num_layers", "embedding_size")
        check_exactly_one(self, "hidden_size", "parameters")
        check_between(self, 1, 1000, "num_layers")  # as every layer is an entry of the layout
        check_between(self, 0, 1, "dropout", open_high=True)
        check_one_of(self, "initialisation", initial.STYLES)
        if self.dropout > 0 and self.num_layers == 1:
            raise FieldError("dropout", self.dropout, "acts between layers and needs num_layers of 2 or more")

    @property
    def cell(self) -> str:
        """The kind of cell, one of ``rnn_tanh, rnn_relu, lstm, gru, gru_reset_before``."""
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
class LSTM(RecurrentModel):
    """Long short-term memory with a forget gate (Gers 2000), gates in the order i, f, g, o, as `torch.nn.LSTM`."""

    gates: ClassVar[int] = 4
    forget: ClassVar[int | None] = 1
    cell: ClassVar[str] = "lstm"


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
        quantiles: of a regression, the quantiles that each target's outputs predict, one after another; empty where
            an output predicts the mean.
        words: which outputs stand for no word, where the next word is predicted; metrics alone depend on it.
    """

    model: RecurrentModel
    input_size: int
    vocabulary_size: int | None
    num_outputs: int
    task: Task
    quantiles: tuple[float, ...] = ()
    words: WordTokens | None = None

    def levels(self, like: Tensor) -> Tensor | None:
        """The quantile ``[K]`` that each output predicts, as `like` is; None where outputs predict the mean."""
        if not self.quantiles:
            return None
        return torch.tensor(self.quantiles, dtype=like.dtype, device=like.device).repeat(
            self.num_outputs // len(self.quantiles)
        )

    @property
    def embedding_size(self) -> int:
        """Width of the embedding, 0 where the inputs are numbers."""
        if self.vocabulary_size is None:
            return 0
        return self.model.embedding_size or DEFAULT_EMBEDDING_SIZE

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
        if (least := self._count(1)) > wanted:
            raise UserError(
                f"model.parameters={wanted}: {type(self.model).__name__} has at least {least:,} parameters on these "
                "data (with one unit per layer); set at least that many"
            )
        sizes = range(1, wanted + 1)  # at least one parameter per unit
        above = sizes[bisect_left(sizes, wanted, key=self._count)]  # the first that does not fall short
        below = max(1, above - 1)
        return below if wanted - self._count(below) <= self._count(above) - wanted else above

    @cached_property
    def layout(self) -> ParameterLayout:
        """Names and shapes, those of ``torch.nn.Embedding``, ``torch.nn.GRU`` (LSTM, RNN) and ``torch.nn.Linear``."""
        return ParameterLayout.of(self._shapes(self.hidden_size))

    def _count(self, hidden: int) -> int:
        return sum(math.prod(shape) for _, shape in self._shapes(hidden))

    def _shapes(self, hidden: int) -> list[tuple[str, tuple[int, ...]]]:
        m = self.model
        parameters: list[tuple[str, tuple[int, ...]]] = []
        if self.vocabulary_size is not None:
            parameters.append(("embedding.weight", (self.vocabulary_size, self.embedding_size)))
        for layer in range(m.num_layers):
            width = hidden if layer else (self.embedding_size or self.input_size)
            parameters.append((f"recurrent.weight_ih_l{layer}", (m.gates * hidden, width)))
            parameters.append((f"recurrent.weight_hh_l{layer}", (m.gates * hidden, hidden)))
            if m.bias:
                parameters.append((f"recurrent.bias_ih_l{layer}", (m.gates * hidden,)))
                parameters.append((f"recurrent.bias_hh_l{layer}", (m.gates * hidden,)))
        parameters.append(("head.weight", (self.num_outputs, hidden)))
        if m.bias:
            parameters.append(("head.bias", (self.num_outputs,)))
        return parameters


def architecture(model: RecurrentModel, population: Population) -> Architecture:
    """Fit a configured model to the data of a population.

    Raises:
        UserError: if ``model.embedding_size`` is set and the inputs are not tokens, if ``model.parameters`` are too
            few for one unit, or if the model is larger than any machine's memory.
    """
    if model.embedding_size is not None and population.vocabulary_size is None:
        raise UserError(
            f"model.embedding_size={model.embedding_size}: has no effect, because the inputs are numbers, not tokens; "
            "leave it null"
        )
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
    if (count := arch.layout.num_parameters) > _MOST_PARAMETERS:
        sized = "hidden_size" if model.parameters is None else "parameters"
        raise UserError(
            f"model.{sized}={getattr(model, sized)}: makes a model of {count:,} parameters, more than any machine holds"
        )
    return arch


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
        draws = initial.draw(model.initialisation, name, tuple(view.shape), hidden, model.forget, rng)
        view.copy_(torch.from_numpy(np.asarray(draws)))
    return row
