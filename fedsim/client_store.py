"""What is kept per client between rounds: named blocks of rows, only for clients that have taken part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from fedsim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class ClientStore:
    """Rows by client number, in blocks such as ``optimizer.momentum`` or a control variate.

    Each block is one matrix that grows by doubling; a client's row is found through a slot table, so memory follows
    the number of clients seen and not the size of the population. After `share`, the processes of a machine have the
    rows in common that they write `aside` and then `take`.
    """

    def __init__(self, num_clients: int) -> None:
        self.num_clients = num_clients
        self._slots: dict[str, Tensor] = {}  # [N] int64 on the CPU, -1 where a client has no row
        self._rows: dict[str, Tensor] = {}  # [capacity, width]
        self._used: dict[str, int] = {}
        self._aside: ClientStore | None = None
        self._room: Callable[[tuple[int, int], torch.dtype], Tensor | None] | None = None
        self._common: set[str] = set()  # blocks whose rows lie in memory of several processes
        self._own: set[str] = set()  # blocks whose rows each process keeps for itself

    def read(self, block: str, clients: Tensor, default: Tensor) -> Tensor:
        """Return the rows ``[C, width]`` of `clients`, taking those of `default` ``[C, width]`` for new clients.

        Raises:
            UserError: if the rows have another width or type, as a checkpoint from elsewhere may have.
        """
        result = default
        if block in self._rows:
            self.check(block, default)
            slots = self._slots[block][clients]
            known = slots >= 0
            result = default.clone()
            result[known] = self._rows[block][slots[known]]
        return result if self._aside is None else self._aside.read(block, clients, result)

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
        if self._aside is not None:
            self._aside.write(block, clients, rows)
            return
        if block in self._common:  # another process may not have come to this line yet
            self._rows[block] = self._rows[block][: self._used[block]].clone()
            self._common.remove(block)
        if self._room is not None:
            self._own.add(block)
        self._put(block, clients, rows)

    def _put(self, block: str, clients: Tensor, rows: Tensor) -> None:
        if block not in self._slots:
            self._slots[block] = torch.full((self.num_clients,), -1, dtype=torch.int64)
            self._used[block] = 0
        if block not in self._rows:
            self._rows[block] = rows.new_zeros((len(rows), rows.shape[1]))
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

    @contextmanager
    def aside(self) -> Iterator[ClientStore]:
        """Write to the yielded store, from where `read` takes it too, and leave the rows of this one as they are."""
        self._aside = ClientStore(self.num_clients)
        try:
            yield self._aside
        finally:
            self._aside = None

    def share(self, room: Callable[[tuple[int, int], torch.dtype], Tensor | None]) -> None:
        """Have the rows that all processes `take` in common with the others of this machine.

        They all write the same bytes to the same places, and none writes others before all have. What each of them
        writes by itself, outside `aside`, is its own again.

        Args:
            room: returns zeros of a shape and type that all of these processes see, or None if there is no room;
                calls after one another return different ones, the same in every process.
        """
        self._room = room
        for block in sorted(self._rows):
            self._place(block, self._rows[block])

    def take(self, written: Mapping[str, Tensor]) -> None:
        """Store what a process has written aside, its `state_dict`: the same calls are made in all processes."""
        for block, clients, rows in _blocks(written):
            if block not in self._rows:
                self._place(block, rows)
            self._put(block, clients, rows)

    def _place(self, block: str, like: Tensor) -> None:
        """Let the rows of a block lie in memory in common, if there is room; those that it has are copied."""
        if self._room is None or block in self._own or like.device.type != "cpu":
            return
        room = self._room((self.num_clients, like.shape[1]), like.dtype)
        if room is None:
            self._own.add(block)
            return
        if block in self._rows:
            room[: self._used[block]] = self._rows[block][: self._used[block]]
        self._rows[block] = room
        self._common.add(block)

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
        for block, clients, rows in _blocks(state):
            self.write(block, clients, rows)


def _blocks(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    for name, clients in state.items():
        block, kind = name.rsplit("/", 1)
        if kind == "clients":
            yield block, clients, state[f"{block}/rows"]
