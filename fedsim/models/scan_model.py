"""The models with their loop over time as a `scan`, so that `torch.export` keeps it a loop.

A plain ``nn.GRU`` would be unrolled into as many steps as the example has, and the program would take sequences of that
one length only.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedsim.data.dataset import Task
from fedsim.errors import UserError
from fedsim.models.recurrent import Architecture, DropoutMask
from fedsim.models.reference import ReferenceModel, backwards, load_row, pooled

if TYPE_CHECKING:
    pass

Carry = tuple[Tensor, ...]


class ScanModel(ReferenceModel):
    """The reference model with its layers run by `scan`; with the same parameters it gives the same outputs."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        self.cell = arch.model.cell

    def features(self, inputs: Tensor, lengths: Tensor, dropout: DropoutMask | None = None) -> Tensor:
        """Return what the head gets, ``[b, F]`` or ``[b, T, F]``; there is no dropout."""
        x = inputs if self.embedding is None else self.embedding(inputs)
        layer: Any  # to mypy, whatever a module holds is a tensor or a module
        for layer in self.layers:
            if self.bidirectional:
                back = backwards(self._scan(layer.back, backwards(x, lengths)), lengths)
                x = torch.cat([self._scan(layer.ahead, x), back], 2)
            else:
                x = self._scan(layer, x)
        if self.task is not Task.SEQUENCE_LABELLING:
            x = pooled(self.pooling, x, lengths, self.query, self.bidirectional)
        result: Tensor = self.dense(x)
        return result

    def _scan(self, layer: Any, x: Tensor) -> Tensor:
        """Run a layer over the steps of ``[b, T, D]``; returns its states ``[b, T, S]``."""
        from torch._higher_order_ops.scan import scan  # a prototype in PyTorch: the only loop that export keeps

        gates = linear(x, layer.weight_ih_l0, getattr(layer, "bias_ih_l0", None)).transpose(0, 1)
        states: Carry = (x.new_zeros(x.shape[0], layer.weight_hh_l0.shape[1]),)
        if self.cell in ("lstm", "cifg"):
            states += (x.new_zeros(x.shape[0], layer.hidden_size),)

        def step(state: Carry, arriving: Tensor) -> tuple[Carry, Tensor]:
            state = _step(self.cell, layer, state, arriving)
            return state, state[0].clone()  # the carried state and the output must not share memory

        _, outputs = scan(step, states, gates)
        result: Tensor = outputs.transpose(0, 1)
        return result


def _step(cell: str, layer: Any, state: Carry, x: Tensor) -> Carry:
    """One time step: the next state, given the gates' inputs ``[b, G]``; equations and names as in ``torch.nn``."""
    h, weight, bias = state[0], layer.weight_hh_l0, getattr(layer, "bias_hh_l0", None)
    if cell in ("rnn_tanh", "rnn_relu"):
        total = x + linear(h, weight, bias)
        return (torch.tanh(total) if cell == "rnn_tanh" else torch.relu(total),)
    if cell == "lstm":
        i, f, g, o = (x + linear(h, weight, bias)).chunk(4, dim=1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h if (down := getattr(layer, "weight_hr_l0", None)) is None else linear(h, down), c
    if cell == "cifg":
        h, c = layer.step(x, *state)
        return h, c
    x_r, x_z, x_n = x.chunk(3, dim=1)
    if cell == "gru":
        h_r, h_z, h_n = linear(h, weight, bias).chunk(3, dim=1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        return ((1 - z) * n + z * h,)
    (u_r, u_z, u_n), (c_r, c_z, c_n) = weight.chunk(3), (None,) * 3 if bias is None else bias.chunk(3)
    r, z = torch.sigmoid(x_r + linear(h, u_r, c_r)), torch.sigmoid(x_z + linear(h, u_z, c_z))
    n = torch.tanh(x_n + linear(r * h, u_n, c_n))
    return ((1 - z) * h + z * n,)


def exported_program(arch: Architecture, row: Tensor, facts: Mapping[str, str] | None = None) -> bytes:
    """The content of a ``.pt2`` file: a program for batches of any size and sequences of any length.

    Args:
        arch: the model.
        row: ``[P]``, its parameters.
        facts: texts to store in the file by name, for the ``extra_files`` of `torch.export.load`.

    Raises:
        UserError: if this PyTorch has no loop that `torch.export` keeps.
    """
    try:
        from torch._higher_order_ops.scan import scan  # noqa: F401  # only whether it is there
    except ImportError:
        raise UserError(f"--to exported: PyTorch {torch.__version__} has no scan operator; install 2.13") from None
    module = ScanModel(arch).to(row.dtype).train(False).requires_grad_(False)
    load_row(module, arch, row)
    inputs = torch.zeros(2, 3, arch.input_size, dtype=row.dtype)
    if arch.vocabulary_size is not None:
        inputs = torch.zeros(2, 3, dtype=torch.int64)
    size, steps = torch.export.Dim("batch"), torch.export.Dim("time")
    program = torch.export.export(
        module, (inputs, torch.tensor([3, 2])), dynamic_shapes=({0: size, 1: steps}, {0: size})
    )
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=dict(facts or {}))
    return content.getvalue()
