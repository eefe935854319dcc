"""The same models as plain `torch.nn` modules, one client at a time: short and obviously right.

``engine=sequential`` trains these. Their ``state_dict`` has the names of `ParameterLayout`, so a row of ``rnn``,
``lstm`` or ``gru`` is also what a user loads into a plain ``torch.nn`` module of the same shape.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from fedsim.data.dataset import Task
from fedsim.models.recurrent import Architecture, DropoutMask

if TYPE_CHECKING:
    from torch import Tensor


class ResetBeforeLayer(nn.Module):
    """One layer of the GRU of Cho 2014 in plain torch; parameters named and shaped like those of `torch.nn.GRU`."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        super().__init__()
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size)) if bias else None
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size)) if bias else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[b, T, D]`` to the states ``[b, T, H]`` and the last of them."""
        u_r, u_z, u_n = self.weight_hh_l0.chunk(3)
        c_r, c_z, c_n = (None,) * 3 if self.bias_hh_l0 is None else self.bias_hh_l0.chunk(3)
        h = x.new_zeros(x.shape[0], self.weight_hh_l0.shape[1])
        outputs = []
        for step in nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0).unbind(1):
            x_r, x_z, x_n = step.chunk(3, dim=1)
            r = torch.sigmoid(x_r + nn.functional.linear(h, u_r, c_r))
            z = torch.sigmoid(x_z + nn.functional.linear(h, u_z, c_z))
            n = torch.tanh(x_n + nn.functional.linear(r * h, u_n, c_n))
            h = (1 - z) * h + z * n
            outputs.append(h)
        return torch.stack(outputs, 1), h


class CoupledLayer(nn.Module):
    """One layer of `fedsim.models.recurrent.CIFG` in plain torch; gates f, g, o, names as in `torch.nn.LSTM`."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, projection: int | None = None) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, projection or hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size)) if bias else None
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size)) if bias else None

        self.weight_hr_l0 = None if projection is None else nn.Parameter(torch.empty(projection, hidden_size))

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: the next h and c, given the gates' inputs ``W x + b`` ``[b, 3 H]``."""
        f, g, o = (x + nn.functional.linear(h, self.weight_hh_l0, self.bias_hh_l0)).chunk(3, dim=1)
        f = torch.sigmoid(f)
        c = f * c + (1 - f) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h if self.weight_hr_l0 is None else nn.functional.linear(h, self.weight_hr_l0), c

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[b, T, D]`` to the states ``[b, T, S]`` and the last of them."""
        h = x.new_zeros(x.shape[0], self.weight_hh_l0.shape[1])
        c = x.new_zeros(x.shape[0], self.hidden_size)
        outputs = []
        for step in nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0).unbind(1):
            h, c = self.step(step, h, c)
            outputs.append(h)
        return torch.stack(outputs, 1), h


def lstm(
    inputs: int, hidden: int, layers: int, bias: bool, projection: int | None, bidirectional: bool = False
) -> nn.LSTM:
    """An ``nn.LSTM`` for batches that come first; with a projection it says nothing of the library that has none."""
    if projection is not None:
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
    sizes = (inputs, hidden, layers, bias)
    return nn.LSTM(*sizes, batch_first=True, bidirectional=bidirectional, proj_size=projection or 0)


def _one_layer(arch: Architecture, layer: int) -> nn.Module:
    m = arch.model
    width = arch.state_size if layer else (arch.embedding_size or arch.input_size)
    if m.cell == "cifg":
        return CoupledLayer(width, arch.hidden_size, m.bias, m.projection)
    if m.cell == "gru_reset_before":
        return ResetBeforeLayer(width, arch.hidden_size, m.bias)
    if m.cell in ("rnn_tanh", "rnn_relu"):
        return nn.RNN(width, arch.hidden_size, nonlinearity=m.cell[4:], bias=m.bias, batch_first=True)
    if m.cell == "lstm":
        return lstm(width, arch.hidden_size, 1, m.bias, m.projection)
    return nn.GRU(width, arch.hidden_size, bias=m.bias, batch_first=True)


class BothDirections(nn.Module):
    """A layer that reads forwards and one that reads backwards; its states are theirs, one after the other."""

    def __init__(self, ahead: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.ahead, self.back = ahead, back

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """Map ``[b, T, D]`` to ``[b, T, S]``."""
        return torch.cat([self.ahead(x)[0], backwards(self.back(backwards(x, lengths))[0], lengths)], 2), None


def backwards(x: Tensor, lengths: Tensor) -> Tensor:
    """The valid steps of each sequence of ``[b, T, D]`` in reverse, and those beyond as they are."""
    step = torch.arange(x.shape[1], device=x.device)
    place = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))


def pooled(pooling: str, x: Tensor, lengths: Tensor, query: nn.Module | None, both: bool) -> Tensor:
    """One vector ``[b, S]`` of the states ``[b, T, S]`` of each sequence, as ``model.pooling`` says.

    Args:
        pooling: ``last``, ``mean``, ``max`` or ``attention``.
        x: the states.
        lengths: ``[b]`` valid steps.
        query: maps states to scores ``[b, T, 1]``, only for attention.
        both: whether the second half of each state is that of a layer that reads backwards and ends at the first step.
    """
    if pooling == "last":
        last = x[torch.arange(x.shape[0], device=x.device), lengths - 1]
        half = x.shape[2] // 2
        return torch.cat([last[:, :half], x[:, 0, half:]], 1) if both else last
    valid = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
    if pooling == "mean":
        return x.masked_fill(~valid, 0).sum(1) / lengths[:, None]
    if pooling == "max":
        return x.masked_fill(~valid, -torch.inf).amax(1)
    assert query is not None
    result: Tensor = (query(x).masked_fill(~valid, -torch.inf).softmax(1) * x).sum(1)
    return result


def dense_layers(arch: Architecture) -> tuple[nn.Sequential, nn.Linear]:
    """What follows the recurrent layers: the dense layer with its activation, empty if there is none, and the head."""
    dense = nn.Sequential()
    if arch.model.head_projection is not None:
        dense.append(nn.Linear(arch.state_size, arch.model.head_projection, bias=arch.model.bias))
        if arch.model.head_activation == "tanh":
            dense.append(nn.Tanh())
    return dense, nn.Linear(arch.head_size, arch.num_outputs, bias=arch.model.bias)


def one_bias(module: nn.Module) -> None:
    """Set the second bias of every gate of a recurrent module to zero, for good."""
    for name, parameter in module.named_parameters():
        if "bias_hh" in name:
            nn.init.zeros_(parameter.requires_grad_(False))


class ReferenceModel(nn.Module):
    """Embedding, one-layer recurrent modules with explicit dropout masks between them, dense layers at the end.

    ``nn.GRU(dropout=)`` draws from the global random generator; masks made outside keep the draws keyed.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.task = arch.task
        self.embedding = (
            nn.Embedding(arch.vocabulary_size, arch.embedding_size) if arch.vocabulary_size is not None else None
        )
        numbers = range(arch.model.num_layers)
        self.bidirectional = arch.model.bidirectional
        if self.bidirectional:
            pairs = (BothDirections(_one_layer(arch, layer), _one_layer(arch, layer)) for layer in numbers)
            self.layers = nn.ModuleList(pairs)
        else:
            self.layers = nn.ModuleList(_one_layer(arch, layer) for layer in numbers)
        if arch.model.gate_biases == 1:
            for layer in self.layers:
                one_bias(layer)
        self.pooling = arch.model.pooling
        self.query = nn.Linear(arch.state_size, 1, bias=False) if self.pooling == "attention" else None
        self.dense, self.head = dense_layers(arch)
        if arch.model.tied_embeddings:
            assert self.embedding is not None
            self.head.weight = self.embedding.weight
        self.to_layout = {name: self._module_name(name) for name in arch.layout.names}

    def _module_name(self, name: str) -> str:
        """``recurrent.weight_ih_l1`` is ``layers.1.weight_ih_l0`` here, ``projection.bias`` is ``dense.0.bias``."""
        if not name.startswith("recurrent."):
            return name.replace("projection.", "dense.0.").replace("pooling.", "query.")
        kind, layer = name.removeprefix("recurrent.").removesuffix("_reverse").rsplit("_l", 1)
        if self.bidirectional:
            layer += ".back" if name.endswith("_reverse") else ".ahead"
        return f"layers.{layer}.{kind}_l0"

    def parameters_in_order(self) -> list[nn.Parameter]:
        """The parameters in the order of the layout."""
        named = dict(self.named_parameters())
        return [named[module_name] for module_name in self.to_layout.values()]

    def forward(self, inputs: Tensor, lengths: Tensor, dropout: DropoutMask | None = None) -> Tensor:
        """Return outputs ``[b, K]``, or ``[b, T, K]`` for a target at every step; arguments as for `features`."""
        outputs: Tensor = self.head(self.features(inputs, lengths, dropout))
        return outputs

    def features(self, inputs: Tensor, lengths: Tensor, dropout: DropoutMask | None = None) -> Tensor:
        """Return what the head gets, ``[b, F]``, or ``[b, T, F]`` for a target at every step.

        Args:
            inputs: ``[b, T, D]`` float, or ``[b, T]`` tokens.
            lengths: ``[b]`` valid steps; states beyond them are computed and never used.
            dropout: masks between layers, ``mask(layer, T, b) -> [1, T, b, H]``.
        """
        x = inputs if self.embedding is None else self.embedding(inputs)
        for number, layer in enumerate(self.layers):
            x, _ = layer(x, lengths) if self.bidirectional else layer(x)
            if dropout is not None and number + 1 < len(self.layers):
                x = x * dropout(number, x.shape[1], x.shape[0])[0].transpose(0, 1)
        if self.task is not Task.SEQUENCE_LABELLING:
            x = pooled(self.pooling, x, lengths, self.query, self.bidirectional)
        result: Tensor = self.dense(x)
        return result


def load_row(module: ReferenceModel, arch: Architecture, row: Tensor) -> None:
    """Copy a row ``[P]`` into the module's parameters."""
    with torch.no_grad():
        for parameter, view in zip(module.parameters_in_order(), arch.layout.views(row).values(), strict=True):
            parameter.copy_(view)


def read_row(module: ReferenceModel) -> Tensor:
    """Return the module's parameters as a row ``[P]``."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters_in_order()])
