"""How often each client has taken part, which is kept in the client store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.core.state import State

if TYPE_CHECKING:
    from torch import Tensor

PARTICIPATIONS = "privacy.rounds"
"""The block of the client store that counts the rounds in which each client has sent something."""


def count(clients: Tensor, state: State) -> None:
    """Count one more participation of clients ``[c]``, each of whom is there once."""
    before = state.store.read(PARTICIPATIONS, clients, _none(state, clients))
    state.store.write(PARTICIPATIONS, clients, before + 1)


def participations(state: State) -> Tensor:
    """Return the rounds in which each client has sent something, ``[N]`` int64 on the CPU."""
    clients = torch.arange(state.store.num_clients)
    return state.store.read(PARTICIPATIONS, clients, _none(state, clients))[:, 0].long().cpu()


def _none(state: State, clients: Tensor) -> Tensor:
    return state.row.new_zeros((len(clients), 1), dtype=torch.float64)
