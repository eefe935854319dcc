"""The model as a user would write it: one embedding, one `torch.nn` recurrent module, one linear head.

Its ``state_dict`` has the names of `fedsim.models.parameters.ParameterLayout`; `plain_parameters` gives the values that
make it a given model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fedsim.data.dataset import Task
from fedsim.errors import UserError
from fedsim.models.recurrent import Architecture
from fedsim.models.reference import lstm, pooled

if TYPE_CHECKING:
    from torch import Tensor


class PlainModel(nn.Module):
    """Embedding where the inputs are tokens, ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` of all layers, and ``nn.Linear``.

    A CIFG is an ``nn.LSTM`` here.

    Raises:
        UserError: for ``gru_reset_before``, for which PyTorch has no module.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        m, tokens = arch.model, arch.vocabulary_size
        if m.cell == "gru_reset_before":
            raise UserError("model=gru_reset_before: torch.nn has no such module")
        width = arch.embedding_size or arch.input_size
        self.task, self.both = arch.task, m.bidirectional
        self.embedding = None if tokens is None else nn.Embedding(tokens, arch.embedding_size)
        self.recurrent: nn.Module
        if m.cell in ("rnn_tanh", "rnn_relu"):
            self.recurrent = nn.RNN(
                *(width, arch.hidden_size, m.num_layers, m.cell[4:], m.bias), batch_first=True, bidirectional=self.both
            )
        elif m.cell in ("lstm", "cifg"):
            self.recurrent = lstm(width, arch.hidden_size, m.num_layers, m.bias, m.projection, self.both)
        else:
            self.recurrent = nn.GRU(
                *(width, arch.hidden_size, m.num_layers, m.bias), batch_first=True, bidirectional=self.both
            )
        self.how = m.pooling
        self.pooling = nn.Linear(arch.state_size, 1, bias=False) if m.pooling == "attention" else None
        dense, self.activation = m.head_projection, m.head_activation
        self.projection = None if dense is None else nn.Linear(arch.state_size, dense, bias=m.bias)
        self.head = nn.Linear(arch.head_size, arch.num_outputs, bias=m.bias)
        if self.embedding is not None and m.tied_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Return outputs ``[b, K]``, or ``[b, T, K]`` for a target at every step.

        Args:
            inputs: ``[b, T, D]`` float, or ``[b, T]`` tokens.
            lengths: ``[b]`` valid steps.
        """
        x = inputs if self.embedding is None else self.embedding(inputs)
        if self.both:  # what reads backwards must begin at each sequence's own end
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            x, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1])
        else:
            x, _ = self.recurrent(x)
        if self.task is not Task.SEQUENCE_LABELLING:
            x = pooled(self.how, x, lengths, self.pooling, self.both)
        if self.projection is not None:
            x = self.projection(x)
            x = torch.tanh(x) if self.activation == "tanh" else x
        outputs: Tensor = self.head(x)
        return outputs


def plain_parameters(arch: Architecture, row: Tensor) -> dict[str, Tensor]:
    """The ``state_dict`` with which a `PlainModel` is the model of a row ``[P]``.

    The gates f, g, o of a CIFG become the i, f, g, o of an LSTM: as ``1 - sigmoid(a) = sigmoid(-a)``, its input gate
    has the weights and biases of the forget gate with the other sign. With ``model.gate_biases=1`` the second biases of
    ``torch.nn`` are zeros. With ``model.tied_embeddings`` there is no ``head.weight``: it is that of the embedding.
    """
    parameters = {}
    for name, view in arch.layout.views(row).items():
        if arch.model.cell == "cifg" and name.startswith("recurrent.") and "weight_hr" not in name:
            view = torch.cat([-view[: arch.hidden_size], view])
        parameters[name] = view.contiguous()
        if "bias_ih" in name and arch.model.gate_biases == 1:
            parameters[name.replace("bias_ih", "bias_hh")] = torch.zeros_like(parameters[name])
    return parameters
