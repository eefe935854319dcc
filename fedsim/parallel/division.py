"""Divide the clients of a round among processes, and combine their results.

All processes hold the same state, because every draw is keyed by seed, round and client; only the work on single
clients is divided. With one process its share is all clients, and nothing here has an effect.
"""

from __future__ import annotations

import copy
import dataclasses
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fedsim.client_store import ClientStore
from fedsim.errors import Diverged, UserError
from fedsim.parallel.processes import ALONE, World

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_COLUMN = "/"
"""What the names of columns begin with where rows of a client store travel beside them."""


@dataclass(frozen=True)
class Division:
    """Which of C clients this process works on.

    Attributes:
        world: the processes.
        own: ``[c]`` int64, positions of this process's clients among the C, ascending; None is all of them.
        back: ``[C]`` int64, position of each client in the concatenated shares of all processes; None as above.
    """

    world: World = ALONE
    own: Tensor | None = None
    back: Tensor | None = None

    def of(self, values: Tensor) -> Tensor:
        """This process's part of `values` ``[C]``."""
        return values if self.own is None else values[self.own]

    def whole(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The columns ``[C, ...]`` of all clients, in order, gathered from each process's ``[c, ...]``.

        A process without clients may pass no columns.
        """
        if self.back is None:
            return dict(columns)
        return self._joined(self.world.gather(columns))

    def _joined(self, found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The columns of all clients, in order, from those of each process."""
        assert self.back is not None
        parts = [part for part in found if part]
        return {
            name: torch.cat([part[name] for part in parts])[self.back.to(parts[0][name].device)]
            for name in (parts[0] if parts else ())
        }

    def first(self, count: int) -> int:
        """How many of the first `count` of the C clients belong to this process."""
        return count if self.own is None else int((self.own < count).sum())

    def whole_first(self, parts: list[Tensor]) -> Tensor:
        """The rows ``[n, P]`` of the first clients, gathered from the processes that hold them."""
        if self.own is None:
            return torch.cat(parts)
        rows = {"rows": torch.cat(parts), "places": self.own[: sum(map(len, parts))]} if parts else {}
        found = [part for part in self.world.gather(rows) if part]
        order = torch.argsort(torch.cat([part["places"] for part in found]))
        return torch.cat([part["rows"] for part in found])[order]

    def exhaust(self, values: Iterator[Any]) -> None:
        """Run through `values` for the work that making them does, and discard them."""
        with self.together():
            deque(values, maxlen=0)

    def add_up(self, value: T) -> T:
        """See the function `add_up`."""
        return add_up(self.world, value)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise `Diverged` in all processes if clients of one diverge; code inside must not communicate."""
        if self.back is None:
            yield
            return
        own = None
        try:
            yield
        except Diverged as error:
            own = str(error)
        if reasons := [reason for reason in self.world.exchange(own) if reason is not None]:
            raise Diverged(reasons[0])

    def summed(self, value: T, work: Callable[[], None]) -> T:
        """Do `work`, which adds to `value`, and return the sums over all processes: `together` in the same meeting."""
        if self.back is None:
            work()
            return value
        own = None
        try:
            work()
        except Diverged as error:
            own = str(error)
        sums, diverged = self.add_up((value, int(own is not None)))
        if diverged:
            raise Diverged(next(reason for reason in self.world.exchange(own) if reason is not None))
        return sums

    @contextmanager
    def keeping(self, store: ClientStore, own: Callable[[], Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Copy what this process's clients write to `store` inside to all processes, so that the stores stay equal.

        Args:
            store: of all clients.
            own: returns, at the end, columns ``[c, ...]`` of this process's clients, which travel along.

        Returns:
            the columns ``[C, ...]`` of all clients, in order, which are there after the end.
        """
        columns: dict[str, Tensor] = {}
        if self.back is None:
            yield columns
            columns |= own()
            return
        with store.aside() as written:
            yield columns
        sent = {f"{_COLUMN}{name}": column for name, column in own().items()} | written.state_dict()
        everything = self.world.gather(sent)
        for found in everything:
            store.take({name: part for name, part in found.items() if not name.startswith(_COLUMN)})
        travelled = [{name: part for name, part in one.items() if name.startswith(_COLUMN)} for one in everything]
        columns |= {name.removeprefix(_COLUMN): part for name, part in self._joined(travelled).items()}


def divide(world: World, work: Tensor) -> Division:
    """Divide C clients with `work` ``[C]``: each, longest first, goes to the process with the least work so far."""
    if world.size == 1:
        return Division()
    loads = [(0, rank) for rank in range(world.size)]
    owners = torch.zeros(len(work), dtype=torch.int64)
    amounts = work.tolist()
    for place in torch.argsort(work, descending=True, stable=True).tolist():
        load, rank = heapq.heappop(loads)
        owners[place] = rank
        heapq.heappush(loads, (load + amounts[place], rank))
    gathered = torch.argsort(owners, stable=True)  # the concatenated shares, each in order
    return Division(world, (owners == world.rank).nonzero()[:, 0], torch.argsort(gathered))


def add_up(world: World, value: T) -> T:
    """Sum over all processes the numbers and tensors in a value; tuples, lists and dataclasses may be nested.

    Raises:
        UserError: if the value holds anything else.
    """
    if world.size == 1:
        return value
    # Numbers travel as float64, which holds all whole ones up to 2^53, so that most sums take one meeting.
    leaves = [
        leaf if isinstance(leaf, torch.Tensor) else torch.tensor(leaf, dtype=torch.float64) for leaf in _leaves(value)
    ]
    device = next((leaf.device for leaf in leaves if leaf.dim() > 0), torch.device("cpu"))
    sums: dict[int, Tensor] = {}
    for dtype in (torch.float64, torch.int64):  # whole numbers stay whole, and wrap around modulo 2^64
        places = [at for at, leaf in enumerate(leaves) if leaf.is_floating_point() == dtype.is_floating_point]
        if places:
            flat = [leaves[at].to(device, dtype).reshape(-1) for at in places]
            together = torch.cat(flat)
            world.add_up(together)
            sums |= dict(zip(places, together.split([len(part) for part in flat]), strict=True))
    return _rebuilt(value, iter([sums[at] for at in range(len(leaves))]))  # type: ignore[no-any-return]  # of its type


def _leaves(value: Any) -> Iterator[Tensor | float]:
    if isinstance(value, torch.Tensor | int | float):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name))
    else:
        raise UserError(
            f"aggregator.combine: its sums hold a {type(value).__name__}; with several processes they may hold only "
            "numbers, tensors, and tuples, lists and dataclasses of them"
        )


def _rebuilt(value: Any, parts: Iterator[Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return next(parts).view(value.shape).to(value.dtype)
    if isinstance(value, int | float):
        return type(value)(next(parts))
    if isinstance(value, tuple | list):
        return type(value)(_rebuilt(part, parts) for part in value)
    result = copy.copy(value)
    for field in dataclasses.fields(value):
        object.__setattr__(result, field.name, _rebuilt(getattr(value, field.name), parts))
    return result
