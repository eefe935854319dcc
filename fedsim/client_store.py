"""What is kept per client between rounds: named blocks of rows, only for clients that have taken part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from fedsim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class ClientStore:
    """Rows by client number, in blocks such as ``optimizer.momentum`` or a control variate.

    Each block is one matrix that grows by doubling; a client's row is found through a slot table, so memory follows
    the number of clients seen and not the size of the population.
    """

    def __init__(self, num_clients: int) -> None:
        self.num_clients = num_clients
        self._slots: dict[str, Tensor] = {}  # [N] int64 on the CPU, -1 where a client has no row
        self._rows: dict[str, Tensor] = {}  # [capacity, width]
        self._used: dict[str, int] = {}
        self._notes: dict[str, list[Tensor]] | None = None  # whose rows are written, while `noting`

    def read(self, block: str, clients: Tensor, default: Tensor) -> Tensor:
        """Return the rows ``[C, width]`` of `clients`, taking those of `default` ``[C, width]`` for new clients.

        Raises:
            UserError: if the rows have another width or type, as a checkpoint from elsewhere may have.
        """
        if block not in self._rows:
            return default
        self.check(block, default)
        slots = self._slots[block][clients]
        known = slots >= 0
        result = default.clone()
        result[known] = self._rows[block][slots[known]]
        return result

    def check(self, block: str, like: Tensor) -> None:
        """Raise `UserError` if the rows of a block have another width or type than the rows `like` ``[C, width]``."""
        kept = self._rows[block]
        if (kept.shape[1], kept.dtype) != (like.shape[1], like.dtype):
            raise UserError(
                f"the checkpoint keeps {kept.shape[1]} numbers ({kept.dtype}) of {block} for each client, and this run "
                f"needs {like.shape[1]} ({like.dtype}); fedsim run starts a new run"
            )

    def write(self, block: str, clients: Tensor, rows: Tensor) -> None:
        """Store the rows ``[C, width]`` of `clients` ``[C]``."""
        if block not in self._rows:
            self._slots[block] = torch.full((self.num_clients,), -1, dtype=torch.int64)
            self._rows[block] = rows.new_zeros((len(rows), rows.shape[1]))
            self._used[block] = 0
        if self._notes is not None:
            self._notes.setdefault(block, []).append(clients)
        slots = self._slots[block]
        new = clients[slots[clients] < 0]
        slots[new] = torch.arange(self._used[block], self._used[block] + len(new))
        self._used[block] += len(new)
        if self._used[block] > len(self._rows[block]):
            capacity = min(self.num_clients, max(self._used[block], 2 * len(self._rows[block])))
            grown = rows.new_zeros((capacity, rows.shape[1]))
            grown[: len(self._rows[block])] = self._rows[block]
            self._rows[block] = grown
        self._rows[block][slots[clients]] = rows

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of the blocks that have rows."""
        return tuple(self._rows)

    def rows(self, block: str, clients: Tensor) -> Tensor:
        """The rows ``[C, width]`` of `clients`, all of which have one."""
        return self._rows[block][self._slots[block][clients]]

    @contextmanager
    def noting(self) -> Iterator[dict[str, list[Tensor]]]:
        """Record the clients ``[C]`` of every `write`, by block, in the yielded dictionary."""
        notes: dict[str, list[Tensor]] = {}
        self._notes = notes
        try:
            yield notes
        finally:
            self._notes = None

    def state_dict(self) -> dict[str, Tensor]:
        """All blocks as tensors: ``<block>/clients`` (int64, by slot) and ``<block>/rows``."""
        state = {}
        for block, slots in self._slots.items():
            clients = (slots >= 0).nonzero()[:, 0]
            clients = clients[torch.argsort(slots[clients])]
            state[f"{block}/clients"] = clients
            state[f"{block}/rows"] = self._rows[block][: self._used[block]].clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, clients in state.items():
            block, kind = name.rsplit("/", 1)
            if kind == "clients":
                self.write(block, clients, state[f"{block}/rows"])
