"""Multiply-accumulates of the recurrent models: what one forward pass over a sequence costs.

Counted are the products of matrices, as is usual. A recurrent layer of H units with G gates (1 for an RNN, 3 for a GRU
or CIFG, 4 for an LSTM) on inputs of width D multiplies ``[G H, D]`` with the input and ``[G H, H]`` with the state,
which makes ``G H (D + H)`` per time step, whichever way the reset gate of a GRU acts. D is the width of the embedding
or the number of features in the first layer, and H in those above it. With ``model.recurrent_projection`` the state has
P numbers instead of H, and ``[P, H]`` makes it. A bidirectional layer is two layers, on inputs as wide as the two below
it. Looking up an embedding multiplies nothing. The head is ``[O, F]`` for O outputs, where F is the width of the state,
or that of ``model.head_projection``, whose dense layer is ``[F, H]``; whether its weights are those of the embedding
makes no difference. Attention is ``2 H`` per step: a score, and the weighted sum. Biases, gates and nonlinearities,
some ``10 H`` operations per layer and step, are left out.
"""

from __future__ import annotations

from fedsim.data.dataset import Task
from fedsim.models.recurrent import Architecture


def macs_per_step(arch: Architecture) -> int:
    """Multiply-accumulates of every time step: layers, attention, and the head if there is an output at every step."""
    m, hidden, state = arch.model, arch.hidden_size, arch.state_size
    widths = [arch.embedding_size or arch.input_size] + [state] * (m.num_layers - 1)
    own = state // len(arch.directions)
    down = own * hidden if m.projection is not None else 0
    recurrent = len(arch.directions) * sum(m.gates * hidden * (width + own) + down for width in widths)
    if m.pooling == "attention":
        recurrent += 2 * state
    return recurrent + (_head(arch) if arch.task is Task.SEQUENCE_LABELLING else 0)


def macs_per_sequence(arch: Architecture) -> int:
    """Multiply-accumulates that a sequence costs once, however long it is: the head where its last step decides."""
    return 0 if arch.task is Task.SEQUENCE_LABELLING else _head(arch)


def forward_macs(arch: Architecture, steps: int) -> int:
    """Multiply-accumulates of one forward pass over one sequence of `steps` steps."""
    return steps * macs_per_step(arch) + macs_per_sequence(arch)


def _head(arch: Architecture) -> int:
    dense = arch.state_size * arch.head_size if arch.model.head_projection is not None else 0
    return dense + arch.head_size * arch.num_outputs
