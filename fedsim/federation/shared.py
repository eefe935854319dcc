"""One copy of the clients' data, and of what clients keep, for all processes of a machine.

The first process of each machine loads the data, divides them among the clients and lays the result down in shared
memory; the others map it. Where they cannot, as on a system without such memory, each loads the data itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsim.data.laid_out import population_of, record_of
from fedsim.data.source import load_dataset
from fedsim.metrics import Column
from fedsim.parallel.shared_memory import SharedMemory

if TYPE_CHECKING:
    from fedsim.data.population import Population
    from fedsim.parallel.processes import World
    from fedsim.parallel.shared_memory import Place


@dataclass(frozen=True)
class Laid:
    """Where the processes of a machine find the data, and keep what clients keep.

    Attributes:
        memory: of the data.
        place: of their record in it.
        rows: of what clients keep, empty at first.
    """

    memory: SharedMemory
    place: Place
    rows: SharedMemory


@dataclass(frozen=True)
class Held:
    """The clients with their samples, before a device holds these, and the columns of ``metrics.csv``.

    Attributes:
        population: the clients.
        columns: in order.
        laid: where they lie, if processes share them.
    """

    population: Population
    columns: tuple[Column, ...]
    laid: Laid | None = None


def share(held: Held, here: World) -> Held:
    """Lay the population down for the other processes of this machine, and drop the data it came from.

    Args:
        held: what this process has loaded; the caller must drop it, too.
        here: the processes, of which this is the first of its machine.

    Returns:
        The same numbers elsewhere, or `held` itself where there are no others or where it cannot be done.
    """
    if here.local_size == 1 or here.local_rank > 0:
        return held
    memory, rows = SharedMemory.make(), SharedMemory.make()
    if memory is None or rows is None:
        return held
    try:
        record = record_of(held.population, memory.lay)
        place = memory.lay_text({"population": record, "columns": held.columns})
        found = _read(Laid(memory, place, rows), [record["score"][1]] if record["score"] else [])
    except (OSError, ValueError):
        return held
    load_dataset.cache_clear()
    return found


def publish(here: World, laid: Laid | None) -> None:
    """Tell the other processes of this machine where the data lie; None: each has to load its own."""
    if here.local_size > 1:
        here.offer(None if laid is None else [laid.memory.offer(), laid.place, laid.rows.offer()])


def receive(here: World, allowed: Sequence[str] = ()) -> Held | None:
    """Return the data that the first process of this machine published; None if this one has to load its own.

    Args:
        here: the processes; this is another than the first.
        allowed: modules besides fedsim that the settings may name.
    """
    offered = here.offered()
    if offered is None:
        return None
    memory, rows = SharedMemory.open(offered[0]), SharedMemory.open(offered[2])
    if memory is None or rows is None:
        return None
    try:
        return _read(Laid(memory, offered[1], rows), allowed)
    except (OSError, ValueError):
        return None


def _read(laid: Laid, allowed: Sequence[str]) -> Held:
    record = laid.memory.text_at(laid.place)
    columns = tuple(Column(*column) for column in record["columns"])
    return Held(population_of(record["population"], laid.memory.at, allowed), columns, laid)
