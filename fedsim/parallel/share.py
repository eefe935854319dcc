"""The clients of a round divided among processes, and what these have done put together again.

All processes hold the same state, because every draw is keyed by seed, round and client. Only the work on single
clients is divided. With one process a share is everything, and nothing here does anything.
"""

from __future__ import annotations

import copy
import dataclasses
import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedsim.client_store import ClientStore
from fedsim.errors import Diverged, UserError
from fedsim.parallel.processes import ALONE, World

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Which of C clients this process works on.

    Attributes:
        world: the processes.
        own: ``[c]`` int64, places of this process's clients among the C, ascending; None is all of them.
        back: ``[C]`` int64, where each client is found once the shares stand one after another; None as above.
    """

    world: World = ALONE
    own: Tensor | None = None
    back: Tensor | None = None

    def of(self, values: Tensor) -> Tensor:
        """This process's part of `values` ``[C]``."""
        return values if self.own is None else values[self.own]

    def whole(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The columns ``[C, ...]`` of all clients, in order, out of each process's own ``[c, ...]``.

        A process without clients may leave all columns out.
        """
        if self.back is None:
            return dict(columns)
        parts = [part for part in self.world.gather(columns) if part]
        return {
            name: torch.cat([part[name] for part in parts])[self.back.to(parts[0][name].device)]
            for name in (parts[0] if parts else ())
        }

    def first(self, count: int) -> int:
        """How many of the first `count` of the C clients are this process's."""
        return count if self.own is None else int((self.own < count).sum())

    def whole_first(self, parts: list[Tensor]) -> Tensor:
        """The rows ``[n, P]`` of the first clients, out of those that each process has of them."""
        if self.own is None:
            return torch.cat(parts)
        rows = {"rows": torch.cat(parts), "places": self.own[: sum(map(len, parts))]} if parts else {}
        found = [part for part in self.world.gather(rows) if part]
        order = torch.argsort(torch.cat([part["places"] for part in found]))
        return torch.cat([part["rows"] for part in found])[order]

    def exhaust(self, values: Iterator[Any]) -> None:
        """Have done whatever making the values does, and let go of them."""
        with self.together():
            deque(values, maxlen=0)

    def add_up(self, value: T) -> T:
        """See `add_up`."""
        return add_up(self.world, value)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where the clients of one process diverge, all processes raise `Diverged`; nothing inside may exchange."""
        if self.back is None:
            yield
            return
        told = None
        try:
            yield
        except Diverged as error:
            told = str(error)
        if reasons := [reason for reason in self.world.tell(told) if reason is not None]:
            raise Diverged(reasons[0])

    @contextmanager
    def keeping(self, store: ClientStore) -> Iterator[None]:
        """What the clients of a process keep inside, all processes keep: their stores stay the same."""
        if self.back is None:
            yield
            return
        with store.noting() as notes:
            yield
        written: dict[str, Tensor] = {}
        for block, parts in notes.items():
            clients = torch.cat(parts).unique()
            written |= {f"{block}/clients": clients, f"{block}/rows": store.rows(block, clients)}
        for rank, found in enumerate(self.world.gather(written)):
            if rank != self.world.rank:
                store.load_state_dict(found)


def divide(world: World, work: Tensor) -> Share:
    """Share C clients with `work` ``[C]``: each, the longest first, goes to the process that has the least to do."""
    if world.size == 1:
        return Share()
    loads = [(0, rank) for rank in range(world.size)]
    owners = torch.zeros(len(work), dtype=torch.int64)
    amounts = work.tolist()
    for place in torch.argsort(work, descending=True, stable=True).tolist():
        load, rank = heapq.heappop(loads)
        owners[place] = rank
        heapq.heappush(loads, (load + amounts[place], rank))
    gathered = torch.argsort(owners, stable=True)  # the shares one after another, each in order
    return Share(world, (owners == world.rank).nonzero()[:, 0], torch.argsort(gathered))


def add_up(world: World, value: T) -> T:
    """Add up, over all processes, the numbers and tensors in a value: a tuple, list or dataclass of them, nested.

    Raises:
        UserError: if there is something else in it.
    """
    if world.size == 1:
        return value
    leaves = [
        torch.as_tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else None) for leaf in _leaves(value)
    ]
    device = next((leaf.device for leaf in leaves if leaf.dim() > 0), torch.device("cpu"))
    sums: dict[int, Tensor] = {}
    for dtype in (torch.float64, torch.int64):  # whole numbers stay whole, and wrap around as those of a ring do
        places = [at for at, leaf in enumerate(leaves) if leaf.is_floating_point() == dtype.is_floating_point]
        if places:
            flat = [leaves[at].to(device, dtype).reshape(-1) for at in places]
            together = torch.cat(flat)
            world.add_up(together)
            sums |= dict(zip(places, together.split([len(part) for part in flat]), strict=True))
    return _rebuilt(value, iter([sums[at] for at in range(len(leaves))]))  # type: ignore[no-any-return]  # of its type


def _leaves(value: Any) -> Iterator[Tensor | float]:
    if isinstance(value, Tensor | int | float):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name))
    else:
        raise UserError(
            f"aggregator.combine: what it adds up holds a {type(value).__name__}; for several processes it must be "
            "made of sums: numbers, tensors, and tuples, lists and dataclasses of them"
        )


def _rebuilt(value: Any, parts: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return next(parts).view(value.shape).to(value.dtype)
    if isinstance(value, int | float):
        return type(value)(next(parts))
    if isinstance(value, tuple | list):
        return type(value)(_rebuilt(part, parts) for part in value)
    result = copy.copy(value)
    for field in dataclasses.fields(value):
        object.__setattr__(result, field.name, _rebuilt(getattr(value, field.name), parts))
    return result
